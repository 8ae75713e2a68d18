"""Benchmarks that users may run again, with everything small."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow
def test_tracking(forked, tmp_path):
    pytest.importorskip("dv_processing")
    out = tmp_path / "tracking.json"
    done = forked(BENCHMARKS / "tracking.py", "--tiny", "--repeats", "1", "--threads", "1", "--out", out)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(out.read_text())
    for part in ("images", "aedat4", "forward", "step", "variants", "loader"):
        assert "error" not in results[part], results[part]
        assert all(value > 0 for key, value in results[part].items() if key == "ratio" or "per_second" in key)
    assert max(results["forward"]["differences"].values()) < 1e-4
