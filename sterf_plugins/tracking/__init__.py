"""The covariant paper's experiment: networks that follow moving shapes in an event stream.

``tracking.openmmlab`` registers its model, data set, metric and picture hook with mmengine.
"""

from .dataset import ShapeEvents
from .readouts import LeakyReadout, SoftArgmax2d
from .shape_tracker import ShapeTracker, Tracks

__all__ = ["LeakyReadout", "ShapeEvents", "ShapeTracker", "SoftArgmax2d", "Tracks"]
