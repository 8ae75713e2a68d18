"""Recordings of event cameras: files of any format, images of them, data sets, and a generator of moving shapes."""

from .arrays import Events
from .files import read_events, write_events
from .folder import EventFolder, collate_time_first
from .gtp import EventImage, gtp
from .readers import open_recording
from .recording import Frame, Recording
from .render import Motion, render
from .representations import (
    REPRESENTATIONS,
    equal_counts,
    equal_times,
    histogram,
    time_surface,
    trajectory_prompt,
    voxel_grid,
)
from .shapes import SHAPES, raster
from .windows import windows
from .writers import write_recording

__all__ = [
    "REPRESENTATIONS",
    "SHAPES",
    "EventFolder",
    "EventImage",
    "Events",
    "Frame",
    "Motion",
    "Recording",
    "collate_time_first",
    "equal_counts",
    "equal_times",
    "gtp",
    "histogram",
    "open_recording",
    "raster",
    "read_events",
    "render",
    "time_surface",
    "trajectory_prompt",
    "voxel_grid",
    "windows",
    "write_events",
    "write_recording",
]
