"""Events as arrays, and what must hold of them, of the size of a sensor and of times between which images lie."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import positive_int

# Name of a column -> its smallest and largest value, and what to say of any other.
_RANGES = {
    "t": (
        1 - 2**53,
        2**53 - 1,
        "whole microseconds: seconds must be multiplied by 1,000,000, nanoseconds divided by 1,000, as "
        "open_recording(path, time_unit='s') or 'ns' does",
    ),
    "x": (0, 2**16 - 1, "a column, a whole number from 0 to 65,535"),
    "y": (0, 2**16 - 1, "a row, a whole number from 0 to 65,535"),
    "p": (-1, 1, "a polarity, 0 or 1, or -1 or 1"),
}  # fmt: skip

UNITS = {"ns": 0.001, "us": 1, "ms": 1_000, "s": 1_000_000}  # microseconds in one
LARGEST = 10**9  # pixels; larger numbers are of another unit, or of a mistake


class Events(NamedTuple):
    """Some events in the order of time, one entry of each array per event.

    Args:
        t: microseconds, int64.
        x: columns, int64.
        y: rows, int64.
        p: polarities, 0 or 1, int64.
    """

    t: NDArray[np.int64]
    x: NDArray[np.int64]
    y: NDArray[np.int64]
    p: NDArray[np.int64]

    @classmethod
    def of(cls, t: ArrayLike, x: ArrayLike, y: ArrayLike, p: ArrayLike, *, first: int = 0) -> "Events":
        """Events of arrays of any number types; a polarity of -1 counts as 0.

        Args:
            t: microseconds.
            x: columns.
            y: rows.
            p: polarities.
            first: number of the first event, for messages.

        Raises:
            ValueError: an array has other axes than the others, or numbers that are no microseconds, pixels or polarities.
        """
        arrays = {name: np.asarray(values) for name, values in zip(_RANGES, (t, x, y, p), strict=True)}
        check_shapes({name: values.shape for name, values in arrays.items()})
        columns = {name: _as_int64(name, values, first) for name, values in arrays.items()}
        if (columns["p"] < 0).any() and (columns["p"] == 0).any():
            at = first + int(np.flatnonzero(columns["p"] == 0)[0])
            raise ValueError(
                f"event {at} has p=0 beside others with p=-1; polarities must be 0 and 1, or -1 and 1: leave out what is neither."
            )
        return cls(**{**columns, "p": (columns["p"] > 0).astype(np.int64)})

    @classmethod
    def joined(cls, parts: Sequence["Events"]) -> "Events":
        """The events of several recordings' pieces, one piece after the other."""
        if not parts:
            return cls.of([], [], [], [])
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True))) if len(parts) > 1 else parts[0]

    def cut(self, start: int, stop: int | None = None) -> "Events":
        """The events from number ``start`` up to ``stop``, which is not part of them."""
        return Events(*(column[start:stop] for column in self))

    @property
    def number(self) -> int:
        """Number of events."""
        return len(self.t)


def are_pixels(values: ArrayLike) -> bool:
    """Whether all are numbers that a place or a length in an image may have, inside of it or not."""
    return bool((np.abs(values) <= LARGEST).all())


def corners_beyond(boxes: NDArray[np.floating], size: ArrayLike) -> int:
    """How many boxes (N, 4) leave the image as x, y, w, h, if more than a tenth do and each could be x1, y1, x2, y2; else 0.

    Args:
        boxes: at least one, in pixels.
        size: (width, height) of the image, or (N, 2) of each box's.
    """
    first, second, limit = boxes[:, :2], boxes[:, 2:], np.asarray(size) + 1
    beyond = (first + second > limit).any(1)
    return int(beyond.sum()) if ((first < second) & (second <= limit)).all() and beyond.mean() > 0.1 else 0


def check_shapes(shapes: dict[str, tuple[int, ...] | None]) -> None:
    """Raise ``ValueError`` unless all columns have one axis, of the same length; ``None`` is the shape of no array."""
    if len(set(shapes.values())) > 1 or len(shapes["t"] or ()) != 1:
        raise ValueError(
            f"t, x, y, p have the shapes {', '.join(map(str, shapes.values()))}; each must have one axis, and an entry for each "
            f"event."
        )


def _as_int64(name: str, values: NDArray[Any], first: int) -> NDArray[np.int64]:
    """A column as int64.

    Raises:
        ValueError: it has other entries than numbers, fractions, or numbers out of range.
    """
    low, high, rule = _RANGES[name]
    kind = values.dtype.kind
    if kind not in "biuf":
        raise ValueError(f"{name} has entries of type {values.dtype}; they must be numbers.")
    if kind == "f":
        precise = int(2 ** (np.finfo(values.dtype).nmant + 1))  # from here on, neighbouring whole numbers are the same
        if name == "t" and precise < high and (np.abs(values) >= precise).any():
            raise ValueError(
                f"t is of type {values.dtype}, in which whole numbers from {precise:,} on are rounded; store the times as int64."
            )
        values = values.astype(np.float64)
    if values.size and (kind == "f" or values.min() < low or values.max() > high):
        wrong = np.flatnonzero(~((values >= low) & (values <= high) & (values == np.trunc(values))))
        if len(wrong):
            raise ValueError(f"event {first + wrong[0]} has {name}={values[wrong[0]]}; it must be {rule}.")
    return values.astype(np.int64)


def in_microseconds(t: NDArray[Any], unit: str) -> NDArray[Any]:
    """Times of another unit, rounded to the nearest microsecond.

    Args:
        t: the times; what are no numbers stays as it is, for ``Events.of`` to refuse.
        unit: one of ``UNITS``.

    Raises:
        ValueError: they are too large, or of a type that has lost the microseconds.
    """
    if unit == "us" or t.dtype.kind not in "iuf" or not t.size:
        return t
    largest = float(np.abs(t.astype(np.float64)).max())
    lost = t.dtype.kind == "f" and np.spacing(t.dtype.type(largest)) * UNITS[unit] > 1
    if lost or largest * UNITS[unit] >= 2**53:
        raise ValueError(
            f"t reaches {largest:g}, and with `time_unit` {unit!r} "
            + (f"numbers of type {t.dtype} have lost its microseconds." if lost else "that is no time of a recording.")
        )
    if t.dtype.kind == "f":
        return np.rint(t * np.float64(UNITS[unit]))
    t = t.astype(np.int64)
    return (t + 500) // 1_000 if unit == "ns" else t * int(UNITS[unit])


def check_events(
    events: Events, size: tuple[int, int] | None, what: object, last: int | None = None, done: int = 0
) -> None:
    """Check that events are in the order of time, and on the sensor.

    Args:
        events: at least one.
        size: (height, width) of the sensor; ``None`` if they are known to lie on it.
        what: whose events they are, for messages.
        last: time of the event before.
        done: number of events before.

    Raises:
        ValueError: they are not.
    """
    t = events.t
    start = t[0] if last is None else last
    if t[0] < start or (t[1:] < t[:-1]).any():
        t = np.concatenate([[start], t])
        at = np.flatnonzero(np.diff(t) < 0)[0]
        raise ValueError(
            f"{what} goes back in time from {t[at]} to {t[at + 1]} µs at event {done + at}; sort its events by time, or "
            f"add a round of the clock to all from there on if it began anew."
        )
    if size is None:
        return
    for name, values, limit in (("x", events.x, size[1]), ("y", events.y, size[0])):
        if values.view(np.uint64).max() >= limit:  # as which negative numbers are large
            wrong = np.flatnonzero((values < 0) | (values >= limit))
            raise ValueError(
                f"{what}: event {done + wrong[0]} has {name}={values[wrong[0]]}, outside the sensor of {size[1]} columns and "
                f"{size[0]} rows; give the right size, (height, width)."
            )


def sensor_size(size: Any, name: str = "size") -> tuple[int, int]:
    """(height, width) as two ints; ``name`` is what the messages call it.

    Raises:
        TypeError, ValueError: it is something else.
    """
    if not isinstance(size, (tuple, list, np.ndarray)) or len(size) != 2:
        raise ValueError(f"`{name}` is {size!r}; it must be (height, width) of the sensor, in pixels.")
    height, width = (positive_int(name, n) for n in size)
    if max(height, width) > 2**16:
        raise ValueError(f"`{name}` is {height, width}; a sensor has at most 65,536 rows and columns.")
    return height, width


def ascending(boundaries: ArrayLike) -> NDArray[np.int64]:
    """The times between which intervals lie.

    Raises:
        ValueError: they are not two or more whole microseconds, in ascending order.
    """
    values = np.asarray(boundaries)
    if values.ndim == 1 and len(values) > 1 and values.dtype.kind in "iuf" and (np.abs(values) < 2**53).all():
        times = values.astype(np.int64)
        if (times == values).all() and (np.diff(times) > 0).all():
            return times
    listed = f"{values.tolist()[:5]} …" if values.ndim else values
    raise ValueError(f"`boundaries` must be at least two whole microseconds, in ascending order, and is {listed}.")
