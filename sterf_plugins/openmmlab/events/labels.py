"""True boxes of recordings, from COCO's json or from Prophesee's structured arrays."""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured

from ...events.arrays import are_pixels
from ...events.readers import FORMATS

TIMES = ("t", "ts", "time", "timestamp")  # what a label's time is called
UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000}  # microseconds in one
_FIELDS = ("x", "y", "w", "h", "class_id")


class Labels(NamedTuple):
    """The boxes of one time of a recording.

    Args:
        recording: the event file.
        time: in microseconds.
        boxes: float64 (N, 4): x, y, w, h in pixels.
        classes: N numbers of classes, counted as their names are.
        crowd: whether each box is COCO's "iscrowd", which is neither right nor wrong.
        image_id: number of the image; ``None`` where the labels have none.
        size: (height, width) of the image; ``None`` where the labels do not say it.
    """

    recording: Path
    time: int
    boxes: np.ndarray
    classes: list[int]
    crowd: list[bool]
    image_id: int | None
    size: tuple[int, int] | None = None


def read_coco(path: Path, folder: Path, classes: Sequence[str], unit: str) -> list[Labels]:
    """Labels of a COCO file whose images have the name of a recording as ``file_name``, and a time.

    Boxes of categories that are not among the classes are left out, as in mmdet.

    Raises:
        ValueError: it is no such file, has no category of a class's name, or an entry is not as COCO has it.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of boxes {path}; give `ann_file`, a COCO json or a folder of .npy files.")
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        numbers = {category["name"]: category["id"] for category in document["categories"]}
        images = [(image, str(image["file_name"])) for image in document["images"]]
        annotations = list(document.get("annotations", ()))
        ids = {image.get("id") for image, _ in images}
        _ = {(annotation.get("image_id"), annotation.get("category_id")) for annotation in annotations}
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no COCO file: {type(error).__name__}: {error}.") from error
    unknown = [name for name in classes if name not in numbers]
    if unknown:
        raise ValueError(
            f"{path} has no category {', '.join(map(repr, unknown))}, which `metainfo.classes` names; it has "
            f"{', '.join(map(repr, numbers))}."
        )
    label = {numbers[name]: i for i, name in enumerate(classes)}
    if len(set(numbers.values())) < len(document["categories"]):
        listed = ", ".join(f"{category['name']} ({category['id']})" for category in document["categories"])
        raise ValueError(f"{path} has two categories of one name or one id: {listed}.")
    if None in ids or len(ids) < len(images):
        raise ValueError(f"{path} has images without an id, or two with the same; each needs its own.")
    found = defaultdict(list)
    for i, annotation in enumerate(annotations):
        missing = [key for key in ("image_id", "category_id", "bbox") if key not in annotation]
        if missing or annotation["image_id"] not in ids or annotation["category_id"] not in numbers.values():
            raise ValueError(
                f"{path}: annotation {i} has no {missing[0]}." if missing else
                f"{path}: annotation {i} is of image {annotation['image_id']} and category {annotation['category_id']}, and the "
                f"file does not have both."
            )  # fmt: skip
        if annotation["category_id"] in label:
            found[annotation["image_id"]].append(annotation)
    result = []
    for image, name in images:
        where = f"{path}: image {image['id']}"
        time = next((image[key] for key in TIMES if key in image), None)
        if time is None:
            raise ValueError(f"{where} has no time; each needs one of {', '.join(TIMES)}.")
        own = found[image["id"]]
        boxes = _boxes(where, [a["bbox"] for a in own])
        crowd = [bool(a.get("iscrowd")) for a in own]
        classes_of = [label[a["category_id"]] for a in own]
        size = (image["height"], image["width"]) if image.get("height") and image.get("width") else None
        result.append(Labels(folder / name, _time(where, time, unit), boxes, classes_of, crowd, image["id"], size))
    return result


def _boxes(where: str, boxes: Sequence | np.ndarray) -> np.ndarray:
    """Boxes as an array (N, 4).

    Raises:
        ValueError: one of them is something else than four numbers of pixels.
    """
    for box in boxes:
        try:
            values = np.asarray(box)
        except ValueError:  # lists among numbers
            values = np.empty(0)
        if values.shape != (4,) or values.dtype.kind not in "iuf" or not are_pixels(values):
            raise ValueError(f"{where} has the box {box}; it must be four finite numbers x, y, w, h, in pixels.")
    return np.array(boxes, np.float64).reshape(-1, 4)


def _time(where: str, time: Any, unit: str) -> int:
    """A label's time in microseconds.

    Raises:
        ValueError: it is no number.
    """
    if isinstance(time, bool) or not isinstance(time, (int, float)) or not math.isfinite(time):
        raise ValueError(f"{where} has the time {time!r}; it must be a number.")
    return round(time * UNITS[unit])


def read_prophesee(
    path: Path, folder: Path, classes: Sequence[str], unit: str, ignored: Collection[int] = ()
) -> list[Labels]:
    """Labels of a folder of structured arrays, ``NAME_bbox.npy`` or ``NAME.npy`` for the recording ``NAME_td.dat`` or
    ``NAME.h5``; any other format will do. A class is the number of its name.

    Raises:
        ValueError: there is no file of boxes, or one is of another kind, has no recording, or a class without a name.
    """
    files = sorted(path.glob("*.npy"))
    if not files:
        raise ValueError(f"there are no files of boxes *.npy in {path}; give `ann_file`, their folder or a COCO json.")
    return [label for file in files for label in _of_array(file, folder, classes, unit, ignored)]


def _of_array(path: Path, folder: Path, classes: Sequence[str], unit: str, ignored: Collection[int]) -> list[Labels]:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, TokenError, BadZipFile) as error:
        raise ValueError(f"{path} is no array of boxes: {error}.") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is no array of boxes, but several of numpy.savez; write one by numpy.save.")
    names = array.dtype.names or ()
    time = next((name for name in TIMES if name in names), None)
    if time is None or not set(_FIELDS) <= set(names):
        raise ValueError(
            f"{path} has {', '.join(names) or 'no fields'}; boxes are a structured array with t, {', '.join(_FIELDS)}."
        )
    if array["class_id"].dtype.kind not in "iu":
        raise ValueError(f"{path} has class_id of type {array['class_id'].dtype}; it must be whole numbers.")
    array = array[~np.isin(array["class_id"], list(ignored))]
    wrong = array["class_id"][(array["class_id"] < 0) | (array["class_id"] >= len(classes))]
    if len(wrong):
        raise ValueError(
            f"{path} has class_id {int(wrong[0])}, and `metainfo.classes` names {len(classes)}: {', '.join(map(str, classes))}. "
            f"Name all, or leave it out: ignored_class_ids=({int(wrong[0])},)."
        )
    recording = recording_of(path, folder)
    result = []
    for moment in np.unique(array[time]):
        own = array[array[time] == moment]
        boxes = _boxes(str(path), structured_to_unstructured(own[["x", "y", "w", "h"]], np.float64))
        when = _time(str(path), moment.item(), unit)
        result.append(Labels(recording, when, boxes, own["class_id"].tolist(), [False] * len(own), None))
    return result


def recording_of(boxes: Path, folder: Path) -> Path:
    """The recording in a folder to which a file of boxes belongs.

    Raises:
        ValueError: there is none, or more than one.
    """
    name = boxes.stem.removesuffix("_bbox")
    found = [f for stem in (name, f"{name}_td") for s in FORMATS if (f := folder / f"{stem}{s}").is_file()]
    if len(found) != 1:
        raise ValueError(
            f"{boxes} needs one recording {name}.* or {name}_td.* in {folder} and has "
            f"{', '.join(f.name for f in found) or 'none'}; it may end with {', '.join(FORMATS)}."
        )
    return found[0]
