"""Event files: HDF5 as Tonic and SpikingJelly users read it, or NumPy's ``.npz``.

An HDF5 file has a group ``events`` with the compressed data sets ``t`` (frame), ``x`` (column), ``y`` (row) and ``p``
(polarity), one entry per event in the order of time, and the data set ``labels`` (T, shapes, 2) with the centres as
(row, column); its attributes hold ``frames``, ``height`` and ``width``. A ``.npz`` file has the same arrays, under the
names that SpikingJelly's frame integration takes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import as_path, positive_int
from ..files import replacing
from .damage import explained
from .new_hdf5 import new_hdf5
from .readers import open_recording

SUFFIXES = (".h5", ".hdf5", ".npz")


def write_events(path: str | Path, events: Tensor, labels: Tensor) -> Path:
    """Write one video; the file appears under its name when it is whole.

    Args:
        path: file to write; its suffix is .h5, .hdf5 or .npz.
        events: bool (T, 2, H, W), as ``render`` returns them for one video.
        labels: (T, shapes, 2), the shapes' centres in pixels as (row, column).

    Returns:
        The path.

    Raises:
        TypeError, ValueError: the path has another suffix, or the shapes of the tensors do not fit.
    """
    path = _checked(path)
    for name, value in (("events", events), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise TypeError(f"`{name}` is a {type(value).__name__}; it must be a tensor.")
    if events.ndim != 4 or events.shape[1] != 2 or labels.ndim != 3 or labels.shape[::2] != (len(events), 2):
        raise ValueError(
            f"`events` has shape {tuple(events.shape)} and `labels` {tuple(labels.shape)}; they must be (T, 2, H, W) "
            f"and (T, shapes, 2)."
        )
    t, p, y, x = (a.numpy() for a in events.cpu().nonzero(as_tuple=True))
    columns: dict[str, Any] = dict(t=t, x=x.astype(np.int16), y=y.astype(np.int16), p=p.astype(bool))
    sizes: dict[str, Any] = dict(frames=events.shape[0], height=events.shape[2], width=events.shape[3])
    with replacing(path) as partial:
        if path.suffix.lower() == ".npz":
            with partial.open("wb") as file:
                np.savez_compressed(file, **columns, **sizes, labels=labels.cpu().numpy())
        else:
            _write_hdf5(partial, columns, sizes, labels.cpu().numpy())
    return path


def _write_hdf5(path: Path, columns: dict, sizes: dict, labels: np.ndarray) -> None:
    with new_hdf5(path) as file:
        group = file.create_group("events")
        for name, values in columns.items():
            group.create_dataset(name, data=values, compression="gzip", shuffle=True)
        file.create_dataset("labels", data=labels, compression="gzip")
        file.attrs.update(sizes)


def read_events(path: str | Path, frames: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Read a recording as frames of events.

    Args:
        path: a file of ``write_events``, or of any other format that ``open_recording`` takes.
        frames: T, into which the time from the first to the last event is divided; ``None`` for the frames of a file of
            ``write_events``, whose times count them.

    Returns:
        Events, bool (T, 2, H, W): whether a pixel has one of a polarity; and the labels, float32 (T, shapes, 2), or ``None`` if
        the file has none, or ``frames`` is given.

    Raises:
        ValueError: the file cannot be read, holds events out of range or out of order, or does not count frames.
    """
    recording = open_recording(path)
    labels: Any = None
    if frames is None:
        frames, labels = _frames_and_labels(recording.path)
        bounds = list(range(frames + 1))
    else:
        frames = positive_int("frames", frames)
        pieces = [(int(events.t[0]), int(events.t[-1])) for events in recording]
        first, span = (pieces[0][0], pieces[-1][1] + 1 - pieces[0][0]) if pieces else (0, 1)
        # The first whole microsecond of each frame; fractions of them, added to the time of day, would be rounded.
        bounds = [first - (-i * span // frames) for i in range(frames + 1)]
    seen = torch.zeros(frames, 2, *recording.size, dtype=torch.bool)
    for t, x, y, p in recording:
        if t[0] < bounds[0] or t[-1] >= bounds[-1]:
            raise ValueError(f"{path}: t holds values from {t[0]} to {t[-1]}; it must be in [0, {frames - 1}].")
        frame = np.searchsorted(bounds, t, side="right") - 1
        seen[tuple(map(torch.from_numpy, (frame, p, y, x)))] = True
    return seen, None if labels is None else torch.from_numpy(np.asarray(labels)).float()


def _frames_and_labels(path: Path) -> tuple[int, np.ndarray | None]:
    """Number of frames that a file says, and its labels if it has any."""
    found: Any = None
    labels = None
    with explained(path, ValueError):
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as file:
                found, labels = file.get("frames"), file.get("labels")
        elif path.suffix.lower() in SUFFIXES:
            import h5py

            with h5py.File(path, "r") as file:
                found, labels = file.attrs.get("frames"), file["labels"][()] if "labels" in file else None
    if found is None:
        raise ValueError(
            f"{path} does not say how many frames it has, so its times are microseconds; give `frames`, into which they are "
            f"divided."
        )
    frames = int(found)
    if labels is not None and np.shape(labels)[:1] != (frames,):
        raise ValueError(
            f"{path} has labels of shape {np.shape(labels)}, and says that it has {frames} frames; make it again."
        )
    return frames, labels


def frame_count(path: str | Path) -> int:
    """Number of frames of one file, from its header; no events are read.

    Raises:
        ValueError: the file cannot be read, or does not say how many frames it has.
    """
    return _frames_and_labels(_checked(path))[0]


def _checked(path: str | Path) -> Path:
    """The path, if its suffix is one of ``SUFFIXES``."""
    path = as_path("path", path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"`path` is {str(path)!r}; it must end with one of {', '.join(SUFFIXES)}.")
    return path
