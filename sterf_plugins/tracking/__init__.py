"""Networks that follow objects in event streams.

SDTrack (``sd_track``) finds a given object of any kind in event images. The covariant paper's experiment (``shape_tracker``)
follows the shapes of a video; ``tracking.openmmlab`` registers its model, data set, metric and picture hook with mmengine.
"""

from .box_losses import centre_losses
from .centre_head import CentreMaps, decode
from .dataset import ShapeEvents
from .follow import Follower
from .readouts import LeakyReadout, SoftArgmax2d
from .sd_track import SDTrack
from .shape_tracker import ShapeTracker, Tracks

__all__ = [
    "CentreMaps",
    "Follower",
    "LeakyReadout",
    "SDTrack",
    "ShapeEvents",
    "ShapeTracker",
    "SoftArgmax2d",
    "Tracks",
    "centre_losses",
    "decode",
]
