"""Event images with a global trajectory prompt (GTP), the input of SDTrack (arXiv:2503.08703).

An image covers the interval between two times, cut into one, two or four parts of equal length. Each part gives three
channels: the number of positive events of each pixel, that of negative ones, both times an amount, and a trajectory, which
grows where events begin and fades from part to part, also from image to image.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import number, one_of, positive_int
from .arrays import Events, ascending
from .recording import Recording

RULES = ("clean", "parity")
STEPS = (1, 2, 4)


class EventImage(NamedTuple):
    """One part of an image.

    Args:
        interval: number of the interval, from 0.
        part: number of the part in its interval, from 0.
        pixels: uint8 (H, W, 3): trajectory, negative, positive.
    """

    interval: int
    part: int
    pixels: NDArray[np.uint8]


def gtp(
    recording: Recording,
    boundaries: ArrayLike,
    steps: int = 1,
    amount: int = 30,
    trajectory: int = 30,
    decay: float = 0.8,
    rule: str = "clean",
) -> Iterator[EventImage]:
    """The event images of a recording, one part after another; memory holds the events of one image.

    Args:
        recording: the events, see ``open_recording``.
        boundaries: F + 1 times in microseconds, in ascending order, of F images; an image has the events from one time until
            before the next.
        steps: parts of an image, T: 1, 2 or 4.
        amount: what one event adds to its channel of counts.
        trajectory: what the beginning of events of either polarity adds to the trajectory.
        decay: what stays of the trajectory from one part to the next.
        rule: "clean" puts each event into its part. "parity" does what the script does with which the published images of
            FE108 were made: it drops the event that ends an image and all events of the first row and column, and an event
            ends at most one part, so that later parts come late or not at all. It needs all events in memory.

    Yields:
        Parts in the order of time; with "clean" each part of each interval, with "parity" those that the script writes.

    Raises:
        TypeError, ValueError: an argument is out of range; what reading the recording raises.
    """
    one_of("rule", rule, RULES)
    one_of("steps", steps, STEPS)
    if not isinstance(recording, Recording):
        raise TypeError(f"`recording` is a {type(recording).__name__}; it must be a Recording: open_recording(PATH).")
    amount, trajectory = (min(255, positive_int(n, v)) for n, v in (("amount", amount), ("trajectory", trajectory)))
    decay = number("decay", decay, lambda d: 0 <= d <= 1, "a number from 0 to 1")
    times = ascending(boundaries)
    parts = _parts if rule == "clean" else _parity_parts
    return _images(parts(recording, times, steps), recording.size, amount, trajectory, decay)


def _images(
    parts: Iterator[tuple[int, int, Events, bool]],
    size: tuple[int, int],
    amount: int,
    trajectory: int,
    decay: float,
) -> Iterator[EventImage]:
    shades = np.minimum(255, amount * np.arange(256)).astype(np.uint8)  # of a pixel with so many events, or more
    track = np.zeros(size)
    before: NDArray[np.bool_] | None = None
    for interval, part, (_, x, y, p), is_end in parts:
        counts = np.bincount((p * size[0] + y) * size[1] + x, minlength=2 * track.size).reshape(2, *size)
        negative, positive = shaded = shades.take(counts, mode="clip")
        fires = shaded > 0
        if before is not None or is_end:
            begins = fires if before is None else fires & ~before
            track = np.clip(decay * track + trajectory * np.add(*begins, dtype=float), 0, 255)
        before = fires
        yield EventImage(interval, part, np.stack([track.astype(np.uint8), negative, positive], -1))


def _parts(recording: Recording, times: np.ndarray, steps: int) -> Iterator[tuple[int, int, Events, bool]]:
    """Interval, part and events of each part, and whether its trajectory begins even if it is the first one."""
    slices = recording.slices(boundaries=times)
    for i, ((start, stop), events) in enumerate(zip(pairwise(times), slices, strict=True)):
        limits = np.searchsorted(events.t, start + (stop - start) * np.arange(steps + 1) / steps)
        for k in range(steps):
            yield i, k, events.cut(limits[k], limits[k + 1]), False


def _parity_parts(recording: Recording, times: np.ndarray, steps: int) -> Iterator[tuple[int, int, Events, bool]]:
    """The same for the script's way: events come one by one, and each ends at most one part; the last event ends the last one."""
    (events,) = recording.slices(boundaries=times[[0, -1]])
    inside = (events.x > 0) & (events.y > 0)
    events = Events(*(column[inside] for column in events))
    start, earliest, interval, part = 0, 0, 0, 0
    while interval < len(times) - 1:
        begin, end = times[interval : interval + 2]
        border = begin + (end - begin) * (part + 1) / steps if part + 1 < steps else end
        stop = max(earliest, int(np.searchsorted(events.t, min(border, end))))
        if stop >= events.number:
            yield interval, part, events.cut(start), True
            return
        yield interval, part, events.cut(start, stop), False
        if events.t[stop] >= end:  # this event ends the image and is not counted
            interval, part, start, earliest = interval + 1, 0, stop + 1, stop + 1
        else:
            part, start, earliest = part + 1, stop, stop + 1
