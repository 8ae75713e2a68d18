"""Recordings in the folders of FE108 and VisEvent, made by the real tool and read as any others."""

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("faery", reason="the extra [events] is missing")
pytest.importorskip("dv_processing", reason="the extra [events] is missing")

from sterf_plugins.events import open_recording
from sterf_plugins.tracking.results import read_attributes, read_labels
from sterf_plugins.tracking.sequences import LAYOUTS

TOOL = Path(__file__).resolve().parents[2] / "tools" / "dataset_tools" / "make_tracking.py"
SMALL = ("--train", "1", "--test", "4", "--frames", "12", "--size", "90", "120")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_files_and_what_is_in_them(forked, tmp_path, layout):
    root = tmp_path / layout
    done = forked(TOOL, root, "--layout", layout, *SMALL)
    assert done.returncode == 0 and "1 + 4 sequences of 12 images" in done.stdout, done.stderr
    labels = read_labels(root, layout)
    assert set(labels) == {"square01", "triangle01", "disc02", "square02"}  # the numbers go on behind the training's
    attributes = read_attributes(root / "attributes.txt", labels)
    assert attributes["distractor"] == ["square02"]
    folder = root / "test" / "triangle01"
    if layout == "fe108":
        starts = dict(line.split() for line in (root / "pair.txt").read_text().splitlines())
        recording, pictures, first = folder / "events.aedat4", "img/{:04d}.png", int(starts["triangle01"])
        assert len(starts) == 5 and first >= 1
        assert not (folder / pictures.format(0)).exists()
    else:
        recording, pictures, first = folder / "triangle01.aedat4", "vis_imgs/frame{:04d}.png", 0
    opened, number = open_recording(recording), LAYOUTS[layout][1]
    frames = list(opened.frames())
    assert opened.size == (90, 120) and len(frames) == first + 12 + 1
    gaps = np.diff(opened.frame_times())
    assert 30_000 <= gaps.min() < gaps.max() <= 50_000
    for i in (0, 11):
        photo = cv2.imread(str(folder / pictures.format(number + i)), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(photo, np.asarray(frames[first + i].pixels).reshape(90, 120))
    assert not (folder / pictures.format(number + 12)).exists()
    # Events lie at the shape's outline, which the box of the image's time encloses but for the way to the next one.
    times = opened.frame_times()[first:]
    boxes, events = labels["triangle01"], opened.events()
    at = (events.t >= times[0]) & (events.t < times[1])
    x, y, w, h = boxes[0]
    inside = (events.x >= x - 6) & (events.x < x + w + 6) & (events.y >= y - 6) & (events.y < y + h + 6)
    assert at.sum() > 100 and (at & inside).sum() / at.sum() > 0.7
    assert boxes[0, 2] > 10 and ((boxes == 0).all(1) | ((boxes[:, :2] > 0).all(1) & (boxes[:, 2:] > 0).all(1))).all()


@pytest.mark.slow
def test_some_labels_are_empty_and_a_second_run_keeps_or_refuses(forked, tmp_path):
    (tmp_path / "data").mkdir()  # an empty folder is none that holds something else
    run = (TOOL, tmp_path / "data", "--layout", "visevent", "--train", "1", "--test", "1", "--frames", "120")
    assert forked(*run, "--size", "60", "80").returncode == 0
    boxes = np.concatenate(list(read_labels(tmp_path / "data", "visevent").values()))
    empty = (boxes == 0).all(1)
    assert 0 < empty.sum() < 12 and not empty[0]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}
    done = forked(*run, "--size", "60", "80")
    assert done.returncode == 0 and "is already there" in done.stdout
    done = forked(*run, "--size", "60", "81")
    assert done.returncode == 2 and "was not made with these settings" in done.stderr
    (tmp_path / "data" / "weights.pth").write_text("mine")
    done = forked(*run, "--size", "60", "81", "--overwrite")
    assert done.returncode == 2 and "such as weights.pth" in done.stderr and "Traceback" not in done.stderr
    assert all(p.stat().st_mtime_ns == time for p, time in before.items() if p.is_file())
    assert forked(TOOL, tmp_path / "x", "--layout", "fe108", "--frames", "1").returncode == 2
