"""Result folders of trackers beside the labels of a data set: a text file ``NAME.txt`` for each sequence, a box in each line."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import lines_of, replacing, settings_in
from .box_metrics import Curves, curves
from .sequences import LAYOUTS, read_boxes, sequence_folders

Boxes = Mapping[str, NDArray[np.float64]]  # name of a sequence -> (frames, 4), x, y, w, h in pixels
TESTED = "tested.json"  # in a result folder that a test may go on with: what its boxes are of


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


def check_tested(file: Path, settings: Mapping[str, Any]) -> None:
    """Before a sequence's result file is read or written: say in its folder what its boxes are of, or compare it.

    Args:
        file: the result file, which need not exist.
        settings: what the boxes depend on, as plain values.

    Raises:
        ValueError: the folder is of a test with other settings, or there is the file and nothing that says what it is of.
    """
    marker = file.parent / TESTED
    found = settings_in(marker)
    if found is None and (marker.exists() or file.exists()):
        raise ValueError(
            f"{file} is there, and {marker} does not say of which checkpoint it is; give another folder of results."
        )
    if found is None:
        with replacing(marker) as partial:
            partial.write_text(json.dumps(settings, indent=1))
        return
    other = [key for key in {**settings, **found} if found.get(key) != settings.get(key)]
    if other:
        key = other[0]
        raise ValueError(
            f"{file.parent} has the results of another test, with {key} {found.get(key)!r}, and here it is "
            f"{settings.get(key)!r}; give another folder of results, or delete this one."
        )


def weights_digest(entries: Mapping[str, Tensor]) -> str:
    """A short text that is another one for other weights.

    Args:
        entries: a state dict.
    """
    digest = hashlib.sha256()
    for name, value in sorted(entries.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
