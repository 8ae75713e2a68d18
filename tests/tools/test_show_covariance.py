"""The figure of covariance, and the numbers in it."""

import re
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "analysis_tools" / "show_covariance.py"


@pytest.mark.slow
def test_the_response_moves_with_field_and_image(forked, tmp_path):
    result = forked(TOOL, tmp_path / "figure.png", "--size", 96, "--sigma", 2, fresh=True)
    assert result.returncode == 0, result.stderr
    errors = re.findall(r"transformed: (\S+) +unchanged: (\S+)", result.stdout)
    assert len(errors) == 4
    assert all(float(alike) < 5e-3 and float(unchanged) > 0.1 for alike, unchanged in errors)
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.slow
def test_bad_options(forked, tmp_path):
    result = forked(TOOL, tmp_path / "figure.png", "--ratio", 0.5)
    assert result.returncode == 2
    assert "must be >= 1" in result.stderr
    assert not list(tmp_path.iterdir())
