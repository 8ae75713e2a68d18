"""Open event files: which reader is for which format.

AEDAT4, Prophesee RAW and DAT, and Event Stream are read by the package ``faery`` (LGPL-3.0), which agrees with the camera
makers' own libraries about all files that were compared; HDF5 by h5py, the rest by NumPy.
"""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import require
from .arrays import Events, check_shapes, sensor_size
from .recording import Frame, Recording

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
# What other files than recordings begin with.
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
# What NumPy, h5py and zipfile raise for files that are damaged, or of another kind.
_DAMAGED = (OSError, KeyError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, UnicodeDecodeError, TokenError)
_WORDS = {b"2": 4, b"3": 2}  # version of Prophesee's RAW format -> bytes of a word
_OLD_DAT = bytes((0, 8))  # the event type "2d" of the first DAT files, and the bytes of an event


def open_recording(path: str | Path, size: tuple[int, int] | None = None) -> Recording:
    """Open an event file: AEDAT4, Prophesee RAW (EVT2, EVT3) and DAT, Event Stream, HDF5, NPZ or CSV.

    HDF5 files have the data sets t, x, y, p in their root or in a group ``events`` (ours, Tonic's, DSEC's, RVT's), NPZ files the
    arrays t, x, y, p (ours, SpikingJelly's), and CSV files a line with the names of their columns. Files of ``write_events``
    count time in frames.

    Args:
        path: the file.
        size: (height, width) of the sensor; ``None`` for what the file says, or the smallest that holds all events. RAW and DAT
            files that do not say it, as those of older cameras, count as (720, 1280).

    Raises:
        TypeError, ValueError: the file is missing, of an unknown format, damaged, or lacks a column; ``size`` is no size.
        ImportError: a package is missing; the message names the pip command.
    """
    path, size = Path(path), None if size is None else sensor_size(size)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path} ends with none of {', '.join(FORMATS)}; these formats can be read.")
    if not path.is_file():
        raise ValueError(f"there is no event file {path}.")
    suffix = path.suffix.lower()
    with explained(path):
        with path.open("rb") as file:
            head = file.read(8)
        packed = next((name for mark, name in _PACKED.items() if head.startswith(mark)), None)
        if packed and not (packed == "zip" and suffix == ".npz"):
            raise ValueError(f"{path} is packed by {packed}; unpack it first.")
        if suffix in _FAERY:
            is_old = suffix == ".dat" and _header(path)[1][:2] == _OLD_DAT
            return _old_dat(path, size) if is_old else _by_faery(path, size)
        opener: Callable[..., Recording] = {".npz": _npz, ".csv": _csv}.get(suffix, _hdf5)
        return opener(path, size)


@contextmanager
def explained(
    path: Path, *others: type[Exception], hint: str = "It may be cut off, or of another format."
) -> Iterator[None]:
    """Turn what other libraries raise for a file that cannot be read into a ``ValueError`` of one line.

    Args:
        path: the file.
        others: more types of such errors, where no line of this package inside raises them.
        hint: the end of the message.
    """
    kinds: tuple[type[Exception], ...] = (*_DAMAGED, *others)
    try:
        yield
    except kinds as error:
        raise _unreadable(path, error, hint) from error


def _unreadable(path: Path, error: BaseException, hint: str = "It may be cut off, or of another format.") -> ValueError:
    line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    line = "".join(c if c.isprintable() else "?" for c in line[:200])
    return ValueError(f"{path} cannot be read as an event file: {line}. {hint}")


def _by_faery(path: Path, size: tuple[int, int] | None) -> Recording:
    require("faery", extra="events")
    import faery

    is_prophesee = path.suffix.lower() in (".raw", ".dat")
    word = _check_length(path) if is_prophesee else 0
    with path.open("rb") as file:
        head = file.read(12)
    if head.startswith(b"#!AER-DAT") and head[9:10] != b"4":
        raise ValueError(
            f"{path} is AEDAT {head[9:].decode(errors='replace')}, and of AEDAT version 4 alone is read. EventFolder has "
            f"CIFAR10-DVS and DVS128 Gesture converted by SpikingJelly; another file of version 3.1: load it by "
            f"spikingjelly.datasets.utils.load_aedat_v3, and write_recording(PATH, Events.of(**events), size)."
        )
    fallback: dict[str, Any] = {} if size is None else dict(dimensions_fallback=size[::-1])

    def stream() -> Any:
        with _of_faery(path):
            return faery.events_stream_from_file(path, **fallback)

    def pieces() -> Iterator[Events]:
        found = iter(stream())
        while True:
            with _of_faery(path):
                piece = next(found, None)
            if piece is None:
                return
            yield Events(*(piece[name].astype(np.int64) for name in ("t", "x", "y", "on")))

    def pictures() -> Iterator[Frame]:
        one_stream("frame")
        with faery.aedat.Decoder(path) as decoder:
            packets = iter(decoder)
            while True:
                with _of_faery(path):
                    found = next(packets, None)
                if found is None:
                    return
                track, packet = found
                if track.data_type == "frame":
                    yield Frame(int(packet.t), int(packet.start_t), np.asarray(packet.pixels))

    def one_stream(kind: str) -> None:
        with _of_faery(path), faery.aedat.Decoder(path) as decoder:
            count = sum(track.data_type == kind for track in decoder.tracks())
        if count > 1:
            raise ValueError(
                f"{path} has {count} streams of type {kind!r}, as of several cameras; write each into a file of its own, by "
                f"dv_processing.io.MonoCameraWriter."
            )

    frames = None
    if path.suffix.lower().startswith(".aedat"):
        one_stream("events")
        frames = pictures
    width, height = stream().dimensions()
    own = (height, width)

    def ordered() -> Iterator[Events]:
        return _in_order(path, pieces(), word)

    return Recording(path, size or own, ordered if is_prophesee else pieces, frames, inside=size in (None, own))


@contextmanager
def _of_faery(path: Path) -> Iterator[None]:
    """Turn faery's errors, which are plain Exceptions or where its Rust code panics none, into a ``ValueError`` of one line."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise _unreadable(path, error) from error


def _in_order(path: Path, pieces: Iterable[Events], word: int) -> Iterator[Events]:
    """The events of a RAW or DAT file that faery reads, unless they go back in time, which its times do not show.

    It takes such an event for the end of a round of the clock, or in a DAT or EVT3 file gives it the time of the one before.

    Args:
        path: the file.
        pieces: its events, as faery reads them.
        word: bytes of a word, by which EVT2 and EVT3 differ.
    """
    clock = _check_clock(path) if word == _WORDS[b"3"] else iter(())
    is_dat = path.suffix.lower() == ".dat"
    stored, round_ = (_stored_times(path), 2**32) if is_dat else (None, 2**34)  # µs after which the clock begins anew
    done = first = last = 0
    for events in pieces:
        next(clock, None)
        if events.number:
            first, last = (first, last) if done else (int(events.t[0]),) * 2
            wrong = np.diff(events.t, prepend=last) > round_ // 2
            if stored is not None:
                since_first = stored[done : done + events.number].astype(np.int64) - int(stored[0])
                wrong |= (events.t - first - since_first) % round_ != 0
            if wrong.any():
                raise ValueError(f"{path} goes back in time at event {done + wrong.argmax()}; sort its events by time.")
            done, last = done + events.number, int(events.t[-1])
        yield events
    for _ in clock:
        pass


def _check_clock(path: Path) -> Iterator[None]:
    """Look at the clock of an EVT3 file, a piece of the file at a time: words of type 8 count every 4096 µs, up to 4095.

    Raises:
        ValueError: it goes back; or it leaves out the end of a round, or begins in its last 8 ms, which faery does not follow.
    """
    start, before = _header(path)[2], 0
    words = np.memmap(path, "<u2", "r", start) if path.stat().st_size > start else np.zeros(0, "<u2")
    for i in range(0, len(words), PIECE):
        piece = words[i : i + PIECE]
        at = np.flatnonzero(piece >> 12 == 8)
        counts = (piece[at] & 4095).astype(int)
        steps = np.diff(counts, prepend=before)
        wrong = np.flatnonzero((steps < 0) & (steps != -4095) | (steps >= 4094))
        if len(wrong):
            raise ValueError(
                f"{path}: at its word {i + at[wrong[0]]} the clock, which counts from 0 to 4095 again and again, jumps from "
                f"{counts[wrong[0]] - steps[wrong[0]]} to {counts[wrong[0]]}, and later times would be wrong; sort its events by "
                f"time, or convert it to HDF5 by the camera maker's tools."
            )
        before = counts[-1] if len(counts) else before
        yield


def _stored_times(path: Path) -> NDArray[np.uint32]:
    """The times in a DAT file, modulo 2**32."""
    start = _header(path)[2] + 2
    count = (path.stat().st_size - start) // 8
    return np.memmap(path, "<u4", "r", start, (count, 2))[:, 0] if count else np.zeros(0, np.uint32)


def _header(path: Path) -> tuple[list[bytes], bytes, int]:
    """The lines of a RAW or DAT file's header, the eight bytes after it, and the number of the first of them.

    Not every byte of % begins a line: it may be a part of the first event.
    """
    with path.open("rb") as file:
        start, lines = 0, []
        while (line := file.readline(1000)).startswith(b"% ") or (line.startswith(b"%") and line.isascii()):
            start = file.tell()
            lines.append(line)
            if line.rstrip() == b"% end":
                break
        file.seek(start)
        return lines, file.read(8), start


def _check_length(path: Path) -> int:
    """The bytes of a word of a RAW or DAT file.

    Raises:
        EOFError: it ends in its header, or in the middle of a word.
        ValueError: a RAW file is of a version that is not read.
    """
    lines, following, start = _header(path)
    if not lines or not lines[-1].endswith(b"\n"):
        raise EOFError("it has no header of lines that start with %, or ends in it")
    if path.suffix.lower() == ".dat":
        start, word = start + 2, following[1] if len(following) > 1 else 8
    else:
        found = re.search(rb"evt ?(2\.1|21|2|3)", b"".join(lines), re.IGNORECASE)
        if found is None or found[1] not in _WORDS:
            version = "EVT2.1" if found else "of an unknown version, which its header does not say"
            raise ValueError(
                f"{path} is {version}, and of RAW files EVT2 and EVT3 are read; convert it to one of them, or to HDF5, by the "
                f"camera maker's tools."
            )
        word = _WORDS[found[1]]
    rest = (path.stat().st_size - start) % max(word, 1)
    if rest:
        raise EOFError(f"its last event has {rest} of {word} bytes")
    return word


def _old_dat(path: Path, size: tuple[int, int] | None) -> Recording:
    """DAT files of the event type "2d", which faery does not read: 32 bits of time, 14 of column and row each, polarity.

    In version 1 columns have 9 bits, and rows 8.
    """
    _check_length(path)
    lines, _, start = _header(path)
    start += 2
    x_bits, y_bits = (9, 8) if any(line.split()[1:] == [b"Version", b"1"] for line in lines) else (14, 14)
    count = (path.stat().st_size - start) // 8
    words = np.memmap(path, "<u4", "r", start, (count, 2)) if count else np.zeros((0, 2), "<u4")

    def pieces() -> Iterator[Events]:
        for i in range(0, len(words), PIECE):
            t, word = words[i : i + PIECE].T
            x, y = word & (1 << x_bits) - 1, word >> x_bits & (1 << y_bits) - 1
            yield Events.of(t, x, y, word >> x_bits + y_bits & 1)

    return Recording(path, size or _smallest(pieces()), pieces)


def _npz(path: Path, size: tuple[int, int] | None) -> Recording:
    if not zipfile.is_zipfile(path):
        raise zipfile.BadZipFile("it is no zip archive of arrays")
    with explained(path, ValueError):  # of an archive that is damaged at its beginning
        file = np.load(path, allow_pickle=False)
    with file:
        names = _columns(path, file.keys())
        with explained(path, ValueError):  # of arrays of objects
            columns = [file[name] for name in names]
            said = {name: file[name] for name in ("height", "width") if name in file}
    known = _known_size(path, said)
    return _of_columns(path, size or known, lambda: nullcontext(columns))


def _of_columns(
    path: Path,
    size: tuple[int, int] | None,
    opened: Callable[[], AbstractContextManager[Sequence[Any]]],
    offset: int = 0,
) -> Recording:
    """A recording whose columns t, x, y, p can be read from any place.

    Args:
        path: the file.
        size: (height, width) of the sensor, if that is known.
        opened: function that opens the file and gives its columns.
        offset: what is added to the times.

    Raises:
        ValueError: a column has other axes than the others.
    """

    def pieces() -> Iterator[Events]:
        with explained(path), opened() as columns:
            for i in range(0, len(columns[0]), PIECE):
                events = _events(path, i, *(column[i : i + PIECE] for column in columns))
                yield Events(events.t + offset, *events[1:])

    with opened() as columns:
        try:
            check_shapes({name: getattr(column, "shape", None) for name, column in zip(_NAMES, columns, strict=True)})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return Recording(path, size or _smallest(pieces()), pieces)


def _hdf5(path: Path, size: tuple[int, int] | None) -> Recording:
    import h5py

    with suppress(ImportError):  # it makes more filters of compressed data sets known to HDF5
        import hdf5plugin  # noqa: F401
    with h5py.File(path, "r") as file:
        group = "events" if isinstance(file.get("events"), h5py.Group) else "/"
        names = _columns(path, file[group].keys())
        for name in names:
            _check_filters(path, name, file[group][name])
        offset = _number(path, "t_offset", file["t_offset"][()]) if "t_offset" in file else 0  # DSEC's
        stored = {name: file[group][name][()] for name in ("height", "width") if name in file[group]}  # RVT's
        known = _known_size(path, {**file.attrs, **file[group].attrs, **stored})

    @contextmanager
    def opened() -> Iterator[Sequence[Any]]:
        with h5py.File(path, "r") as file:
            yield [file[group][name] for name in names]

    return _of_columns(path, size or known, opened, offset)


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
    """(height, width) that a file says, if it does."""
    if not {"height", "width"} <= said.keys():
        return None
    try:
        return sensor_size([_number(path, name, said[name]) for name in ("height", "width")])
    except ValueError as error:
        raise ValueError(f"{path}: height and width are no size of a sensor: {error}") from error


def _number(path: Path, name: str, value: Any) -> int:
    """A whole number that a file says beside its events.

    Raises:
        ValueError: it is something else.
    """
    found = np.asarray(value)
    if found.size != 1 or found.dtype.kind not in "iuf" or not float(found.item()).is_integer():
        raise ValueError(f"{path}: {name} is {str(value)[:40]}; it must be one whole number.")
    return int(found.item())


def _csv(path: Path, size: tuple[int, int] | None) -> Recording:
    with path.open(newline="", encoding="utf-8-sig") as file:
        line = file.readline().lstrip("# ")  # NumPy writes a # in front of the names
    separator = max(",;\t ", key=line.count)
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
                written = [line for line in lines if line.strip(" \r\n") and not line.startswith("#")]
                if not written:
                    continue
                wrong = next((line for line in written if line.count(separator) != len(header) - 1), None)
                if wrong is not None:
                    raise ValueError(f"{path} has {len(header)} columns, and the line {wrong.strip()[:60]!r}.")
                try:
                    columns = np.loadtxt(written, delimiter=separator, usecols=order, ndmin=2, quotechar='"')
                except ValueError as error:
                    raise _unreadable(path, error) from error
                yield _events(path, done, *columns.T)
                done += len(columns)

    return Recording(path, size or _smallest(pieces()), pieces)


def _events(path: Path, first: int, *columns: Any) -> Events:
    """Events of the columns t, x, y, p of a file, whose messages name it."""
    try:
        return Events.of(*columns, first=first)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _columns(path: Path, present: Any) -> list[str]:
    """The names under which a file has t, x, y and p.

    Raises:
        ValueError: one of them is missing, or there under several names.
    """
    given = [str(name) for name in present]
    known = {name.lower(): name for name in given}
    for column, choices in _NAMES.items():
        alike = [name for name in given if name.lower() in choices]
        if len(alike) > 1:
            raise ValueError(f"{path} has {' and '.join(map(repr, alike))}, each of which may be {column}; keep one.")
    names = [next((known[name] for name in choices if name in known), None) for choices in _NAMES.values()]
    missing = [column for column, name in zip(_NAMES, names, strict=True) if name is None]
    if missing:
        there = ", ".join(repr(name[:40]) for name in list(known)[:8]) or "nothing"
        raise ValueError(f"{path} has {there}, and no events' {', '.join(missing)}.")
    return [name for name in names if name is not None]


def _smallest(pieces: Any) -> tuple[int, int]:
    """The smallest (height, width) that holds all events."""
    height = width = 1
    for events in pieces:
        if events.number:
            height, width = max(height, int(events.y.max()) + 1), max(width, int(events.x.max()) + 1)
    return height, width
