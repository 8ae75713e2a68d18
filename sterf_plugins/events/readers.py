"""Open event files: which reader is for which format, and those of files of arrays: HDF5 by h5py, NPZ and CSV by NumPy."""

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import as_path, one_of
from .arrays import UNITS, Events, check_shapes, in_microseconds, sensor_size
from .damage import explained, unreadable
from .faery_formats import FAERY, by_faery
from .prophesee import is_old_dat, old_dat
from .recording import PIECE, Recording, smallest_sensor

FORMATS = (*FAERY, ".h5", ".hdf5", ".npz", ".csv")
# Names of the columns in other people's files.
_NAMES = {
    "t": ("t", "ts", "timestamp", "timestamps", "time"),
    "x": ("x", "xs", "col", "column"),
    "y": ("y", "ys", "row"),
    "p": ("p", "ps", "pol", "polarity", "on"),
}
# What other files than recordings begin with.
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


def open_recording(path: str | Path, size: tuple[int, int] | None = None, time_unit: str = "us") -> Recording:
    """Open an event file: AEDAT4, Prophesee RAW (EVT2, EVT3) and DAT, Event Stream, HDF5, NPZ or CSV.

    HDF5 files have the data sets t, x, y, p in their root or in a group ``events`` (ours, Tonic's, DSEC's, RVT's), NPZ files the
    arrays t, x, y, p (ours, SpikingJelly's), and CSV files a line with the names of their columns. Files of ``write_events``
    count time in frames.

    Args:
        path: the file.
        size: (height, width) of the sensor; ``None`` for what the file says, or the smallest that holds all events. RAW and DAT
            files that do not say it, as those of older cameras, count as (720, 1280).
        time_unit: "us", "ms", "s" or "ns", in which an HDF5, NPZ or CSV file counts its times, since it does not say it; events
            have microseconds in any case.

    Raises:
        TypeError, ValueError: the file is missing, of an unknown format, damaged, or lacks a column; ``size`` is no size, or
            ``time_unit`` no unit, or another one than that of the format.
        ImportError: a package is missing; the message names the pip command.
    """
    path, size = as_path("path", path), None if size is None else sensor_size(size)
    one_of("time_unit", time_unit, UNITS)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path} ends with none of {', '.join(FORMATS)}; these formats can be read.")
    if not path.is_file():
        raise ValueError(f"there is no event file {path}.")
    suffix = path.suffix.lower()
    if suffix in FAERY and time_unit != "us":
        raise ValueError(
            f"`time_unit` is {time_unit!r}, and files of the format {suffix} have microseconds; leave it out."
        )
    with explained(path):
        with path.open("rb") as file:
            head = file.read(8)
        packed = next((name for mark, name in _PACKED.items() if head.startswith(mark)), None)
        if packed and not (packed == "zip" and suffix == ".npz"):
            raise ValueError(f"{path} is packed by {packed}; unpack it first.")
        if suffix in FAERY:
            return old_dat(path, size) if is_old_dat(path) else by_faery(path, size)
        opener: Callable[..., Recording] = {".npz": _npz, ".csv": _csv}.get(suffix, _hdf5)
        return opener(path, size, time_unit)


def _npz(path: Path, size: tuple[int, int] | None, unit: str) -> Recording:
    if not zipfile.is_zipfile(path):
        raise zipfile.BadZipFile("it is no zip archive of arrays")
    with explained(path, ValueError):  # of an archive that is damaged at its beginning
        file = np.load(path, allow_pickle=False)
    with file:
        names = _columns(path, file.keys())
        with explained(path, ValueError):  # of arrays of objects
            columns = [file[name] for name in names]
            said = {name: file[name] for name in ("height", "width") if name in file}
    return _of_columns(path, size or _known_size(path, said), lambda: nullcontext(columns), unit)


def _of_columns(
    path: Path,
    size: tuple[int, int] | None,
    opened: Callable[[], AbstractContextManager[Sequence[Any]]],
    unit: str,
    offset: int = 0,
) -> Recording:
    """A recording whose columns t, x, y, p can be read from any place.

    Args:
        path: the file.
        size: (height, width) of the sensor, if that is known.
        opened: function that opens the file and gives its columns.
        unit: of the times.
        offset: what is added to the times, in microseconds.

    Raises:
        ValueError: a column has other axes than the others.
    """

    def pieces() -> Iterator[Events]:
        with explained(path), opened() as columns:
            for i in range(0, len(columns[0]), PIECE):
                events = _events(path, i, unit, *(column[i : i + PIECE] for column in columns))
                yield _events(path, i, "us", events.t + offset, *events[1:]) if offset else events

    with opened() as columns:
        try:
            check_shapes({name: getattr(column, "shape", None) for name, column in zip(_NAMES, columns, strict=True)})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return Recording(path, size or smallest_sensor(pieces()), pieces)


def _hdf5(path: Path, size: tuple[int, int] | None, unit: str) -> Recording:
    import h5py

    with suppress(ImportError):  # it makes more filters of compressed data sets known to HDF5
        import hdf5plugin  # noqa: F401
    with h5py.File(path, "r") as file:
        group = "events" if isinstance(file.get("events"), h5py.Group) else "/"
        names = _columns(path, file[group].keys())
        for name in names:
            _check_filters(path, name, file[group][name])
        offset = _number(path, "t_offset", file["t_offset"][()]) if "t_offset" in file else 0  # files of DSEC have it
        if offset and unit != "us":
            raise ValueError(f"{path} has a t_offset, as DSEC's files, which have microseconds; leave out `time_unit`.")
        if abs(offset) >= 2**53:
            raise ValueError(f"{path}: t_offset is {offset}; it must be whole microseconds.")
        sides = [name for name in ("height", "width") if name in file[group]]  # files of RVT have them
        stored = {name: file[group][name][()] for name in sides}
        size = size or _known_size(path, {**file.attrs, **file[group].attrs, **stored})

    @contextmanager
    def opened() -> Iterator[Sequence[Any]]:
        with h5py.File(path, "r") as file:
            yield [file[group][name] for name in names]

    return _of_columns(path, size, opened, unit, offset)


def _check_filters(path: Path, name: str, column: Any) -> None:
    """Raise ``ValueError`` for a data set that is compressed by a filter which is not here, as Blosc, by which DSEC's are."""
    import h5py

    if not isinstance(column, h5py.Dataset):
        return
    options = column.id.get_create_plist()
    filters = [options.get_filter(i)[0] for i in range(options.get_nfilters())]
    lacking = next((number for number in filters if not h5py.h5z.filter_avail(number)), None)
    if lacking is not None:
        raise ValueError(
            f"{path}: {name} is compressed by filter {lacking} of HDF5, which is not here; `pip install hdf5plugin` brings the "
            f"usual ones (32001 is Blosc)."
        )


def _known_size(path: Path, said: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) that a file says, if it does.

    Raises:
        ValueError: it says one of them alone, or something else than the size of a sensor.
    """
    there = [name for name in ("height", "width") if name in said]
    if not there:
        return None
    size = [_number(path, name, said[name]) for name in there]
    if len(size) == 1:
        raise ValueError(
            f"{path} says that its {there[0]} is {size[0]}, and not the other side; write both, or give the size of the sensor, "
            f"(height, width)."
        )
    try:
        return sensor_size(size, "height, width")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _number(path: Path, name: str, value: Any) -> int:
    """A whole number that a file says beside its events.

    Raises:
        ValueError: it is something else.
    """
    found = np.asarray(value)
    if found.size != 1 or found.dtype.kind not in "iuf" or not float(found.item()).is_integer():
        raise ValueError(f"{path}: {name} is {str(value)[:40]}; it must be one whole number.")
    return int(found.item())


def _csv(path: Path, size: tuple[int, int] | None, unit: str) -> Recording:
    with path.open(newline="", encoding="utf-8-sig") as file:
        line = file.readline().lstrip("# ")  # NumPy writes a # in front of the names
    mark = max(",;\t", key=line.count)
    separator = mark if mark in line else None  # any number of spaces
    header = [name.strip().strip('"').lower() for name in line.strip().split(separator)]
    try:
        order = [header.index(name) for name in _columns(path, header)]
    except ValueError as error:
        raise ValueError(f"{error} The first line must name the columns, between commas.") from error

    def pieces() -> Iterator[Events]:
        done = 0
        with path.open(newline="", encoding="utf-8-sig") as file:
            file.readline()
            while lines := list(islice(file, PIECE)):
                written = [line for line in lines if line.strip() and not line.startswith("#")]
                if not written:
                    continue
                wrong = next((line for line in written if len(line.split(separator)) != len(header)), None)
                if wrong is not None:
                    raise ValueError(f"{path} has {len(header)} columns, and the line {wrong.strip()[:60]!r}.")
                try:
                    columns = np.loadtxt(written, delimiter=separator, usecols=order, ndmin=2, quotechar='"')
                except ValueError as error:
                    hint = "Its columns t, x, y and p must be numbers, p of them 0 or 1, or -1 or 1."
                    raise unreadable(path, error, hint) from error
                yield _events(path, done, unit, *columns.T)
                done += len(columns)

    return Recording(path, size or smallest_sensor(pieces()), pieces)


def _events(path: Path, first: int, unit: str, t: Any, *columns: Any) -> Events:
    """Events of the columns t, x, y, p of a file, whose messages name it."""
    try:
        return Events.of(in_microseconds(np.asarray(t), unit), *columns, first=first)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _columns(path: Path, present: Any) -> list[str]:
    """The names under which a file has t, x, y and p.

    Raises:
        ValueError: one of them is missing, or there under several names.
    """
    names_there = [str(name) for name in present]
    known = {name.lower(): name for name in names_there}
    for column, choices in _NAMES.items():
        alike = [name for name in names_there if name.lower() in choices]
        if len(alike) > 1:
            raise ValueError(f"{path} has {' and '.join(map(repr, alike))}, each of which may be {column}; keep one.")
    names = [next((known[name] for name in choices if name in known), None) for choices in _NAMES.values()]
    missing = [column for column, name in zip(_NAMES, names, strict=True) if name is None]
    if missing:
        there = ", ".join(repr(name[:40]) for name in list(known)[:8]) or "nothing"
        raise ValueError(f"{path} has {there}, and no events' {', '.join(missing)}.")
    return [name for name in names if name is not None]
