"""A recording of a moving square, followed by the real tool: a video, pictures, boxes, and mistakes."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import sterf_plugins

sterf_plugins.setup()

from sterf_plugins.cli.loading import build_config  # noqa: E402
from sterf_plugins.events import Events, write_recording  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import load_config, merge_options  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "track.py"
CONFIG = ROOT / "configs" / "sd_track" / "sdtrack-tiny-2x2_conv_fe108.py"
SMALL = {
    "model.arch": dict(embed_dims=[8, 8, 16, 16], num_heads=2),
    "model.head_width": 16,
    "test_dataloader.dataset.template_size": 64,
    "test_dataloader.dataset.search_size": 128,
}

pytestmark = pytest.mark.slow


@pytest.fixture
def command(tmp_path):
    """Recording, config and checkpoint of a small tracker with random weights."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 200_000, 4000))
    x = 20 + t // 8000 + rng.integers(0, 12, 4000)
    events = Events.of(t, x, 15 + rng.integers(0, 12, 4000), rng.integers(0, 2, 4000))
    write_recording(tmp_path / "moving.h5", events, (48, 64))
    config = load_config(str(CONFIG))
    merge_options(config, SMALL)
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_config(config, "tracker").model.state_dict()), tmp_path / "weights.pth")
    options = [f"{key}={str(value).replace(' ', '')}" for key, value in SMALL.items()]
    return [
        tmp_path / "moving.h5",
        "--config",
        CONFIG,
        "--checkpoint",
        tmp_path / "weights.pth",
        "--cfg-options",
        *options,
    ]


def test_a_video_pictures_and_boxes(forked, command, tmp_path):
    run = [TOOL, *command, "--box", "20", "15", "12", "12", "--interval", "20000"]
    done = forked(*run, "--out", tmp_path / "a.mp4")
    assert done.returncode == 0 and "10 images" in done.stdout, done.stderr[-3000:]
    video = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 10 and video.read()[1].std() > 0
    boxes = np.loadtxt(tmp_path / "a.mp4.txt")
    assert boxes.shape == (10, 4) and boxes[0].tolist() == [20, 15, 12, 12] and not np.allclose(boxes[1], boxes[0])
    (tmp_path / "pictures.v2").mkdir()  # a folder that is there is one, whatever its name
    for name in ("pictures", "pictures.v2"):
        done = forked(*run, "--out", tmp_path / name)
        assert done.returncode == 0 and len(list((tmp_path / name).glob("*.png"))) == 10, done.stderr[-3000:]
        assert np.array_equal(np.loadtxt(tmp_path / f"{name}.txt"), boxes)


def test_mistakes(forked, command, tmp_path):
    box = ["--box", "20", "15", "12", "12", "--interval", "20000", "--out", tmp_path / "b.mp4"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    box += ["--overwrite"]
    for more, message in (
        (["--box", "20", "15", "0", "12"], "width and height of at least a pixel, and lie in 64 x 48 pixels"),
        (["--box", "90", "15", "5", "12"], "lie in 64 x 48 pixels"),
        (["--box", "nan", "15", "5", "12"], "--box is nan 15 5 12 (x, y, w, h); it must have a width and height"),
        (["--interval", "500000"], "gives 1 images; at least two are needed"),
        (["--interval", "0"], "`--interval` is 0; it must be an int >= 1"),
        (["--start", "-5"], "--fps is 25, and --start -5; give up to 1000 pictures, more than 0, and a time from 0 on"),
        (["--fps", "nan"], "--fps is nan"),
        (["--interval", "1"], "has 4000 events, and gives 199"),
        (["--box", "0", "0", "1e9", "1e9"], "the square around it would have a side of 2000000000 pixels"),
        (
            ["--out", tmp_path / "b.xyz"],
            "OpenCV cannot encode a video of type .xyz with 25 pictures a second here; give",
        ),
        (
            ["--fps", "999.123456"],
            "type .mp4 with 999.123 pictures a second here; give one that ends in .mp4 and --fps 25",
        ),
        (
            ["--out", tmp_path / "b.png"],
            "b.png, a single picture; give a video such as a.mp4, or a folder, for pictures",
        ),
        (
            ["--out", tmp_path / "full"],
            "full is not deleted: it holds files that were not made here (1), such as notes",
        ),
        (
            ["--config", CONFIG.with_name("sdtrack-tiny-4x1_conv_fe108.py")],
            "of variant 2x2, and the config's is of variant 4x1",
        ),
        (
            ["--config", ROOT / "configs/shapes/fpn_sdtv3-t-srb_shapes.py", "--cfg-options", "model.backbone.levels=4"],
            "give one of an SDTrack",
        ),
    ):
        done = forked(TOOL, *command, *box, *more)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr[-1500:]
    done = forked(TOOL, *command, *box[:-1], "--out", tmp_path / "weights.pth")
    assert done.returncode == 2 and "weights.pth exists; give another name" in done.stderr
    data = (tmp_path / "moving.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(data[: len(data) // 2])
    for out in ("c.mp4", "c"):
        done = forked(TOOL, tmp_path / "cut.h5", *command[1:], *box, "--out", tmp_path / out)
        assert done.returncode == 2 and "cut.h5 cannot be read as an event file" in done.stderr, done.stderr[-1500:]
    done = forked(TOOL, *command, *box[:5], "--out", tmp_path / "b.mp4")
    assert done.returncode == 2 and "has no frames beside its events" in done.stderr, done.stderr[-1500:]
    assert "--interval 40000" in done.stderr
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"moving.h5", "cut.h5", "weights.pth", "full"} and [
        p.name for p in (tmp_path / "full").iterdir()
    ] == ["notes"]


def test_fields_on_a_recording_without_labels(forked, command, tmp_path):
    """Around the middle of the sensor; the recording is the one that is followed above."""
    from sterf_plugins.erf import ERFResult

    recording, _, config, _, weights = command[:5]
    small = {key.removeprefix("model."): value for key, value in SMALL.items() if key.startswith("model.")}
    spec = f"{config}(model={small})"
    done = forked(
        ROOT / "tools" / "erf.py", spec, weights, "--images", recording, "--num", "1", "--out", tmp_path / "fields",
        "--layers", "head.branches.score", "--vector", "none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (tmp_path / "fields").glob("**/*.npz")
    assert sorted(ERFResult.load(file).layers) == ["head.branches.score@search", "head.branches.score@template"]
