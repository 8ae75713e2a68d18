"""Open event files: which reader is for which format.

AEDAT4, Prophesee RAW and DAT, and Event Stream are read by the package ``faery`` (LGPL-3.0), which agrees with the camera
makers' own libraries about all files that were compared; HDF5 by h5py, the rest by NumPy.
"""

import csv
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import require
from .recording import Events, Frame, Recording

PIECE = 1 << 20  # events that are read at a time
_FAERY = {".aedat4": "aedat", ".aedat": "aedat", ".raw": "evt", ".dat": "dat", ".es": "es"}
FORMATS = (*_FAERY, ".h5", ".hdf5", ".npz", ".csv")
# Names of the columns in other people's files.
_NAMES = {
    "t": ("t", "ts", "timestamp", "timestamps", "time"),
    "x": ("x", "col", "column"),
    "y": ("y", "row"),
    "p": ("p", "pol", "polarity", "on"),
}
_OLD_DAT = bytes((0, 8))  # the event type "2d" of the first DAT files, and the bytes of an event


def open_recording(path: str | Path, size: tuple[int, int] | None = None) -> Recording:
    """Open an event file: AEDAT4, Prophesee RAW (EVT2, EVT2.1, EVT3) and DAT, Event Stream, HDF5, NPZ or CSV.

    HDF5 files have the data sets t, x, y, p in their root or in a group ``events`` (ours, Tonic's, DSEC's, RVT's), NPZ files the
    arrays t, x, y, p (ours, SpikingJelly's), and CSV files a line with the names of their columns. Files of ``write_events``
    count time in frames.

    Args:
        path: the file.
        size: (height, width) of the sensor; ``None`` for what the file says, or the smallest that holds all events.

    Raises:
        ValueError: the file is missing, of an unknown format, damaged, or lacks a column.
        ImportError: a package is missing; the message names the pip command.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path} ends with none of {', '.join(FORMATS)}; these formats can be read.")
    if not path.is_file():
        raise ValueError(f"there is no event file {path}.")
    suffix = path.suffix.lower()
    try:
        if suffix in _FAERY:
            is_old = suffix == ".dat" and _dat_header(path)[1] == _OLD_DAT
            return _old_dat(path, size) if is_old else _by_faery(path, size)
        opener: Callable[..., Recording] = {".npz": _npz, ".csv": _csv}.get(suffix, _hdf5)
        return opener(path, size)
    except (OSError, KeyError, EOFError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(f"{path} cannot be read as an event file: {line}. It may be cut off, or of another format.")


def _by_faery(path: Path, size: tuple[int, int] | None) -> Recording:
    require("faery", extra="events")
    import faery

    with path.open("rb") as file:
        head = file.read(12)
    if path.suffix.lower() in (".raw", ".dat") and head[:1] != b"%":
        raise OSError("it has no header of lines that start with %")
    if head.startswith(b"#!AER-DAT") and head[9:10] != b"4":
        raise ValueError(
            f"{path} is AEDAT {head[9:].decode(errors='replace')}, and of AEDAT version 4 alone is read. EventFolder has "
            f"CIFAR10-DVS and DVS128 Gesture converted by SpikingJelly; another file of version 3.1: load it by "
            f"spikingjelly.datasets.utils.load_aedat_v3, and write_recording(PATH, Events.of(**events), size)."
        )
    fallback: dict[str, Any] = {} if size is None else dict(dimensions_fallback=size[::-1])

    def stream() -> Any:
        try:
            return faery.events_stream_from_file(path, **fallback)
        except Exception as error:  # faery's errors are plain Exceptions
            raise _unreadable(path, error) from error

    def pieces() -> Iterator[Events]:
        found = iter(stream())
        while True:
            try:
                piece = next(found, None)
            except Exception as error:
                raise _unreadable(path, error) from error
            if piece is None:
                return
            yield Events(*(piece[name].astype(np.int64) for name in ("t", "x", "y", "on")))

    def pictures() -> Iterator[Frame]:
        with faery.aedat.Decoder(path) as decoder:
            packets = iter(decoder)
            while True:
                try:
                    found = next(packets, None)
                except Exception as error:
                    raise _unreadable(path, error) from error
                if found is None:
                    return
                track, packet = found
                if track.data_type == "frame":
                    yield Frame(int(packet.t), int(packet.start_t), np.asarray(packet.pixels))

    width, height = stream().dimensions()
    return Recording(
        path, size or (height, width), pieces, pictures if path.suffix.lower().startswith(".aedat") else None
    )


def _dat_header(path: Path) -> tuple[int, bytes]:
    """Where a DAT file's binary part starts, and its first two bytes: the type of the events, and their size."""
    with path.open("rb") as file:
        start = 0
        while file.readline(1000).startswith(b"%"):
            start = file.tell()
        file.seek(start)
        return start, file.read(2)


def _old_dat(path: Path, size: tuple[int, int] | None) -> Recording:
    """DAT files of the event type "2d", which faery does not read: 32 bits of time, 14 of column and row each, polarity."""
    start = _dat_header(path)[0] + 2
    count, rest = divmod(path.stat().st_size - start, 8)
    if rest:
        raise EOFError(f"its last event has {rest} of 8 bytes")
    words = np.memmap(path, "<u4", "r", start, (count, 2)) if count else np.zeros((0, 2), "<u4")

    def pieces() -> Iterator[Events]:
        for i in range(0, len(words), PIECE):
            t, word = words[i : i + PIECE].T
            yield Events.of(t, word & 0x3FFF, word >> 14 & 0x3FFF, word >> 28 & 1)

    return Recording(path, size or _smallest(pieces()), pieces)


def _npz(path: Path, size: tuple[int, int] | None) -> Recording:
    if not zipfile.is_zipfile(path):
        raise zipfile.BadZipFile("it is no zip archive of arrays")
    with np.load(path, allow_pickle=False) as file:
        names = _columns(path, file.keys())
        try:
            columns = [file[name] for name in names]
        except (ValueError, zlib.error) as error:  # objects, or a damaged array
            raise _unreadable(path, error) from error
        events = _events(path, *columns)
        known = (int(file["height"]), int(file["width"])) if {"height", "width"} <= set(file.keys()) else None
    return Recording(path, size or known or _smallest([events]), lambda: iter([events]))


def _hdf5(path: Path, size: tuple[int, int] | None) -> Recording:
    import h5py

    with h5py.File(path, "r") as file:
        group = "events" if "events" in file and isinstance(file["events"], h5py.Group) else "/"
        names = _columns(path, file[group].keys())
        offset = int(file["t_offset"][()]) if "t_offset" in file else 0  # DSEC's
        stored = {k: file[group][k][()] for k in ("height", "width") if k in file[group]}  # RVT's
        sizes: Mapping[str, Any] = {**file.attrs, **file[group].attrs, **stored}
        known = (int(sizes["height"]), int(sizes["width"])) if {"height", "width"} <= sizes.keys() else None

    def pieces() -> Iterator[Events]:
        try:
            with h5py.File(path, "r") as file:
                columns = [file[group][name] for name in names]
                for i in range(0, max(map(len, columns)), PIECE):
                    t, x, y, p = _events(path, *(column[i : i + PIECE] for column in columns))
                    yield Events(t + offset, x, y, p)
        except OSError as error:
            raise _unreadable(path, error) from error

    return Recording(path, size or known or _smallest(pieces()), pieces)


def _csv(path: Path, size: tuple[int, int] | None) -> Recording:
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = [name.strip().lower() for name in next(csv.reader(file), [])]
    order = [header.index(name) for name in _columns(path, header)]

    def pieces() -> Iterator[Events]:
        with path.open(newline="", encoding="utf-8-sig") as file:
            file.readline()
            while lines := list(islice(file, PIECE)):
                try:
                    columns = np.loadtxt(lines, delimiter=",", usecols=order, ndmin=2)
                except ValueError as error:
                    raise _unreadable(path, error) from error
                yield _events(path, *columns.T)

    return Recording(path, size or _smallest(pieces()), pieces)


def _events(path: Path, *columns: Any) -> Events:
    """Events of the arrays t, x, y, p of a file.

    Raises:
        ValueError: an array has other axes than the others, or numbers that are no microseconds, pixels or polarities.
    """
    named: dict[str, Any] = dict(zip(_NAMES, map(np.asarray, columns), strict=True))
    shapes = {name: values.shape for name, values in named.items()}
    if len(set(shapes.values())) > 1 or named["t"].ndim != 1:
        raise ValueError(
            f"{path}: its columns have the shapes {shapes}; they must have one axis, and an entry for each event."
        )
    for name, values in named.items():
        if values.dtype.kind not in "biuf":
            raise ValueError(f"{path}: {name} has entries of type {values.dtype}; they must be numbers.")
        whole = np.isfinite(values) & (values == np.trunc(values)) if values.dtype.kind == "f" else np.ones(1, bool)
        wrong = np.flatnonzero(~whole)
        if len(wrong):
            unit = "microseconds; seconds must be multiplied by 1,000,000" if name == "t" else "without fractions"
            raise ValueError(
                f"{path}: event {wrong[0]} has {name}={values[wrong[0]]}; {name} must be whole numbers, {unit}."
            )
    odd = np.flatnonzero((named["p"] > 1) | (named["p"] < -1)) if named["p"].dtype.kind != "b" else np.arange(0)
    if len(odd):
        raise ValueError(f"{path}: event {odd[0]} has p={named['p'][odd[0]]}; a polarity is 0 or 1, or -1 or 1.")
    return Events.of(*named.values())


def _columns(path: Path, present: Any) -> list[str]:
    """The names under which a file has t, x, y and p.

    Raises:
        ValueError: one of them is missing.
    """
    known = {str(name).lower(): str(name) for name in present}
    names = [next((known[name] for name in choices if name in known), None) for choices in _NAMES.values()]
    missing = [column for column, name in zip(_NAMES, names, strict=True) if name is None]
    if missing:
        raise ValueError(f"{path} has {', '.join(known) or 'nothing'}, and no events' {', '.join(missing)}.")
    return [name for name in names if name is not None]


def _smallest(pieces: Any) -> tuple[int, int]:
    """The smallest (height, width) that holds all events."""
    height = width = 1
    for events in pieces:
        if events.number:
            height, width = max(height, int(events.y.max()) + 1), max(width, int(events.x.max()) + 1)
    return height, width
