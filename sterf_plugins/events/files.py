"""Event files: HDF5 as Tonic and SpikingJelly users read it, or NumPy's ``.npz``.

An HDF5 file has a group ``events`` with the compressed data sets ``t`` (frame), ``x`` (column), ``y`` (row) and ``p``
(polarity), one entry per event in the order of time, and the data set ``labels`` (T, shapes, 2) with the centres as
(row, column); its attributes hold ``frames``, ``height`` and ``width``. A ``.npz`` file has the same arrays, under the
names that SpikingJelly's frame integration takes.
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files import replacing

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
        ValueError: the path has another suffix, or the shapes of the tensors do not fit.
    """
    path = _checked(path)
    if events.ndim != 4 or events.shape[1] != 2 or len(labels) != len(events):
        raise ValueError(
            f"`events` has shape {tuple(events.shape)} and `labels` {tuple(labels.shape)}; they must be (T, 2, H, W) "
            f"and (T, shapes, 2)."
        )
    t, p, y, x = (a.numpy() for a in events.cpu().nonzero(as_tuple=True))
    columns: dict[str, Any] = dict(t=t, x=x.astype(np.int16), y=y.astype(np.int16), p=p.astype(bool))
    sizes: dict[str, Any] = dict(frames=events.shape[0], height=events.shape[2], width=events.shape[3])
    with replacing(path) as partial:
        if path.suffix == ".npz":
            with partial.open("wb") as file:
                np.savez_compressed(file, **columns, **sizes, labels=labels.cpu().numpy())
        else:
            _write_hdf5(partial, columns, sizes, labels.cpu().numpy())
    return path


def _write_hdf5(path: Path, columns: dict, sizes: dict, labels: np.ndarray) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        group = file.create_group("events")
        for name, values in columns.items():
            group.create_dataset(name, data=values, compression="gzip", shuffle=True)
        file.create_dataset("labels", data=labels, compression="gzip")
        file.attrs.update(sizes)


def read_events(path: str | Path) -> tuple[Tensor, Tensor]:
    """Read the events, bool (T, 2, H, W), and the labels, float32 (T, shapes, 2), of one file.

    Raises:
        ValueError: the file cannot be read, lacks an array, or holds events out of range or out of order.
    """
    path = _checked(path)
    with _explained(path):
        columns, sizes, labels = _read_npz(path) if path.suffix == ".npz" else _read_hdf5(path)
    t, x, y, p = (torch.from_numpy(np.asarray(columns[k]).astype(np.int64)) for k in "txyp")
    frames, height, width = (int(sizes[k]) for k in ("frames", "height", "width"))
    for name, values, limit in (("t", t, frames), ("x", x, width), ("y", y, height), ("p", p, 2)):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < limit:
            raise ValueError(
                f"{path}: {name} holds values from {int(values.min())} to {int(values.max())}; it must be in "
                f"[0, {limit - 1}]."
            )
    if bool((t.diff() < 0).any()):
        raise ValueError(f"{path}: the events are not in the order of time; sort them by t.")
    events = torch.zeros(frames, 2, height, width, dtype=torch.bool)
    events[t, p, y, x] = True
    return events, torch.from_numpy(np.asarray(labels)).float()


def frame_count(path: str | Path) -> int:
    """Number of frames of one file, from its header; no events are read.

    Raises:
        ValueError: the file cannot be read, or does not say how many frames it has.
    """
    path = _checked(path)
    with _explained(path):
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return int(file["frames"])
        import h5py

        with h5py.File(path, "r") as file:
            return int(file.attrs["frames"])


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the errors of files that are damaged, or of another kind, into one that says so."""
    try:
        yield
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is no event file that can be read ({type(error).__name__}: {str(error).splitlines()[0]}); it needs "
            f"events t, x, y, p and labels. Generate it again."
        ) from error


def _read_npz(path: Path) -> tuple[dict, dict, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {k: file[k] for k in "txyp"}, {k: file[k] for k in ("frames", "height", "width")}, file["labels"]


def _read_hdf5(path: Path) -> tuple[dict, dict, np.ndarray]:
    import h5py

    with h5py.File(path, "r") as file:
        return {k: file["events"][k][()] for k in "txyp"}, dict(file.attrs), file["labels"][()]


def _checked(path: str | Path) -> Path:
    """The path, if its suffix is one of ``SUFFIXES``."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"`path` is {str(path)!r}; it must end with one of {', '.join(SUFFIXES)}.")
    return path
