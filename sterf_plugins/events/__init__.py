"""Event videos of moving shapes: a generator, and files that other packages can read."""

from .files import read_events, write_events
from .render import Motion, render
from .shapes import SHAPES, raster

__all__ = ["SHAPES", "Motion", "raster", "read_events", "render", "write_events"]
