"""The figure of covariance, and the numbers in it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "analysis_tools" / "show_covariance.py"


def show(*options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(TOOL), *map(str, options)], capture_output=True, text=True)


@pytest.mark.slow
def test_the_response_moves_with_field_and_image(tmp_path):
    result = show(tmp_path / "figure.png", "--size", 96, "--sigma", 2)
    assert result.returncode == 0, result.stderr
    errors = re.findall(r"transformed: (\S+) +unchanged: (\S+)", result.stdout)
    assert len(errors) == 4
    assert all(float(alike) < 5e-3 and float(unchanged) > 0.1 for alike, unchanged in errors)
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.slow
def test_bad_options(tmp_path):
    result = show(tmp_path / "figure.png", "--ratio", 0.5)
    assert result.returncode == 2
    assert "must be >= 1" in result.stderr
    assert not list(tmp_path.iterdir())
