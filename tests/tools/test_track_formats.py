"""tools/track.py on a small recording in every format that can be read, by frames, by interval, and from labels beside it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

faery = pytest.importorskip("faery", reason="the extra [events] is missing")
pytest.importorskip("dv_processing", reason="the extra [events] is missing")

import sterf_plugins  # noqa: E402

sterf_plugins.setup()

from sterf_plugins.cli.loading import build_config  # noqa: E402
from sterf_plugins.events import Events, Frame, open_recording, write_recording  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import load_config, merge_options  # noqa: E402
from sterf_plugins.tracking.drawing import BOX, LABEL, draw_step  # noqa: E402
from sterf_plugins.tracking.follow import Step  # noqa: E402
from sterf_plugins.tracking.recordings import event_images  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TOOL, CONFIG = ROOT / "tools" / "track.py", ROOT / "configs" / "sd_track" / "sdtrack-tiny-1x4_conv_fe108.py"
SMALL = {
    "model.arch": dict(embed_dims=[8, 8, 16, 16], num_heads=2, depths=[1, 1, 1, 1, 1]),
    "model.head_width": 16,
    "test_dataloader.dataset.template_size": 64,
    "test_dataloader.dataset.search_size": 128,
}
SIZE, GAP, COUNT = (48, 64), 40_000, 5
BOX_AT_START = [20.0, 15.0, 12.0, 12.0]


@pytest.fixture
def events():
    """A square that moves to the right, for ``COUNT`` intervals."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, COUNT * GAP, 3000))
    t[0], t[-1] = 0, COUNT * GAP - 1
    return Events.of(
        t, 20 + t // 8000 + rng.integers(0, 12, 3000), 15 + rng.integers(0, 12, 3000), rng.integers(0, 2, 3000)
    )


@pytest.fixture
def tracker(tmp_path):
    """Options that name a small tracker with random weights."""
    config = load_config(str(CONFIG))
    merge_options(config, SMALL)
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_config(config, "tracker").model.state_dict()), tmp_path / "weights.pth")
    settings = [f"{key}={str(value).replace(' ', '')}" for key, value in SMALL.items()]
    return ["--config", CONFIG, "--checkpoint", tmp_path / "weights.pth", "--cfg-options", *settings]


def frames(events: Events, before: int = 0) -> list[Frame]:
    """Frames at the borders of the intervals, and some before."""
    start = int(events.t[0])
    return [Frame(start + i * GAP, 0, np.zeros(SIZE, np.uint8)) for i in range(-before, COUNT + 1)]


def write_all(events: Events, folder: Path) -> list[Path]:
    """The recording in every format."""
    for suffix in (".h5", ".npz"):
        write_recording(folder / f"ours{suffix}", events, SIZE)
    later = Events(events.t + 1_600_000_000_000_000, *events[1:])  # a time of 0 means that there is none
    write_recording(folder / "ours.aedat4", later, SIZE, frames(later))
    array = np.zeros(events.number, faery.EVENTS_DTYPE)
    for name, values in zip(("t", "x", "y", "on"), events, strict=True):
        array[name] = values
    for name, version in (("evt2.raw", "evt2"), ("evt3.raw", "evt3"), ("a.dat", "dat2"), ("a.es", None)):
        faery.events_stream_from_array(array, SIZE[::-1]).to_file(folder / name, version=version)
    table = np.stack([events.t, events.x, events.y, events.p], 1)
    np.savetxt(folder / "a.csv", table, "%d", ",", header="t,x,y,p", comments="")
    np.savetxt(folder / "seconds.csv", table * [1e-6, 1, 1, 1], "%.6f", ",", header="t,x,y,p", comments="")
    return sorted(p for p in folder.iterdir())


@pytest.mark.slow
def test_every_format_gives_the_same_boxes(forked, events, tracker, tmp_path):
    (tmp_path / "recordings").mkdir()
    files = write_all(events, tmp_path / "recordings")
    assert len(files) == 9
    found = {}
    for path in files:
        out = tmp_path / "pictures" / path.name.replace(".", "_")
        by_time = () if path.suffix == ".aedat4" else ("--interval", GAP)
        unit = ("--time-unit", "s") if path.stem == "seconds" else ()
        done = forked(TOOL, path, *tracker, "--box", *BOX_AT_START, *by_time, *unit, "--out", out)
        assert done.returncode == 0, (path, done.stderr[-2000:])
        assert len(list(out.glob("*.png"))) == COUNT
        found[path.name] = np.loadtxt(out.with_name(f"{out.name}.txt"))
    reference = found["ours.h5"]
    assert reference.shape == (COUNT, 4) and not np.allclose(reference[1], reference[0])
    for name, boxes in found.items():
        assert np.array_equal(boxes, reference), name


@pytest.mark.slow
def test_the_size_of_a_sensor_that_a_file_does_not_say(forked, events, tracker, tmp_path):
    path = tmp_path / "old.npz"
    np.savez(path, **events._asdict())
    run = [TOOL, path, *tracker, "--box", *BOX_AT_START, "--interval", GAP, "--out", tmp_path / "pictures"]
    done = forked(*run, "--sensor", "96", "128")
    assert done.returncode == 0, done.stderr[-2000:]
    assert cv2.imread(str(tmp_path / "pictures" / "00001.png")).shape[:2] == (480 + 28, 640 + 480)
    for size, message in (
        (("96", "33"), "outside the sensor of 33 columns"),
        (("0", "9"), "`--sensor` is 0; it must be"),
    ):
        done = forked(*run, "--overwrite", "--sensor", *size)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["fe108", "visevent"])
def test_labels_beside_the_recording_stand_for_the_box(forked, events, tracker, tmp_path, layout):
    folder = tmp_path / "set" / "test" / "moving"
    folder.mkdir(parents=True)
    before = 2 if layout == "fe108" else 0
    events = Events(events.t + 1_600_000_000_000_000, *events[1:])
    name = "events.aedat4" if layout == "fe108" else "moving.aedat4"
    write_recording(folder / name, events, SIZE, frames(events, before))
    (tmp_path / "set" / "pair.txt").write_text(f"moving {before}\n")
    labels = np.array([BOX_AT_START] * 4) + np.arange(4)[:, None] * [5, 0, 0, 0]
    file = folder / ("groundtruth_rect.txt" if layout == "fe108" else "groundtruth.txt")
    np.savetxt(file, labels, "%g", ",")
    done = forked(TOOL, folder / name, *tracker, "--out", tmp_path / "a.mp4")
    assert done.returncode == 0 and "AUC" in done.stdout, done.stderr[-2000:]
    found = np.loadtxt(tmp_path / "a.mp4.txt")
    assert found.shape == (4, 4) and found[0].tolist() == BOX_AT_START  # an image for each label
    given = ("--box", *BOX_AT_START, "--start", before * GAP)
    done = forked(TOOL, folder / name, *tracker, *given, "--out", tmp_path / "b.mp4")
    assert done.returncode == 0 and np.array_equal(np.loadtxt(tmp_path / "b.mp4.txt")[:4], found), done.stderr[-2000:]
    assert cv2.VideoCapture(str(tmp_path / "b.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == COUNT
    absent = folder / "absent_label.txt"
    for change, more, message in (
        (
            lambda: absent.write_text("1\n0\n"),
            (),
            "absent_label.txt has 2 lines from the first 1 on, and there are 4 labels",
        ),
        (lambda: file.write_text("0,0,0,0\n1,1,5,5\n"), (), "it must have a width and height"),
        (lambda: file.write_text("1,1,5,5\n" * 2), ("--start", "10"), "--start goes with --box"),
        (file.unlink, (), "give --box X Y W H"),
    ):
        change()
        done = forked(TOOL, folder / name, *tracker, *more, "--out", tmp_path / "c.mp4")
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr[-2000:]
        assert not list(tmp_path.glob("c.mp4*"))


def test_the_label_is_drawn_where_there_is_one():
    image, score = np.zeros((2, 40, 60, 3), np.uint8), np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    step = Step(np.array([10.0, 10, 8, 8]), score, (0.0, 0.0, 32.0))

    def drawn(colour, label):
        picture = draw_step(image, step, step.box, "words", label)
        assert picture.dtype == np.uint8 and not any(side % 2 for side in picture.shape[:2])
        return (picture == colour).all(-1).any()

    label = np.array([30.0, 10, 8, 8])
    assert drawn(BOX, None) and drawn(BOX, label) and drawn(LABEL, label)
    assert drawn(LABEL, np.array([30.0, 10, 1e9, 1e9])) and not drawn(LABEL, np.array([np.nan, 10, 8, 8]))
    assert not drawn(LABEL, None) and not drawn(LABEL, np.zeros(4))


def test_single_events_are_seen():
    image = np.zeros((40, 60, 3), np.uint8)
    image[10, 20], image[30, 50] = (0, 0, 30), (255, 0, 0)
    picture = draw_step(image, None, np.array([0.0, 0, 5, 5]), "words")
    assert picture[12 * 10 + 6, 12 * 20 + 6].tolist() == [87, 0, 0]  # OpenCV's order
    assert picture[12 * 30 + 6, 12 * 50 + 6].tolist() == [0, 0, 255]


def test_images_after_the_end_of_the_recording_are_refused(tmp_path):
    """With an interval that is too long for the labels, the later images would be empty."""
    few = Events.of([0, 5, 9], [1, 2, 3], [1, 2, 3], [0, 1, 1])
    recording = open_recording(write_recording(tmp_path / "few.h5", few, SIZE))
    assert len(list(event_images(recording, np.array([0, 5, 10]), 1))) == 2
    with pytest.raises(ValueError, match=r"no event in the last 3 of 4 images, from 10 .s on; give a shorter interval"):
        list(event_images(recording, np.array([0, 10, 20, 30, 40]), 1))
