"""Recordings of event cameras, in any of the usual file formats, read in pieces.

Times are microseconds (int64), columns and rows count from 0 at the top left, and a polarity is 1 where it became brighter.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import positive_int
from .arrays import Events, ascending, check_events

PIECE = 1 << 20  # events that are read at a time


class Frame(NamedTuple):
    """A picture that the camera took beside its events.

    Args:
        t: time of the frame, in microseconds.
        start: time at which it began; 0 where the camera did not say.
        pixels: uint8 (H, W), or (H, W, 3): red, green, blue.
    """

    t: int
    start: int
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Recording:
    """An event file; ``open_recording`` makes one. Every call reads the file anew, piece by piece.

    Args:
        path: the file.
        size: (height, width) of the sensor.
        pieces: function that yields the events of the file in pieces of any length.
        pictures: function that yields its frames.
        inside: whether the reader itself refuses events outside of this size.
    """

    path: Path
    size: tuple[int, int]
    pieces: Callable[[], Iterator[Events]]
    pictures: Callable[[], Iterator[Frame]] | None = None
    inside: bool = False

    def __iter__(self) -> Iterator[Events]:
        """The events in pieces, as the file has them.

        Raises:
            ValueError: the file is damaged, goes back in time, or has events outside the sensor.
        """
        last, done = None, 0
        for events in self.pieces():
            if events.number:
                check_events(events, None if self.inside else self.size, self.path, last, done)
                last, done = int(events.t[-1]), done + events.number
                yield events

    def events(self) -> Events:
        """All events at once, which must fit into memory: 32 bytes each."""
        return Events.joined(list(self))

    def frames(self) -> Iterator[Frame]:
        """The pictures in the file.

        Raises:
            ValueError: it has none.
        """
        found = iter(self.pictures()) if self.pictures else iter(())
        first = next(found, None)
        if first is None:
            raise ValueError(
                f"{self.path} has no frames beside its events, whose times could be taken; give an interval in microseconds "
                f"instead: --interval 40000 of sterf track and make-gtp, or interval=40_000 of a data set, which a config has in "
                f"test_dataloader.dataset."
            )
        yield first
        yield from found

    def frame_times(self) -> NDArray[np.int64]:
        """Times of the frames in microseconds: when they began, or where the camera did not say, their time.

        Raises:
            ValueError: there are no frames, or all times are 0.
        """
        times = [(frame.start, frame.t) for frame in self.frames()]
        starts = np.array([start for start, _ in times], np.int64)
        found = starts if starts.all() else np.array([t for _, t in times], np.int64)
        if not found.any():
            raise ValueError(f"{self.path}: all frame times are 0; give times in another way, such as an interval.")
        return found

    def slices(
        self,
        *,
        time: int | None = None,
        count: int | None = None,
        boundaries: ArrayLike | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[Events]:
        """The events in slices; give one of ``time``, ``count`` and ``boundaries``. Memory holds one slice at a time.

        Args:
            time: microseconds of each slice, from the first event on; the last slice ends with the last event.
            count: events of each slice; the last one has the rest.
            boundaries: F + 1 times in ascending order, for F slices from one until before the next.
            progress: function that is called with the number of events that have been read.

        Raises:
            ValueError: not one of the three is given, or it is out of range; what reading the file raises.
        """
        if sum(option is not None for option in (time, count, boundaries)) != 1:
            raise ValueError("give one of `time`, `count` and `boundaries`.")
        stream = _reporting(iter(self), progress)
        if boundaries is not None:
            return _between(stream, pairwise(ascending(boundaries).tolist()))
        if count is not None:
            return _by_count(stream, positive_int("count", count))
        return _by_time(stream, positive_int("time", time))


def _reporting(stream: Iterable[Events], progress: Callable[[int], None] | None) -> Iterator[Events]:
    """The pieces of a stream; ``progress`` is called with the number of events so far after each of them."""
    done = 0
    for events in stream:
        yield events
        done += events.number
        if progress is not None:
            progress(done)


def _by_count(stream: Iterable[Events], count: int) -> Iterator[Events]:
    waiting: list[Events] = []
    number = 0
    for events in stream:
        while number + events.number >= count:
            yield Events.joined([*waiting, events.cut(0, count - number)])
            events, waiting, number = events.cut(count - number), [], 0
        if events.number:
            waiting, number = [*waiting, events], number + events.number
    if number:
        yield Events.joined(waiting)


def _by_time(stream: Iterator[Events], time: int) -> Iterator[Events]:
    first = next(stream, None)
    if first is None:
        return
    last = int(first.t[-1])

    def watched() -> Iterator[Events]:
        nonlocal last
        yield first
        for events in stream:
            last = int(events.t[-1])
            yield events

    def limits() -> Iterator[tuple[int, int]]:
        start = int(first.t[0])
        while start <= last:
            yield start, start + time
            start += time

    yield from _between(watched(), limits())


def _between(stream: Iterator[Events], limits: Iterable[tuple[int, int]]) -> Iterator[Events]:
    """The events of each interval [start, stop); intervals follow one another."""
    current = Events.joined([])
    for start, stop in limits:
        parts: list[Events] = []
        while True:
            begin, end = np.searchsorted(current.t, [start, stop])
            parts.append(current.cut(begin, end))
            if end < current.number:
                current = current.cut(end)
                break
            following = next(stream, None)
            if following is None:
                current = Events.joined([])
                break
            current = following
        yield Events.joined([part for part in parts if part.number])


def smallest_sensor(pieces: Iterable[Events]) -> tuple[int, int]:
    """The smallest (height, width) that holds all events."""
    height = width = 1
    for events in pieces:
        if events.number:
            height, width = max(height, int(events.y.max()) + 1), max(width, int(events.x.max()) + 1)
    return height, width
