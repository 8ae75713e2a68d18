"""Files of boxes, names and options that do not fit: one line that says what to do."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sterf_plugins.events import Events

SHAPES = ("circle", "square", "triangle")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(ann_file="annotations/nothing.json"), "there is no file of boxes .*nothing.json"),
        (dict(ann_file="annotations"), "there are no files of boxes .*npy in .*annotations"),
        (dict(ann_file="annotations/train.json", metainfo=dict(classes=("circle", "car"))),
         "has no category 'car', which `metainfo.classes` names; it has 'circle', 'square', 'triangle'"),
        (dict(metainfo=dict(classes=("circle", "square"))), "has class_id 2, and `metainfo.classes` names 2: circle, square"),
        (dict(metainfo=dict(classes=())), "needs the names of its classes"),
        (dict(time_unit="minutes"), "`time_unit` is 'minutes'; allowed: 'us', 'ms', 's'"),
        (dict(time_unit="s"), "its labels are at 20000000000 to 400000000000 µs, and its events at .*`time_unit` 's' may be wrong"),
        (dict(window=10**6), "`window` is 1000000 µs, and the events of .* last 39.... µs"),
        (dict(count=10**7), "`count` is 10000000, and .* has .* events; give fewer"),
        (dict(window=None), "`window` is None and `count` is None; give one of them"),
        (dict(names=("shapes000", "other")), "`names` has other, of which there are no labels; there are those of shapes000"),
        (dict(names=("shapes000", "shapes000_td")), "`names` has the recording shapes000 twice; name each one once"),
        (dict(names="val.txt"), "`names` is 'val.txt', and there is no file"),
        (dict(names=("shapes000", 7)), "`names` has 7; the names of recordings are texts, such as '7'"),
        (dict(metainfo=dict(classes=3)), "`metainfo.classes` is 3; give a list of names"),
        (dict(data_prefix="train"), "`data_prefix` is 'train'; it must name the folder of the recordings: data_prefix="),
        (dict(data_prefix=dict(img_path="train")), "`data_prefix` is {'img_path': 'train'}; it must name the folder"),
        (dict(data_prefix=dict(img="annotations")), "needs one recording shapes000.* in .*annotations and has none"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_clear_line(data, dataset, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        dataset(data, **options)


def test_images_of_another_size_and_recordings_of_one_name(data, dataset, tmp_path):
    """A COCO file tells the size of the sensor, and may name files in folders; a file may not say its size."""
    for folder in ("day", "night"):
        (tmp_path / folder).mkdir()
        events = Events.of([1000, 9000], [3, 60], [2, 7], [0, 1])
        np.savez(tmp_path / folder / "a.npz", **events._asdict())
    box = dict(category_id=0, bbox=[70, 2, 9, 9])
    document = dict(
        images=[
            dict(id=i, file_name=f"{folder}/a.npz", t=9500, height=50, width=80)
            for i, folder in enumerate(("day", "night"))
        ],
        annotations=[dict(id=i, image_id=i, **box) for i in range(2)],
        categories=[dict(id=i, name=name) for i, name in enumerate(SHAPES)],
    )
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    load = partial(dataset, tmp_path, ann_file="boxes.json", data_prefix=dict(img=""), window=8000)
    with pytest.raises(ValueError, match=r"image 0 has \(50, 80\) pixels .* has \(8, 61\); .*: sensor=\(50, 80\)"):
        load()
    found = load(sensor=(50, 80))
    assert found[1]["inputs"].shape == (8, 50, 80) and len(found[1]["data_samples"].gt_instances) == 1
    with pytest.raises(ValueError, match="event 1 has x=60, outside the sensor of 60 columns"):
        load(sensor=(50, 60))
    chosen = load(sensor=(50, 80), names=("night/a",))
    assert [Path(chosen.get_data_info(i)["img_path"]).parent.name for i in range(len(chosen))] == ["night"]
    with pytest.raises(
        ValueError, match=r"`names` has a, which is the name of .*day/a.npz, .*night/a.npz; name the folder"
    ):
        load(sensor=(50, 80), names=("a",))


def test_broken_arrays(data, dataset, tmp_path):
    root = tmp_path / "broken"
    shutil.copytree(data / "train", root / "train")
    boxes = root / "train" / "shapes000_bbox.npy"
    array = np.load(boxes)
    np.save(boxes, array[["t", "x", "y"]])
    with pytest.raises(ValueError, match="has t, x, y; boxes are a structured array with t, x, y, w, h, class_id"):
        dataset(root)
    boxes.write_text("text")
    with pytest.raises(ValueError, match=r"shapes000_bbox.npy is no array of boxes"):
        dataset(root)
    np.save(boxes, array)
    boxes.write_bytes(boxes.read_bytes().replace(b", }", b", (", 1))
    with pytest.raises(ValueError, match=r"shapes000_bbox.npy is no array of boxes: .*EOF in multi-line statement"):
        dataset(root)
    with boxes.open("wb") as file:
        np.savez(file, boxes=array)
    with pytest.raises(ValueError, match=r"is no array of boxes, but several of numpy.savez; write one by numpy.save"):
        dataset(root)
    np.save(boxes, array)
    assert (
        len(dataset(root, metainfo=dict(classes=SHAPES[:2]), ignored_class_ids=(2,))[0]["data_samples"].gt_instances)
        == 2
    )
    (root / "names.txt").write_text("shapes002\nshapes000\n")
    assert len(dataset(root, names="names.txt")) == 40


@pytest.fixture
def one(data, tmp_path) -> Path:
    """A data set whose boxes are those of a single recording: ``train/shapes000_bbox.npy``."""
    root = tmp_path / "root"
    shutil.copytree(data / "train", root / "train")
    for file in sorted((root / "train").glob("*.npy"))[1:]:
        file.unlink()
    return root


def test_arrays_that_say_nothing_or_nonsense(one, dataset):
    file = one / "train" / "shapes000_bbox.npy"
    good = np.load(file)
    for change, message in (
        (dict(x=np.nan), "has the box .*nan.*; it must be four finite numbers"),
        (dict(w=1e30), r"has the box .*1.0*e\+30.*; it must be four finite numbers"),
        (dict(w=np.inf), "has the box .*inf.*; it must be four finite numbers"),
        (dict(class_id=-1), "has class_id -1, and `metainfo.classes` names 3"),
        (dict(class_id=0.5), "has class_id of type float64; it must be whole numbers"),
        (dict(t=10**9), "its labels are at 20000 to 1000000000 .s, and its events"),
        (dict(t=np.nan), "has the time nan; it must be a number"),
    ):
        kinds = [(n, type(change[n]) if n in change else good.dtype[n]) for n in good.dtype.names]
        wrong = good.astype(kinds)
        for name, value in change.items():
            wrong[name][-1] = value
        np.save(file, wrong)
        with pytest.raises(ValueError, match=message):
            dataset(one)
    corners = good.copy()
    corners["w"], corners["h"] = good["x"] + good["w"], good["y"] + good["h"]
    np.save(file, corners)
    with pytest.raises(
        ValueError, match=r"\d+ of 60 boxes of .*train reach beyond .* look like two corners; .* w = x2 - x1"
    ):
        dataset(one)
    shares = good.copy()
    for name in "xywh":
        shares[name] /= 100
    np.save(file, shares)
    with pytest.raises(ValueError, match=r"none of 60 boxes of .*train has sides of at least a pixel.* w, h in pixels"):
        dataset(one)
    larger = good.copy()  # of a sensor that has been halved
    for name in "xywh":
        larger[name] *= 2
    larger["x"] += 60
    np.save(file, larger)
    with pytest.raises(
        ValueError, match=r"\d+ of 60 boxes of .*train has sides of .* in pixels of the recording's sensor"
    ):
        dataset(one)
    np.save(file, good[:0])
    with pytest.raises(ValueError, match="train has no labelled time, and so there is no image"):
        dataset(one)


@pytest.fixture
def coco(data) -> dict:
    """A document with one image, which has one box."""
    document = json.loads((data / "annotations" / "train.json").read_text())
    return document | dict(images=document["images"][:1], annotations=document["annotations"][:1])


def test_json_that_says_nothing_or_nonsense(one, coco, dataset):
    images, annotations, categories = coco["images"], coco["annotations"], coco["categories"]
    for change, message in (
        (dict(images=[]), "annotation 0 is of image"),
        (dict(images=[], annotations=[]), "has no labelled time"),
        (dict(images=2 * images), "two with the same; each needs its own"),
        (dict(images=[images[0] | {"t": "now"}]), "has the time 'now'; it must be a number"),
        (dict(annotations=[annotations[0] | {"bbox": [1, 2, 3]}]), "has the box .1, 2, 3.; it must be four"),
        (dict(annotations=[annotations[0] | {"category_id": 77}]), "annotation 0 is of image .* and category 77"),
        (dict(annotations=[annotations[0] | {"bbox": [1, [2], 3, 4]}]), "has the box .1, .2., 3, 4.; it must be four"),
        (dict(annotations=[{"image_id": images[0]["id"], "category_id": 1}]), "annotation 0 has no bbox"),
        (
            dict(categories=[*categories, dict(id=99, name="circle")]),
            "has two categories of one name or one id: circle",
        ),
        (
            dict(categories=[*categories, dict(id=categories[0]["id"], name="star")]),
            r"one id: circle \(0\), .* star \(0\)",
        ),
    ):
        document = dict(images=images, annotations=annotations, categories=categories) | change
        (one / "c.json").write_text(json.dumps(document))
        with pytest.raises(ValueError, match=message):
            dataset(one, ann_file="c.json")
    (one / "c.json").write_text(json.dumps(dict(images=images, annotations=[], categories=categories)))
    with pytest.raises(
        ValueError, match=r"none of 1 labelled times of .*c.json has a box, and `filter_cfg` leaves out all"
    ):
        dataset(one, ann_file="c.json", filter_cfg=dict(filter_empty_gt=True))
    assert len(dataset(one, ann_file="c.json")) == 1
    for change in (
        dict(annotations=[3]),
        dict(annotations=[dict(image_id=[1])]),
        dict(images=[dict(images[0], id=[1])]),
    ):
        (one / "d.json").write_text(json.dumps(dict(images=images, annotations=[], categories=categories) | change))
        with pytest.raises(ValueError, match=r"d.json is no COCO file: \w+Error"):
            dataset(one, ann_file="d.json")
    (one / "d.json").write_text((one / "c.json").read_text(), encoding="utf-8-sig")  # as editors of Windows do
    assert len(dataset(one, ann_file="d.json")) == 1


def test_options_that_mean_nothing(one, coco, dataset):
    (one / "c.json").write_text(json.dumps(coco))
    for options, message in (
        (dict(names=3), "`names` is 3"),
        (dict(ignored_class_ids="0"), "`ignored_class_ids` is '0'"),
        (dict(ignored_class_ids=["0"]), "`ignored_class_ids` is '0' .*an int"),
        (dict(metainfo=dict(classes="ab")), "`metainfo.classes` is 'ab'; give a list of names"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            dataset(one, ann_file="c.json", **options)
    for shortest, message in (
        (65, "leaves out all 1 images, whose shorter sides are below min_size=65"),
        ("64", "is '64'"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            dataset(one, ann_file="c.json", filter_cfg=dict(min_size=shortest))
    with pytest.raises(TypeError, match="`filter_cfg` has no option 'min_box'; it has filter_empty_gt, min_size"):
        dataset(one, ann_file="c.json", filter_cfg=dict(min_box=8))
    assert len(dataset(one, ann_file="c.json", filter_cfg=dict(min_size=64))) == 1
    (one / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be copied to .*file.*: `cache`"):
        dataset(one, cache=str(one / "file"))
    with pytest.raises(ValueError, match="`bins` is no option of 'histogram'; it has none"):
        dataset(one, [dict(type="sterf_plugins.LoadEvents", bins=3)])
