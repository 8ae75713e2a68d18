"""Event images with a global trajectory prompt (GTP), the input of SDTrack (arXiv:2503.08703).

An image covers the interval between two times, cut into one, two or four parts of equal length. Each part gives three
channels: the number of positive events of each pixel, that of negative ones, both times an amount, and a trajectory, which
grows where events begin and fades from part to part, also from image to image.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..checks import one_of, positive_int

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
    t: NDArray[np.integer],
    x: NDArray[np.integer],
    y: NDArray[np.integer],
    p: NDArray,
    boundaries: Sequence[int] | NDArray[np.integer],
    size: tuple[int, int],
    steps: int = 1,
    amount: int = 30,
    trajectory: int = 30,
    decay: float = 0.8,
    rule: str = "clean",
) -> Iterator[EventImage]:
    """The event images of a recording, one part after another.

    Args:
        t: times of the events in microseconds, in ascending order.
        x: their columns.
        y: their rows.
        p: their polarities, 0 or 1.
        boundaries: F + 1 times, in ascending order, of F images; an image has the events from one time until before the next.
        size: (height, width) of the sensor.
        steps: parts of an image, T: 1, 2 or 4.
        amount: what one event adds to its channel of counts.
        trajectory: what the beginning of events of either polarity adds to the trajectory.
        decay: what stays of the trajectory from one part to the next.
        rule: "clean" puts each event into its part. "parity" does what the script does with which the published images of
            FE108 were made: it drops the event that ends an image and all events of the first row and column, and an event
            ends at most one part, so that later parts come late or not at all.

    Yields:
        Parts in the order of time; with "clean" each part of each interval, with "parity" those that the script writes.

    Raises:
        ValueError: an argument is out of range, or events or boundaries are not in the order of time.
    """
    one_of("rule", rule, RULES)
    one_of("steps", steps, STEPS)
    positive_int("amount", amount)
    times = np.asarray(boundaries)
    _check(t, x, y, times, size)
    find = _parts if rule == "clean" else _parity_parts
    if rule == "parity":
        inside = (x > 0) & (y > 0) & (t >= times[0]) & (t < times[-1])
        t, x, y, p = t[inside], x[inside], y[inside], p[inside]
    pixel = y.astype(np.int64) * size[1] + x
    positive = np.asarray(p) > 0
    track = np.zeros(size)
    before: list[NDArray[np.bool_]] | None = None
    for interval, part, events in find(t, times, steps):
        counts = [_count(pixel[events], positive[events] == sign, size) for sign in (False, True)]
        fires = [count > 0 for count in counts]
        if before is not None or (rule == "parity" and interval == len(times) - 2):
            begins = [now & ~then for now, then in zip(fires, before or [np.zeros(size, bool)] * 2, strict=True)]
            track = np.clip(decay * track + trajectory * (begins[0].astype(float) + begins[1]), 0, 255)
        before = fires
        channels = [track, *(np.minimum(255, amount * count) for count in counts)]
        yield EventImage(interval, part, np.stack(channels, -1).astype(np.uint8))


def _count(pixel: np.ndarray, chosen: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.bincount(pixel[chosen], minlength=size[0] * size[1]).reshape(size)


def _parts(t: np.ndarray, times: np.ndarray, steps: int) -> Iterator[tuple[int, int, slice]]:
    """Interval, part and events of each part."""
    for i, (start, stop) in enumerate(pairwise(times)):
        limits = np.searchsorted(t, start + (stop - start) * np.arange(steps + 1) / steps)
        for k in range(steps):
            yield i, k, slice(limits[k], limits[k + 1])


def _parity_parts(t: np.ndarray, times: np.ndarray, steps: int) -> Iterator[tuple[int, int, slice]]:
    """The same for the script's way: events come one by one, and each ends at most one part."""
    start, earliest, interval, part = 0, 0, 0, 0
    while interval < len(times) - 1:
        begin, end = times[interval : interval + 2]
        border = begin + (end - begin) * (part + 1) / steps if part + 1 < steps else end
        stop = max(earliest, int(np.searchsorted(t, min(border, end))))
        if stop >= len(t):
            yield interval, part, slice(start, len(t))
            return
        yield interval, part, slice(start, stop)
        if t[stop] >= end:  # this event ends the image and is not counted
            interval, part, start, earliest = interval + 1, 0, stop + 1, stop + 1
        else:
            part, start, earliest = part + 1, stop, stop + 1


def _check(t: np.ndarray, x: np.ndarray, y: np.ndarray, times: np.ndarray, size: tuple[int, int]) -> None:
    if times.ndim != 1 or len(times) < 2 or (np.diff(times) <= 0).any():
        raise ValueError(f"`boundaries` must be at least two times in ascending order, and is {times[:5].tolist()} ….")
    if len(t) and (np.diff(t) < 0).any():
        at = int(np.flatnonzero(np.diff(t) < 0)[0])
        raise ValueError(f"`t` goes back from {t[at]} to {t[at + 1]} at event {at + 1}; sort the events by time.")
    for name, values, limit in (("x", x, size[1]), ("y", y, size[0])):
        if len(values) and not 0 <= values.min() <= values.max() < limit:
            raise ValueError(
                f"`{name}` is between {values.min()} and {values.max()}; a sensor of {size} has 0 to {limit - 1}."
            )
