"""The shape tracking model in the tools and hooks that ask what a network looks at and how often it fires."""

from pathlib import Path

import pytest
import torch

from sterf_plugins.activity import count_operations
from sterf_plugins.erf import ERFResult, FieldCheck
from sterf_plugins.firing import FiringRates

Config = pytest.importorskip("mmengine").Config
ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "covariant" / "tracking" / "track_lif-rf_events48.py"


@pytest.fixture
def config(event_videos, tmp_path) -> Path:
    """The shipped config on a small data set, with both hooks."""
    data = f"dict(dataset=dict(data_root={str(event_videos(5))!r}))"
    hooks = [dict(type=f"sterf_plugins.{name}Hook", num_samples=2) for name in ("ERF", "FiringRate")]
    hooks[0]["layers"] = ["tracker.units.0"]
    path = tmp_path / "mine.py"
    path.write_text(
        f"_base_ = {str(CONFIG)!r}\ntrain_dataloader = {data}\nval_dataloader = {data}\ntest_dataloader = {data}\n"
        f"custom_hooks = {hooks}\ntrain_cfg = dict(max_epochs=1, val_interval=1)\n"
    )
    return path


def test_fields_over_frames_and_single_flipped_spikes(config, forked, tmp_path):
    """The inputs are the frames of event videos, of zeros and ones; the model's size is that of its config."""
    options = [
        "--images",
        "val",
        "--num",
        "2",
        "--temporal",
        "--check",
        "flip",
        "--check-cells",
        "3",
        "--vector",
        "none",
    ]
    result = forked(
        ROOT / "tools" / "erf.py", config, "--layers", "tracker.units.*", *options, "--out", tmp_path / "out"
    )
    assert result.returncode == 0, result.stderr[-2000:]
    fields = ERFResult.load(tmp_path / "out" / "mine.npz")
    assert fields.info["input_shape"] == [16, 2, 48, 48]
    assert fields.temporal["tracker.units.1[0]"].shape == (16,)
    check = FieldCheck.load(next((tmp_path / "out").glob("*flip*.npz")))
    assert check.info["by"] == "flip" and check.map("tracker.units.1[0]", "change").any()


@pytest.mark.slow
def test_noise_has_the_time_steps_of_the_configs_videos(forked, tmp_path):
    options = ["--layers", "tracker.units.0", "--num", "2", "--calibrate", "never", "--vector", "none"]
    result = forked(ROOT / "tools" / "erf.py", CONFIG, *options, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr[-2000:]
    assert ERFResult.load(tmp_path / "out" / f"{CONFIG.stem}.npz").info["input_shape"] == [16, 2, 48, 48]


def test_hooks_measure_while_it_trains(config, forked, tmp_path):
    result = forked(ROOT / "tools" / "train.py", config, "--work-dir", tmp_path / "work")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "ERF at 1 (share of pixels with half of the mass): tracker.units.0[0]" in result.stderr + result.stdout
    assert len(list((tmp_path / "work").rglob("firing_rate/1.json"))) == 1


def test_operations_and_rates_are_of_the_frames_alone():
    """Twice as many frames take twice as many products of the stem, which sees no spikes."""
    from mmengine.registry import MODELS

    import sterf_plugins.tracking.openmmlab  # noqa: F401

    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(CONFIG).model).eval()
    frames = (torch.rand(4, 1, 2, 48, 48) < 0.3).float()
    with FiringRates(model) as rates:
        short, long = (count_operations(model, x) for x in (frames, frames.repeat(2, 1, 1, 1, 1)))
    assert long.total.macs == 2 * short.total.macs > 0
    assert 0 < rates.rate < 1
    assert torch.equal(model.extract_feat(frames).coordinates, model.tracker(frames)[0].coordinates)


def test_timing_says_that_there_is_no_backbone(forked):
    result = forked(ROOT / "tools" / "analysis_tools" / "bench.py", CONFIG, "--size", "48", "48")
    assert result.returncode == 2 and "has no backbone, which is what is timed" in result.stderr
