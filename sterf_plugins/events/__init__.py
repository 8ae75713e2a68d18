"""Recordings of event cameras: files of any format, images of them, and a generator of moving shapes."""

from .files import read_events, write_events
from .gtp import EventImage, gtp
from .readers import open_recording
from .recording import Events, Frame, Recording
from .render import Motion, render
from .shapes import SHAPES, raster
from .writers import write_recording

__all__ = [
    "SHAPES",
    "EventImage",
    "Events",
    "Frame",
    "Motion",
    "Recording",
    "gtp",
    "open_recording",
    "raster",
    "read_events",
    "render",
    "write_events",
    "write_recording",
]
