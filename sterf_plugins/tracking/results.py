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

from ..checks import as_path
from ..files import is_claimed, lines_of, replacing, settings_in, spelling
from .box_metrics import Curves, curves
from .sequences import LAYOUTS, read_absent, read_boxes, sequence_folders

Boxes = Mapping[str, NDArray[np.float64]]  # name of a sequence -> (frames, 4), x, y, w, h in pixels
Absences = Mapping[str, NDArray[np.bool_] | None]  # the same -> for each frame whether the object is not there
OWNER = "TrackingMetric"  # who says in a result folder that its files may be replaced
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


def read_absences(root: str | Path, split: str, labels: Boxes) -> Absences:
    """For each sequence whether the object is not there, where the data set says it; arguments as above.

    Raises:
        ValueError: a file cannot be read.
    """
    return {name: read_absent(Path(root) / split / name, len(boxes)) for name, boxes in labels.items()}


def evaluate(
    folder: str | Path, labels: Boxes, protocol: str = "toolkit", absences: Absences | None = None
) -> dict[str, Curves]:
    """The curves of each sequence, from a tracker's result folder. Files of other names do not count.

    Args:
        folder: the result folder.
        labels: those of ``read_labels``.
        protocol: "toolkit" or "ostrack".
        absences: those of ``read_absences``; ``None``: no object is ever absent.

    Raises:
        ValueError: the folder or a sequence is missing, a file cannot be read or used under the protocol, or all files have two
            corners, or centre and size, for x, y, w, h, or shares of the image for pixels.
    """
    folder = as_path("folder", folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of results; it must have a file NAME.txt for each sequence.")
    missing = [name for name in labels if not (folder / f"{name}.txt").is_file()]
    if missing:
        listed = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise ValueError(
            f"{folder} lacks {len(missing)} of {len(labels)} sequences: {listed}; run its test to the end."
        )
    results = {name: read_boxes(folder / f"{name}.txt") for name in labels}
    _check_form(folder, results, labels)
    found = {}
    for name, truth in labels.items():
        path = folder / f"{name}.txt"
        try:
            found[name] = curves(results[name], truth, (absences or {}).get(name), protocol)
        except ValueError as error:
            raise ValueError(f"{path}, protocol {protocol!r}: {error}") from error
    return found


def _check_form(folder: Path, results: Boxes, labels: Boxes) -> None:
    """Raise ``ValueError`` if the boxes certainly are no x, y, w, h in pixels, as all files together show, or all are NaN.

    Every tracker begins with the first label, which tells its corner and size from its two corners, and from its centre and size.
    """
    starts, truth = (np.stack([boxes[name][0] for name in labels]) for boxes in (results, labels))
    as_labels = (np.abs(starts - truth) <= 2).all(1).any()
    centres = np.concatenate([truth[:, :2] + truth[:, 2:] / 2, truth[:, 2:]], 1)
    if (np.abs(starts - centres) <= 2).all() and not as_labels:
        raise ValueError(
            f"{folder} has the centre of each box for its corner: the first ones are those of the labels, such as "
            f"{starts[0].tolist()} of {truth[0].tolist()}. Boxes are x, y, w, h: subtract half of w and of h."
        )
    corners = np.concatenate([truth[:, :2], truth[:, :2] + truth[:, 2:]], 1)
    begin_with_corners = (np.abs(starts - corners) <= 2).all() and not as_labels
    every = np.concatenate(list(results.values()))
    if begin_with_corners and not (every[:, :2] > every[:, 2:]).any():  # equal, or NaN, where a tracker saw nothing
        raise ValueError(
            f"{folder} has two corners in each line: the first ones are those of the labels, such as {starts[0].tolist()} of "
            f"{truth[0].tolist()}. Boxes are x, y, w, h: write w = x2 - x1 and h = y2 - y1."
        )
    if np.isnan(every).any(1).all():
        raise ValueError(
            f"{folder} has no box, only lines of NaN, as a tracker writes them whose weights have diverged."
        )
    if np.nan_to_num(every).max() <= 1 < np.nan_to_num(truth).max():
        raise ValueError(f"{folder} has no number above 1; boxes are x, y, w, h in pixels, not shares of the image.")


def read_attributes(path: str | Path, labels: Boxes) -> dict[str, list[str]]:
    """Attribute -> the sequences that have it, from a text file with lines "NAME ATTRIBUTE ATTRIBUTE …".

    Raises:
        ValueError: the file is missing, or lacks one of the sequences, or has two lines for one.
    """
    path = Path(path)
    of_name: dict[str, list[str]] = {}
    for line in lines_of(path):
        name, *attributes = spelling(line).replace(",", " ").split() or [line]
        if name in of_name:
            raise ValueError(f"{path} has two lines for {name!r}; put all its attributes into one.")
        of_name[name] = attributes
    missing = [name for name in labels if spelling(name) not in of_name]
    if missing:
        raise ValueError(
            f"{path} has no line for {missing[0]!r} ({len(missing)} of {len(labels)} sequences are missing)."
        )
    own = {name: of_name[spelling(name)] for name in labels}
    return {one: [name for name in labels if one in own[name]] for one in sorted(set().union(*own.values()))}


def check_own_results(folder: Path) -> None:
    """Raise ``ValueError`` if a folder has result files that no test of this package has written, such as another tracker's."""
    found = next(iter(sorted(folder.glob("*.txt"))), None)
    if found is not None and not is_claimed(folder, OWNER) and not (folder / TESTED).exists():
        raise ValueError(
            f"`results` is {str(folder)!r}, which holds {found.name} and more that this test did not write; give another folder."
        )


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
