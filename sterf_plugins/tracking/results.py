"""Result folders of trackers beside the labels of a data set: a text file ``NAME.txt`` for each sequence, a box in each line."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import lines_of
from .box_metrics import Curves, curves
from .sequences import LAYOUTS, read_boxes, sequence_folders

Boxes = Mapping[str, NDArray[np.float64]]  # name of a sequence -> (frames, 4), x, y, w, h in pixels


def read_labels(root: str | Path, layout: str, split: str = "test", names: str | Path | None = None) -> Boxes:
    """The labels of a data set, which needs neither images nor recordings for this.

    Args:
        root: its folder, with ``train/`` and ``test/``.
        layout: "fe108" or "visevent".
        split: "train" or "test".
        names: a text file with a sequence's name a line; ``None`` for the data set's own list, or every folder with labels.

    Raises:
        ValueError: there are none, or a file cannot be read.
    """
    folders = sequence_folders(root, layout, split, names)
    return {folder.name: read_boxes(folder / LAYOUTS[layout][0]) for folder in folders}


def evaluate(folder: str | Path, labels: Boxes, protocol: str = "toolkit") -> dict[str, Curves]:
    """The curves of each sequence, from a tracker's result folder. Files of other names do not count.

    Raises:
        ValueError: the folder or a sequence is missing, or a file cannot be read or used under the protocol.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of results; it must have a file NAME.txt for each sequence.")
    missing = [name for name in labels if not (folder / f"{name}.txt").is_file()]
    if missing:
        listed = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise ValueError(
            f"{folder} lacks {len(missing)} of {len(labels)} sequences: {listed}; run its test to the end."
        )
    found = {}
    for name, truth in labels.items():
        path = folder / f"{name}.txt"
        boxes = read_boxes(path)
        try:
            found[name] = curves(boxes, truth, protocol=protocol)
        except ValueError as error:
            raise ValueError(f"{path}, protocol {protocol!r}: {error}") from error
    return found


def read_attributes(path: str | Path, labels: Boxes) -> dict[str, list[str]]:
    """Attribute -> the sequences that have it, from a text file with lines "NAME ATTRIBUTE ATTRIBUTE …".

    Raises:
        ValueError: the file is missing, or lacks one of the sequences, or has two lines for one.
    """
    path = Path(path)
    of_name: dict[str, list[str]] = {}
    for line in lines_of(path):
        name, *attributes = line.replace(",", " ").split() or [line]
        if name in of_name:
            raise ValueError(f"{path} has two lines for {name!r}; put all its attributes into one.")
        of_name[name] = attributes
    missing = [name for name in labels if name not in of_name]
    if missing:
        raise ValueError(
            f"{path} has no line for {missing[0]!r} ({len(missing)} of {len(labels)} sequences are missing)."
        )
    every = sorted({attribute for name in labels for attribute in of_name[name]})
    return {attribute: [name for name in labels if attribute in of_name[name]] for attribute in every}
