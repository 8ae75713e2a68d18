"""Images of events for networks: histograms, voxel grids, time surfaces, and event images with a trajectory prompt.

Each function takes events, the (height, width) of the sensor and F + 1 times, and returns float32 (F, C, H, W): an image for
each interval from one time until before the next. For a network with time F is T; for one without it, F intervals are the
channels of one image, (F * C, H, W).

* ``histogram``: events of a pixel, negative and positive, as SpikingJelly's frames have them; RVT (arXiv:2212.05598) stacks
  those of ten intervals.
* ``voxel_grid``: signed events, each shared out between the two nearest of B points in time (Zhu et al., arXiv:1812.08156).
* ``time_surface``: how long ago a pixel had its last event, negative and positive (HOTS, doi:10.1109/TPAMI.2016.2574707).
* ``gtp``: counts and a trajectory (SDTrack, arXiv:2503.08703), as ``events.gtp`` makes them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import number, one_of, positive_int, whole_number
from .arrays import Events, ascending, check_events, sensor_size
from .gtp import gtp
from .recording import Recording

Images = NDArray[np.float32]


def histogram(events: Events, size: tuple[int, int], boundaries: ArrayLike) -> Images:
    """Number of negative and of positive events of each pixel, (F, 2, H, W)."""
    events, interval, times = _placed(events, size, boundaries)
    return _sums((interval, events.p, events.y, events.x), None, (len(times) - 1, 2, *size))


def voxel_grid(events: Events, size: tuple[int, int], boundaries: ArrayLike, bins: int = 5) -> Images:
    """Sums of polarities -1 and 1 at ``bins`` points in time, (F, bins, H, W).

    The first point is the interval's beginning and the last one its end; an event between two points counts to both, to each
    the more the nearer it is. The paper's interval is that from the first to the last event, ``[t[0], t[-1]]``.
    """
    bins = positive_int("bins", bins)
    events, interval, times = _placed(events, size, boundaries)
    begin, end = times[interval], times[interval + 1]
    position = (bins - 1) * (events.t - begin) / (end - begin)
    sign = 2.0 * events.p - 1
    shape = (len(times) - 1, bins, *size)
    left = np.floor(position).astype(np.int64)
    right = np.minimum(left + 1, bins - 1)  # at the very end there is no next point, and its share is 0
    share = position - left
    shares = ((left, sign * (1 - share)), (right, sign * share))
    return sum(_sums((interval, point, events.y, events.x), values, shape) for point, values in shares)  # type: ignore[return-value]


def time_surface(events: Events, size: tuple[int, int], boundaries: ArrayLike, tau: float = 50_000.0) -> Images:
    """exp(-age / tau) of the last negative and the last positive event of each pixel, (F, 2, H, W); 0 before the first one.

    The age is counted at the end of an interval; events of earlier intervals are remembered. ``tau`` is in microseconds.
    """
    tau = number("tau", tau, lambda t: 0 < t < np.inf, "a positive time in microseconds")
    events, interval, times = _placed(events, size, boundaries)
    last = np.full((2, *size), -np.inf)
    limits = np.searchsorted(interval, np.arange(len(times)))
    surfaces = []
    for end, start, stop in zip(times[1:], limits[:-1], limits[1:], strict=True):
        part = events.cut(start, stop)
        last[part.p, part.y, part.x] = part.t  # of a pixel's events the last one stays
        surfaces.append(np.exp((last - end) / tau, dtype=np.float32))
    return np.stack(surfaces)


def trajectory_prompt(events: Events, size: tuple[int, int], boundaries: ArrayLike, **options: Any) -> Images:
    """Trajectory, negative and positive events of each pixel, (F, 3, H, W), from 0 to 255; ``options`` are those of ``gtp``.

    The trajectory of the first interval is 0, as it has none before it.
    """
    checked = _checked(events, size)
    recording = Recording(Path("events"), size, lambda: iter([checked]))
    return np.stack([image.pixels.transpose(2, 0, 1) for image in gtp(recording, boundaries, **options)]).astype(
        np.float32
    )


REPRESENTATIONS: Mapping[str, Callable[..., Images]] = {
    "histogram": histogram,
    "voxel_grid": voxel_grid,
    "time_surface": time_surface,
    "gtp": trajectory_prompt,
}


OPTIONS = {"histogram": (), "voxel_grid": ("bins",), "time_surface": ("tau",), "gtp": ("amount", "trajectory", "decay")}


def on_white(images: NDArray) -> Images:
    """Images of events (C, H, W), in any representation, as greys (H, W) from 0 to 1 that people look at.

    A pixel is the darker the larger the sum of its channels' amounts; the darkest twentieth of those with events is black, so that
    a few hot pixels do not make all others white.
    """
    amount = np.abs(images).sum(0, dtype=np.float32)
    seen = amount[amount > 0]
    scale = np.quantile(seen, 0.95) if len(seen) else 1.0
    return (1 - np.clip(amount / scale, 0, 1)).astype(np.float32)


def equal_times(start: int, stop: int, parts: int) -> NDArray[np.int64]:
    """The parts + 1 times that cut a window into equally long intervals, in whole microseconds."""
    start, stop = whole_number("start", start), whole_number("stop", stop)
    if stop - start < positive_int("parts", parts):
        raise ValueError(f"the window from {start} to {stop} µs is too short for {parts} parts.")
    return start + (stop - start) * np.arange(parts + 1) // parts


def equal_counts(events: Events, parts: int) -> NDArray[np.int64]:
    """The parts + 1 times that cut events into intervals of equally many, but for events of the same time.

    Raises:
        ValueError: there are too few events, or too many of the same time.
    """
    parts = positive_int("parts", parts)
    if events.number:
        times = np.append(events.t[events.number * np.arange(parts) // parts], events.t[-1] + 1)
        if (np.diff(times) > 0).all():
            return times
    raise ValueError(f"{events.number} events cannot be cut into {parts} parts by their number; cut them by time.")


def channels_of(kind: str = "histogram", **options: Any) -> int:
    """C, the channels of the images of a representation with these options.

    Raises:
        ValueError: there is no such representation, or it has another option.
    """
    one_of("kind", kind, REPRESENTATIONS)
    allowed = OPTIONS[kind]
    for name in options:
        if name not in allowed:
            raise ValueError(f"`{name}` is no option of {kind!r}; it has {', '.join(allowed) or 'none'}.")
    return REPRESENTATIONS[kind](Events.joined([]), (1, 1), [0, 1], **options).shape[1]


def _checked(events: Events, size: tuple[int, int]) -> Events:
    """The events with int64 entries, if they are in order and on the sensor.

    Raises:
        TypeError, ValueError: they are not.
    """
    if not isinstance(events, (Sequence, np.ndarray)) or len(events) != 4:
        raise TypeError(f"`events` is a {type(events).__name__}; it must be Events: Events.of(t, x, y, p).")
    size, events = sensor_size(size), Events.of(*events)
    if events.number:
        check_events(events, size, "`events`")
    return events


def _placed(
    events: Events, size: tuple[int, int], boundaries: ArrayLike
) -> tuple[Events, NDArray[np.int64], NDArray[np.int64]]:
    """The events inside, the number of each one's interval, and the times.

    The end of the last interval is outside.
    """
    times, events = ascending(boundaries), _checked(events, size)
    events = events.cut(*np.searchsorted(events.t, times[[0, -1]]))
    return events, np.searchsorted(times, events.t, side="right") - 1, times


def _sums(index: tuple[NDArray[np.int64], ...], values: NDArray | None, shape: tuple[int, ...]) -> Images:
    """Sums of the values at each place of an array of this shape; without values, how often each place occurs."""
    places = np.ravel_multi_index(index, shape)
    return np.bincount(places, values, int(np.prod(shape))).reshape(shape).astype(np.float32)
