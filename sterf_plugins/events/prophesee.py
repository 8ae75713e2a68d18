"""Prophesee's RAW and DAT files: what is looked at in them beside faery, which reads them, and the first DAT files, read here."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .arrays import Events, sensor_size
from .recording import PIECE, Recording, smallest_sensor

_WORDS = {b"2": 4, b"3": 2}  # version of Prophesee's RAW format -> bytes of a word
_OLD_DAT = bytes((0, 8))  # the event type "2d" of the first DAT files, and the bytes of an event


def is_old_dat(path: Path) -> bool:
    """Whether a file is a DAT file of the event type "2d", which faery does not read."""
    return path.suffix.lower() == ".dat" and _header(path)[1][:2] == _OLD_DAT


def old_dat(path: Path, size: tuple[int, int] | None) -> Recording:
    """DAT files of the event type "2d", which faery does not read: 32 bits of time, 14 of column and row each, polarity.

    In version 1 columns have 9 bits, and rows 8. The sensor has the size of the header's lines Height and Width, if they are there.
    """
    word_size(path)
    lines, _, start = _header(path)
    said = {words[1]: int(words[2]) for words in map(bytes.split, lines) if len(words) == 3 and words[2].isdigit()}
    if size is None and {b"Height", b"Width"} <= said.keys():
        size = sensor_size((said[b"Height"], said[b"Width"]))
    start += 2
    x_bits, y_bits = (9, 8) if any(line.split()[1:] == [b"Version", b"1"] for line in lines) else (14, 14)
    count = (path.stat().st_size - start) // 8
    words = np.memmap(path, "<u4", "r", start, (count, 2)) if count else np.zeros((0, 2), "<u4")

    def pieces() -> Iterator[Events]:
        for i in range(0, len(words), PIECE):
            t, word = words[i : i + PIECE].T
            x, y = word & (1 << x_bits) - 1, word >> x_bits & (1 << y_bits) - 1
            yield Events.of(t, x, y, word >> x_bits + y_bits & 1)

    return Recording(path, size or smallest_sensor(pieces()), pieces)


def word_size(path: Path) -> int:
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
    surplus = (path.stat().st_size - start) % max(word, 1)
    if surplus:
        raise EOFError(f"its last event has {surplus} of {word} bytes")
    return word


def in_order(path: Path, pieces: Iterable[Events], word: int) -> Iterator[Events]:
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
