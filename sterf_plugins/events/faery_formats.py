"""Files of cameras' makers: AEDAT4, Prophesee RAW and DAT, and Event Stream, read by the package ``faery`` (LGPL-3.0).

It agrees with the camera makers' own libraries about all files that were compared.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..checks import require
from .arrays import Events, check_events
from .damage import unreadable
from .prophesee import in_order, word_size
from .recording import Frame, Recording

ES_HEADER = 20  # bytes in front of the events of an Event Stream file
# Suffix -> faery's name of the format.
FAERY = {".aedat4": "aedat", ".aedat": "aedat", ".raw": "evt", ".dat": "dat", ".es": "es"}


def by_faery(path: Path, size: tuple[int, int] | None) -> Recording:
    """A recording of one of these formats; see ``open_recording``."""
    require("faery", extra="events")
    import faery

    is_prophesee = path.suffix.lower() in (".raw", ".dat")
    word = word_size(path) if is_prophesee else 0
    with path.open("rb") as file:
        head = file.read(12)
    if head.startswith(b"#!AER-DAT") and head[9:10] != b"4":
        raise ValueError(
            f"{path} is AEDAT {head[9:].decode(errors='replace')}, and of AEDAT version 4 alone is read. EventFolder has "
            f"CIFAR10-DVS and DVS128 Gesture converted by SpikingJelly; another file of version 3.1: load it by "
            f"spikingjelly.datasets.utils.load_aedat_v3, and write_recording(PATH, Events.of(**events), size)."
        )
    # By its magic number or suffix faery would not know files whose suffix is in capitals.
    options: dict[str, Any] = dict(file_type=FAERY[path.suffix.lower()])
    options |= {} if size is None else dict(dimensions_fallback=size[::-1])

    def pieces() -> Iterator[Events]:
        with _of_faery(path):
            for piece in faery.events_stream_from_file(path, **options):
                yield Events(*[piece[name].astype(np.int64) for name in ("t", "x", "y", "on")])

    frames = None
    if path.suffix.lower().startswith(".aedat"):
        _check_one_stream(path, "events")
        frames = partial(_pictures, path)
    with _of_faery(path):
        width, height = faery.events_stream_from_file(path, **options).dimensions()
    own = (height, width)

    def ordered() -> Iterator[Events]:
        if is_prophesee:
            return in_order(path, pieces(), word)
        return _unless_cut_off(path, pieces()) if frames is None else _advancing(path, pieces)

    return Recording(path, size or own, ordered, frames, inside=size in (None, own))


def _check_one_stream(path: Path, kind: str) -> None:
    """Raise ``ValueError`` if an AEDAT4 file has several streams of a kind."""
    import faery

    with _of_faery(path), faery.aedat.Decoder(path) as decoder:
        count = sum(track.data_type == kind for track in decoder.tracks())
    if count > 1:
        raise ValueError(
            f"{path} has {count} streams of type {kind!r}, as of several cameras; write each into a file of its own, by "
            f"dv_processing.io.MonoCameraWriter."
        )


def _pictures(path: Path) -> Iterator[Frame]:
    """The frames of an AEDAT4 file."""
    import faery

    _check_one_stream(path, "frame")
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


def _advancing(path: Path, pieces: Callable[[], Iterator[Events]]) -> Iterator[Events]:
    """The packets of an AEDAT4 file that faery reads, unless its clock went back, which faery's times do not show.

    It gives an event that goes back in time the latest time before it. So after a clock that began anew, or one event of a later
    time, all times are the same; where a whole packet has the time of the event before it, the camera maker's library looks.
    """
    last, looked = None, False
    for events in pieces():
        if events.number:
            if not looked and events.t[0] == events.t[-1] == last:
                for _ in pieces():  # a damaged file ends here: dv_processing would wait for ever at it
                    pass
                _check_order(path)
                looked = True
            last = events.t[-1]
        yield events


def _check_order(path: Path) -> None:
    """Raise ``ValueError`` if an event of an AEDAT4 file goes back in time."""
    require("dv_processing", extra="events")
    import dv_processing as dv

    last, done = None, 0
    with TemporaryDirectory() as folder:
        link = Path(folder) / "a.aedat4"  # of other suffixes it reads nothing
        link.symlink_to(path.resolve())
        reader = dv.io.MonoCameraRecording(str(link))
        while (batch := reader.getNextEventBatch()) is not None:
            t = batch.timestamps().astype(np.int64)
            if len(t):
                check_events(Events(t, t, t, t), None, path, last, done)
                last, done = int(t[-1]), done + len(t)


def _unless_cut_off(path: Path, pieces: Iterator[Events]) -> Iterator[Events]:
    """The events of an Event Stream file, unless it ends inside the last one, which faery leaves out.

    An event of the kind "DVS", number 1, takes five bytes: the time since the one before with the polarity, and two for column and
    row each. A byte of 255 before it stands for every 127 µs of that time; one of 254, for nothing, is hardly ever there.
    """
    end, last = ES_HEADER, 0
    for events in pieces:
        end += 5 * events.number + int((np.diff(events.t, prepend=last) // 127).sum())
        last = int(events.t[-1]) if events.number else last
        yield events
    if end != path.stat().st_size:
        data, end = path.read_bytes(), ES_HEADER
        while end < len(data):
            end += 1 if data[end] >= 254 else 5
        if data[15] == 1 and end > len(data):
            raise unreadable(path, EOFError(f"its last event has {5 - end + len(data)} of 5 bytes"))


@contextmanager
def _of_faery(path: Path) -> Iterator[None]:
    """Turn faery's errors, which are plain Exceptions or where its Rust code panics none, into a ``ValueError`` of one line."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise unreadable(path, error) from error
