"""Images of a recording that are evenly spread over it, for whoever wants some inputs of a network and has no labels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checks import positive_int
from .readers import open_recording
from .representations import REPRESENTATIONS, Images, channels_of, equal_times


def windows(
    path: str | Path,
    count: int,
    kind: str = "histogram",
    parts: int = 1,
    sensor: tuple[int, int] | None = None,
    **options: Any,
) -> Iterator[Images]:
    """Cut a recording into equally long windows, and draw each; memory holds the events of one.

    With "gtp" only the later half of a window is drawn, whose trajectories remember the earlier half.

    Args:
        path: the recording, of any format that ``open_recording`` reads.
        count: number of windows.
        kind: "histogram", "voxel_grid", "time_surface" or "gtp"; see ``events.representations``.
        parts: equally long intervals of a window, each with an image.
        sensor: (height, width) of the sensor, for files that do not say it.
        **options: of the representation.

    Yields:
        float32 (parts, C, H, W).

    Raises:
        ValueError: the recording cannot be read, has no events, or is too short; the representation has no such option.
    """
    channels_of(kind, **options)  # which checks `kind` and `options`
    count, parts = positive_int("count", count), positive_int("parts", parts)
    recording = open_recording(path, sensor)
    ends = [(int(events.t[0]), int(events.t[-1])) for events in recording]
    if not ends:
        raise ValueError(f"{path} has no events.")
    cuts = 2 * parts if kind == "gtp" else parts
    times = equal_times(ends[0][0], ends[-1][1] + 1, count * cuts)
    for i, events in enumerate(recording.slices(boundaries=times[::cuts])):
        own = times[i * cuts : (i + 1) * cuts + 1]
        yield REPRESENTATIONS[kind](events, recording.size, own, **options)[-parts:]
