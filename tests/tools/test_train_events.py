"""docs/train_events.py and docs/events_in_time.py: a classifier of events, from files to accuracy and temporal fields."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from real_events import real
from torchvision.transforms.v2.functional import center_crop

import sterf_plugins
import sterf_plugins.timm
from sterf_plugins.erf import calibrate, compute_erf
from sterf_plugins.events import EventFolder, open_recording
from sterf_plugins.firing import FiringRates, silence

ROOT = Path(__file__).resolve().parents[2]
SCRIPT, IN_TIME = ROOT / "docs" / "train_events.py", ROOT / "docs" / "events_in_time.py"
SMALL = ("--recordings", 16, "--steps", 4, "--epochs", 8, "--batch-size", 8, "--lr", 4e-3)
NARROW = ("--model-kwargs", "depth=1", "dim=64", "num_heads=2")


@pytest.fixture(scope="module")
def classifier(forked, tmp_path_factory):
    """The folder of a training, and what it said."""
    out = tmp_path_factory.mktemp("events")
    result = forked(SCRIPT, *SMALL, *NARROW, "--out", out)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


@pytest.mark.slow
def test_a_training_beats_chance(classifier):
    said = classifier[1]
    right, mixed, chance = map(
        float,
        re.search(r"test accuracy ([\d.]+) %, with .* in random order ([\d.]+) %, by chance ([\d.]+) %", said).groups(),
    )
    assert chance == 8.3 and right > 3 * chance and right > mixed
    assert len(re.findall(r"epoch \d/8: loss", said)) == 8


@pytest.mark.slow
def test_the_recordings_are_real_files(classifier):
    """Twelve classes; events at any microsecond, of both polarities in front of a shape."""
    data = EventFolder(classifier[0] / "data")
    assert len(data.classes) == 12 and len(data) == 192 and data.size == (32, 32)
    events = open_recording(data.samples[0][0]).events()
    assert events.number > 50 and events.t[0] >= 0 and events.t[-1] < 16_000 and len(set(events.t % 1000)) > 20


@pytest.mark.slow
def test_a_training_goes_on(forked, classifier, tmp_path):
    """Two epochs with Ctrl-C in the second one, and one more run, give what two epochs in one go give, drop paths included."""
    smaller = ("depth=2", "dim=16", "num_heads=2", "drop_path_rate=0.5")
    options = (classifier[0] / "data", "--batch-size", 64, "--epochs", 2, "--steps", 4, "--model-kwargs", *smaller)
    whole = forked(SCRIPT, *options, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    (tmp_path / "interrupt.py").write_text(
        "import builtins, runpy, sys\n"
        "say = builtins.print\n"
        "def interrupted(*words, **options):\n"
        "    say(*words, **options)\n"
        "    if words[0].startswith('epoch 2/2'):\n"
        "        raise KeyboardInterrupt\n"
        "builtins.print = interrupted\n"
        "runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
    )
    parts = (*options, "--out", tmp_path / "parts")
    stopped = forked(tmp_path / "interrupt.py", SCRIPT, *parts)
    assert stopped.returncode == 130 and "go on with the same command and --resume" in stopped.stderr
    assert torch.load(tmp_path / "parts" / "last.pth", weights_only=True)["epoch"] == 0
    resumed = forked(SCRIPT, *parts, "--resume")
    assert resumed.returncode == 0 and resumed.stdout.count("epoch ") == 1, resumed.stderr
    a, b = (torch.load(tmp_path / name / "last.pth", weights_only=True)["state_dict"] for name in ("whole", "parts"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    other = forked(SCRIPT, *parts, "--resume", "--steps", 2)
    assert other.returncode == 2 and "was trained with steps = 4; give the same options" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resume",), "leave it out to begin a training"),
        (("--model", "resnet18", "--model-kwargs"), "--model resnet18 takes images (B, C, H, W) and has no time steps"),
        (("--batch-size", 1000), "there are 156 recordings to train on, fewer than --batch-size 1000"),
        (("--layout", "n_cars"), "there is no folder"),
        (("--epochs", 0), "--epochs is 0; it must be at least 1"),
        (("--batch-size", -3), "--batch-size is -3; it must be at least 1"),
        (("--size", 0, 5), "--size is 0 5; it must be at least 1"),
        (("--workers", -1), "--workers is -1; it must be at least 0"),
        (("--lr", "nan"), "`--lr` is nan; it must be a learning rate from 0 on"),
        (("--model", "nosuch"), "Unknown model (nosuch)"),
        (("--model-kwargs", "nosuch=1"), "are not those of spikformer_8_384: Spikformer.__init__() got an unexpected"),
        (("--model-kwargs", "num_classes=3"), "are not those of spikformer_8_384: "),  # which the data say
    ],
)
def test_mistakes(forked, classifier, tmp_path, options, message):
    done = forked(SCRIPT, classifier[0] / "data", *options, "--out", tmp_path)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("script", [SCRIPT, ROOT / "docs" / "train_imagefolder.py"], ids=lambda p: p.stem)
def test_a_checkpoint_is_not_replaced(script, tmp_path, monkeypatch):
    """By the same command once more, after the first epoch of which the trained weights would be gone."""
    (tmp_path / "last.pth").write_bytes(b"weights")
    main = runpy.run_path(str(script))["main"]
    for more, message in (((), "--overwrite to replace it"), (("--overwrite",), "nowhere")):
        monkeypatch.setattr("sys.argv", [script.name, str(tmp_path / "nowhere"), "--out", str(tmp_path), *more])
        with pytest.raises(ValueError, match=message):
            main()


def test_a_checkpoint_of_another_program_is_not_gone_on_from(tmp_path):
    torch.save(dict(state_dict={}), tmp_path / "last.pth")
    with pytest.raises(ValueError, match=r"--resume: .*last.pth is of another program, or of an older one; give"):
        runpy.run_path(str(SCRIPT))["restore"](tmp_path / "last.pth", {}, None, None)


def windows(name: str, side: int) -> torch.Tensor:
    """The middle of a few windows of a real recording, (8, N, 2, side, side), in steps of 4 ms."""
    pytest.importorskip("faery", reason="the extra [events] is missing")
    return center_crop(runpy.run_path(str(IN_TIME))["windows"]([real(name)], steps=8, step=4000)[:, :4], side)


def check_lags(model: torch.nn.Module, x: torch.Tensor, layers: list[str]) -> None:
    """LIF neurons pass gradients back in time; every layer fires, so that the fields are those of the network."""
    with FiringRates(model) as rates, torch.no_grad():
        getattr(model, "extract_feat", model)(x)
    assert silence(rates.layers) is None and rates.rate > 0.01
    result = compute_erf(model, x, layers, kinds="temporal", calibrate=False)
    assert not result.warnings and list(result.layers) == layers
    for layer in layers:
        numbers = result.numbers(layer)
        shares = np.array([numbers[f"lag_{i}"].value for i in range(8)])
        assert np.isfinite(result.temporal[layer]).all() and shares.sum() == pytest.approx(1)
        assert 0 < shares[0] < 0.95 and 0.1 < numbers["mean_lag"].value < 7


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tonic_sample.aedat4", "emlb_demo-01.aedat4", "faery_evt2.raw"])
def test_temporal_fields_of_a_classifier(name):
    x = windows(name, 96)
    torch.manual_seed(0)
    model = timm.create_model("spikformer_8_384", in_chans=2, num_classes=3, depth=2, dim=32, num_heads=2)
    check_lags(calibrate(model, x), x, ["stages.0", "stages.1"])


@pytest.mark.slow
def test_temporal_fields_of_a_detector():
    """A stock RetinaNet whose backbone gets event frames (T, B, C, H, W)."""
    x = windows("tonic_sample.aedat4", 128)
    sterf_plugins.setup()
    from mmdet.registry import MODELS
    from mmengine.hub import get_config
    from mmengine.registry import DefaultScope

    config = get_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py").model
    options = dict(model_name="meta_sdt_15m", in_channels=2, embed_dims=(16, 32, 64, 96), num_heads=4)
    config.backbone = dict(type="sterf_plugins.TIMMBackbone", out_indices=(1, 2, 3, 4), **options)
    config.neck.update(in_channels=list(MODELS.build(config.backbone).out_channels), start_level=0)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = calibrate(MODELS.build(config), x)
    assert [tuple(y.shape[:2]) for y in model.extract_feat(x)] == [(4, 256)] * 5
    check_lags(model, x, [f"backbone.timm_model.model.stages.{i}" for i in range(1, 5)])


@pytest.mark.slow
def test_temporal_fields_of_a_trained_network(forked, classifier, tmp_path):
    pytest.importorskip("faery", reason="the extra [events] is missing")
    out = tmp_path / "lags.png"
    checkpoint = ("--checkpoint", classifier[0] / "last.pth", "--steps", 4, "--step", 20_000)
    done = forked(IN_TIME, real("tonic_sample.aedat4"), *checkpoint, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no layer is silent") == 2 and done.stdout.count("mean lag") == 2
    assert out.read_bytes().startswith(b"\x89PNG")
