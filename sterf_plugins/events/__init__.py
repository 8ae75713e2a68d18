"""Event videos of moving shapes: a generator, files that other packages can read, and a data set."""

from .dataset import ShapeEvents
from .files import read_events, write_events
from .render import Motion, render
from .shapes import SHAPES, raster

__all__ = ["SHAPES", "Motion", "ShapeEvents", "raster", "read_events", "render", "write_events"]
