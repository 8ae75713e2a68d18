"""The tracking experiment through the real Runner and the real tools, on real event files."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

import sterf_plugins

sterf_plugins.setup()

from mmengine.runner import Runner  # noqa: E402

from sterf_plugins.openmmlab.configs.reading import load_config  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "covariant" / "tracking").glob("*.py"))
SMALL = [p for p in CONFIGS if p.stem.endswith("_events48")]
LARGE = [p for p in CONFIGS if p.stem.endswith("_events300")]


@pytest.fixture(scope="session")
def videos(event_videos) -> Path:
    return event_videos(6)


def trained(path: Path, videos: Path, work_dir: Path, epochs: int = 2, **tracker) -> Runner:
    config = load_config(str(path))
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        loader.dataset.data_root = str(videos)
        loader.batch_size = 4
    config.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    config.default_hooks.checkpoint.interval = epochs
    config.model.tracker.update(tracker)
    config.work_dir = str(work_dir)
    config.experiment_name = f"{work_dir.name}{path.stem}"
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def test_losses_go_by_the_ramp_of_the_readout():
    """Bumps of the target lie where the readout says that they are."""
    from sterf_plugins.tracking.losses import normalised_positions
    from sterf_plugins.tracking.openmmlab import ShapeTrackingModel
    from sterf_plugins.tracking.soft_argmax import gaussian_maps, js_divergence

    model = ShapeTrackingModel((32, 32), dict(ramp="centre"), dict(js_weight=1.0)).eval()
    frames, poses = torch.rand(2, 3, 2, 32, 32), 20 + 5 * torch.rand(2, 3, 3, 2)
    losses, tracks = model(frames, frames, poses, mode="loss"), model(frames, frames, poses)
    targets = normalised_positions(poses.transpose(0, 1), (32, 32))
    bumps = gaussian_maps(targets, tuple(tracks.probabilities.shape[-2:]), 0.06, "centre")
    torch.testing.assert_close(losses["loss_js"], js_divergence(tracks.probabilities, bumps).sum(0).mean())
    for options, message in (
        (dict(rates=1), "`losses` has no option 'rates'"),
        (dict(js_sigma=0), "js_sigma'.. is 0; it"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            ShapeTrackingModel((32, 32), losses=options)


def test_the_metric_has_a_number_of_its_own_for_each_class():
    from sterf_plugins.tracking.openmmlab import PositionError

    for classes, message in ((("ball", "ball"), "`classes` has 'ball' twice"), ("ball", "`classes` is 'ball'")):
        with pytest.raises((TypeError, ValueError), match=message):
            PositionError(classes, prefix="test")
    metric = PositionError(("ball", "box", "star"), prefix="test")
    metric.process(None, [dict(found=torch.zeros(4, 2, 2), poses=torch.ones(4, 2, 2))])
    with pytest.raises(ValueError, match="`classes` names 3, ball, box, star, and the data set has 2"):
        metric.compute_metrics(metric.results)


@pytest.mark.parametrize("path", SMALL, ids=lambda p: p.stem)
@pytest.mark.slow
@pytest.mark.sweep
def test_every_small_config_trains_validates_and_draws(path, videos, tmp_path):
    runner = trained(path, videos, tmp_path)
    tracker = runner.model.tracker
    net, init = path.stem.removeprefix("track_").removesuffix("_events48").split("-")
    assert tracker.unit == net.removesuffix("8")
    if net != "relu" and net != "relu8":
        constants = [u.mus.item() for u in tracker.units]
        assert (init == "rf") == (abs(constants[1] - 9) < 0.5)  # two epochs barely move them
    scalars = [json.loads(line) for line in next(tmp_path.glob("*/vis_data/scalars.json")).read_text().splitlines()]
    assert 0 < scalars[-1]["position_error"] < 48
    assert list(tmp_path.glob("*/vis_data/tracks/*.png"))
    assert (tmp_path / "epoch_2.pth").is_file()
    assert not list(tmp_path.rglob("*partial*"))


def test_the_state_of_the_warm_up_reaches_the_frames_that_count(videos):
    from mmengine.registry import MODELS

    from sterf_plugins.tracking import ShapeEvents

    config = load_config(str(ROOT / "configs" / "covariant" / "tracking" / "track_li-rf_events48.py"))
    torch.manual_seed(0)
    model = MODELS.build(config.model).eval()
    item = ShapeEvents(videos, t=8, pose_delay=1)[0]
    warmup, frames, poses = (item[name][None] for name in ("warmup", "frames", "poses"))
    assert warmup.sum() > 0
    with torch.no_grad():
        warmed = model(warmup, frames, poses).coordinates
        cold = model(torch.zeros_like(warmup), frames, poses).coordinates
        whole, _ = model.tracker(torch.cat([warmup, frames], 1).transpose(0, 1))
    torch.testing.assert_close(warmed, whole.coordinates[8:])
    assert (warmed - cold).abs().max() > 1e-3


@pytest.mark.slow
def test_a_tracker_learns_to_follow(videos, tmp_path):
    """From the middle of the image (about 6 px off) to a pixel or two, in 120 iterations on 8 videos."""
    path = ROOT / "configs" / "covariant" / "tracking" / "track_li-rf_events48.py"
    runner = trained(path, videos, tmp_path, epochs=60)
    losses = [
        value
        for key, buffer in runner.message_hub.log_scalars.items()
        if key == "train/loss_distance"
        for value in buffer.data[0]
    ]
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("path", LARGE, ids=lambda p: p.stem)
@pytest.mark.sweep
def test_every_large_config_builds_and_runs(path):
    """300x300 pixels and three layers, for one frame of warm-up and one that is scored."""
    from mmengine.registry import MODELS

    config = load_config(str(path))
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    channels = config.model.tracker.in_ch
    size = 300 if path.stem.startswith("track_li-rf") else 64
    frames = (torch.rand(1, 1, channels, size, size) < 0.05).float()
    losses = model(frames, frames, torch.full((1, 1, 3, 2), 150.0), mode="loss")
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()


@pytest.mark.slow
def test_event_files_go_on_after_an_interruption_and_grow(event_tool, tmp_path):
    out = tmp_path / "events"
    settings = "--frames 5 --resolution 32 32 --size 8 10 --velocity 0.5 --format npz".split()  # noqa: SIM905
    assert "6 videos made, 0 were there" in event_tool(out, "--videos", "3", *settings).stdout
    files = sorted(out.rglob("*.npz"))
    assert [f.parent.name for f in files[::3]] == ["size10-v0.50-p1.00", "size8-v0.50-p1.00"]
    before = {f: f.read_bytes() for f in files}
    files[1].unlink()
    assert "1 videos made, 5 were there" in event_tool(out, "--videos", "3", *settings).stdout
    from sterf_plugins.events import read_events

    for file in files:  # a video that was made again is the one that was lost
        again = read_events(file)
        file.write_bytes(before[file])
        assert all(torch.equal(a, b) for a, b in zip(again, read_events(file), strict=True))
    assert "2 videos made, 6 were there" in event_tool(out, "--videos", "4", *settings).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--videos", "0"], "--videos is 0"),
        (["--resolution", "4", "48"], "`resolution` is 4; it must be at least 8"),
        (["--size", "8", "400"], "must be in (0, "),
        (["--density", "2"], "`density` is 2.0"),
        (["--device", "tpu"], "--device tpu cannot be used"),
    ],
)
@pytest.mark.slow
def test_bad_options_of_make_events(event_tool, options, message, tmp_path):
    result = event_tool(tmp_path / "events", *options, check=False)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_make_events_refuses_what_it_did_not_make(event_tool, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    for extra in ([], ["--overwrite"]):
        assert event_tool(tmp_path, *extra, check=False).returncode == 2
    assert (tmp_path / "mine.txt").read_text() == "keep"


@pytest.fixture
def experiment(forked):
    """``experiment(*options, check=True)``: run the tool, which starts a process for each training."""

    def run(*options, check=True) -> subprocess.CompletedProcess:
        result = forked(ROOT / "tools" / "covariant_tracking.py", *options)
        assert not check or result.returncode == 0, result.stderr
        return result

    return run


@pytest.mark.slow
def test_the_experiment_in_one_command(experiment, videos, tmp_path):
    options = ["--nets", "relu", "--inits", "rf", "--seeds", "2", "--jobs", "2"]
    options += ["--data", videos, "--work-dir", tmp_path]
    options += ["--cfg-options", "train_cfg.max_epochs=1", "train_cfg.val_interval=1"]
    result = experiment(*options)
    assert "ReLU, single frame | rf |" in result.stdout
    found = json.loads((tmp_path / "results.json").read_text())["position_error"]
    assert len(set(found["relu-rf"])) == 2  # seeds differ
    assert (tmp_path / "results.png").is_file()
    # complete runs are kept; one that is lost is made again, with the same result
    done = tmp_path / "relu-rf" / "seed1" / "done.json"
    kept = done.read_text()
    done.unlink()
    experiment(*options)
    assert json.loads(done.read_text()) == json.loads(kept)
    refused = experiment(*options[:-1], check=False)
    assert refused.returncode == 2
    assert "trained with other options" in refused.stderr


@pytest.mark.slow
def test_the_experiment_says_where_a_training_failed(experiment, tmp_path):
    options = [
        "--nets",
        "li",
        "--inits",
        "rf",
        "--seeds",
        "1",
        "--data",
        tmp_path / "none",
        "--work-dir",
        tmp_path / "w",
    ]
    result = experiment(*options, check=False)
    assert result.returncode == 2
    assert "train.log" in result.stderr
    assert "sterf make-events" in result.stderr
