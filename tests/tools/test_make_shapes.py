"""The data set on disk: real files that pycocotools, mmdet and mmseg read."""

import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "dataset_tools" / "make_shapes.py"


@pytest.fixture(scope="module")
def make(forked):
    """``make(*arguments, check=True)``: run the tool, which must end well unless ``check`` is false."""

    def run(*arguments, check=True):
        result = forked(TOOL, *arguments)
        assert not check or result.returncode == 0, result.stderr
        return result

    return run


def load(path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.fixture(scope="module")
def large(make, tmp_path_factory):
    """Enough scenes for every kind of thing to occur."""
    out = tmp_path_factory.mktemp("large") / "shapes"
    make(out, "--num-train", 60, "--num-val", 6, "--size", 96, "--seed", 5)
    return out


def test_pycocotools_reads_every_mask_and_box(large):
    coco = load(large / "annotations" / "instances_train2017.json")
    kinds = set()
    for annotation in coco.dataset["annotations"]:
        mask = coco.annToMask(annotation)
        kinds.add((type(annotation["segmentation"]).__name__, annotation["iscrowd"]))
        assert mask.sum() == pytest.approx(annotation["area"], rel=0.1, abs=4)
        x, y, w, h = annotation["bbox"]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert abs(columns[0] - x) <= 1 and abs(rows[0] - y) <= 1
        assert abs(columns[-1] + 1 - x - w) <= 1 and abs(rows[-1] + 1 - y - h) <= 1
    assert ("list", 0) in kinds and ("dict", 1) in kinds  # polygons, and RLE for crowds


def test_every_class_and_every_distance_occurs(large):
    coco = load(large / "annotations" / "instances_train2017.json")
    names = {c["id"]: c["name"] for c in coco.dataset["categories"]}
    assert {names[a["category_id"]] for a in coco.dataset["annotations"]} == set(names.values())
    twins = [a for a in coco.dataset["annotations"] if names[a["category_id"]].startswith("twin")]
    assert all(a["mark_distance"] > 0 for a in twins)
    assert len({round(a["mark_distance"]) for a in twins}) >= 4
    for twin in twins:  # the mark is where the annotation says, in the colour of the class
        image = cv2.imread(str(large / "train2017" / coco.imgs[twin["image_id"]]["file_name"]))[..., ::-1].astype(int)
        x, y = (round(c - 0.5) for c in twin["mark_xy"])
        red, _, blue = image[y, x]
        assert (red > blue) == (names[twin["category_id"]] == "twin_a")


def test_both_formats_hold_the_same_scenes(large):
    coco = load(large / "annotations" / "instances_train2017.json")
    for info in coco.dataset["images"][:20]:
        index = info["id"]
        ade = large / "ade" / "images" / "training" / f"ADE_train_{index:08d}.jpg"
        assert ade.read_bytes() == (large / "train2017" / info["file_name"]).read_bytes()
        labels = cv2.imread(str(large / "ade" / "annotations" / "training" / f"{ade.stem}.png"), cv2.IMREAD_UNCHANGED)
        assert labels.shape == (96, 96) and labels.max() <= 6
        for annotation in coco.loadAnns(coco.getAnnIds(index)):
            mask = cv2.erode(coco.annToMask(annotation), np.ones((3, 3), np.uint8)).astype(bool)
            expected = 0 if annotation["iscrowd"] else annotation["category_id"] + 1
            if mask.any():
                assert (labels[mask] == expected).mean() > 0.95


def test_deterministic_for_a_seed_and_independent_of_the_count(make, tmp_path):
    make(tmp_path / "a", "--num-train", 4, "--num-val", 2, "--size", 64, "--seed", 9)
    make(tmp_path / "b", "--num-train", 6, "--num-val", 2, "--size", 64, "--seed", 9)
    make(tmp_path / "c", "--num-train", 4, "--num-val", 2, "--size", 64, "--seed", 10)
    names = [p.name for p in (tmp_path / "a" / "train2017").iterdir()]
    read = lambda folder, name: (tmp_path / folder / "train2017" / name).read_bytes()  # noqa: E731
    assert all(read("a", n) == read("b", n) for n in names)
    assert any(read("a", n) != read("c", n) for n in names)


def test_a_second_run_has_nothing_to_do_and_other_settings_are_refused(make, tmp_path):
    (tmp_path / "s").mkdir()  # an empty folder is none that holds something else
    arguments = (tmp_path / "s", "--num-train", 2, "--num-val", 1, "--size", 64)
    make(*arguments)
    assert "already there" in make(*arguments).stdout
    refused = make(*arguments[:-1], 72, check=False)
    assert refused.returncode == 2 and "--overwrite" in refused.stderr
    assert make(*arguments[:-1], 72, "--overwrite").returncode == 0


def test_an_interrupted_run_leaves_nothing(tmp_path):
    command = [sys.executable, str(TOOL), str(tmp_path / "s"), "--num-train", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.time() + 120
    while not list(tmp_path.glob(".s.partial/train2017/*.jpg")) and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and b"nothing was left behind" in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "value"), [("--num-train", 0), ("--size", 10), ("--seed", -1)])
def test_bad_arguments(make, tmp_path, option, value):
    result = make(tmp_path / "s", option, value, check=False)
    assert result.returncode == 2 and f"{option} is {value}; it must be at least" in result.stderr


def test_unwritable_folder(make, tmp_path):
    (tmp_path / "file").write_text("")
    result = make(tmp_path / "file" / "s", "--num-train", 1, "--num-val", 1, check=False)
    assert result.returncode == 2 and "cannot write" in result.stderr


@pytest.mark.slow
def test_openmmlab_data_sets_read_them(shapes):
    import sterf_plugins

    sterf_plugins.setup()
    from mmdet.datasets import CocoDataset
    from mmseg.datasets import BaseSegDataset

    classes = ("disc", "square", "triangle", "twin_a", "twin_b")
    annotations = json.loads((shapes / "annotations" / "instances_train2017.json").read_text())
    detection = CocoDataset(
        ann_file="annotations/instances_train2017.json",
        data_root=str(shapes),
        data_prefix=dict(img="train2017/"),
        metainfo=dict(classes=classes),
        pipeline=[],
    )
    assert len(detection) == len(annotations["images"])
    instances = [i for k in range(len(detection)) for i in detection.get_data_info(k)["instances"]]
    assert len(instances) == len(annotations["annotations"])
    segmentation = BaseSegDataset(
        data_root=str(shapes / "ade"),
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        metainfo=dict(classes=("background", *classes), palette=[[0, 0, 0]] * 6),
        reduce_zero_label=True,
        pipeline=[],
    )
    assert len(segmentation) == len(annotations["images"])
