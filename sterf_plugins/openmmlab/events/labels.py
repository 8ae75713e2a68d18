"""True boxes of recordings, from COCO's json or from Prophesee's structured arrays."""

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured

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
    """

    recording: Path
    time: int
    boxes: np.ndarray
    classes: list[int]
    crowd: list[bool]
    image_id: int | None


def read_coco(path: Path, folder: Path, classes: Sequence[str], unit: str) -> list[Labels]:
    """Labels of a COCO file whose images have the name of a recording as ``file_name``, and a time.

    Boxes of categories that are not among the classes are left out, as in mmdet.

    Raises:
        ValueError: it is no such file, or has no category of a class's name.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of boxes {path}; give `ann_file`, a COCO json or a folder of .npy files.")
    try:
        document = json.loads(path.read_text())
        numbers = {category["name"]: category["id"] for category in document["categories"]}
        images = [(image, image["file_name"]) for image in document["images"]]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no COCO file: {type(error).__name__}: {error}.") from error
    unknown = [name for name in classes if name not in numbers]
    if unknown:
        raise ValueError(
            f"{path} has no category {', '.join(map(repr, unknown))}, which `metainfo.classes` names; it has "
            f"{', '.join(map(repr, numbers))}."
        )
    label = {numbers[name]: i for i, name in enumerate(classes)}
    found = defaultdict(list)
    for annotation in document.get("annotations", []):
        if annotation["category_id"] in label:
            found[annotation["image_id"]].append(annotation)
    result = []
    for image, name in images:
        time = next((image[key] for key in TIMES if key in image), None)
        if time is None:
            raise ValueError(f"{path}: image {image['id']} has no time; each needs one of {', '.join(TIMES)}.")
        own = found[image["id"]]
        boxes = np.array([a["bbox"] for a in own], np.float64).reshape(-1, 4)
        crowd = [bool(a.get("iscrowd")) for a in own]
        classes_of = [label[a["category_id"]] for a in own]
        result.append(Labels(folder / name, round(time * UNITS[unit]), boxes, classes_of, crowd, image["id"]))
    return result


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
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no array of boxes: {error}.") from error
    names = array.dtype.names or ()
    time = next((name for name in TIMES if name in names), None)
    if time is None or not set(_FIELDS) <= set(names):
        raise ValueError(
            f"{path} has {', '.join(names) or 'no fields'}; boxes are a structured array with t, {', '.join(_FIELDS)}."
        )
    array = array[~np.isin(array["class_id"], list(ignored))]
    wrong = array["class_id"][array["class_id"] >= len(classes)]
    if len(wrong):
        raise ValueError(
            f"{path} has class_id {int(wrong[0])}, and `metainfo.classes` names {len(classes)}: {', '.join(classes)}. Name "
            f"all, or leave it out: ignored_class_ids=({int(wrong[0])},)."
        )
    recording = recording_of(path, folder)
    result = []
    for moment in np.unique(array[time]):
        own = array[array[time] == moment]
        boxes = structured_to_unstructured(own[["x", "y", "w", "h"]], np.float64)
        when = round(moment.item() * UNITS[unit])
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
