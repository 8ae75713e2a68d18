"""Stems: the first layers of a backbone, from the image to ``embed_dim`` channels.

The protocol, for our stems and for those of other packages (entry-point group ``sterf_plugins.stems``)::

    stem(in_chans, embed_dim, stride, **options) -> nn.Module with a `.stride`
    # (B, in_chans, H, W) -> (B, embed_dim, ceil(H / stride), ceil(W / stride))
"""

from .conv import ConvStem
from .covariant import CovariantStem
from .fields import (
    CovariantRFConv2d,
    RFBank,
    TemporalMemory,
    TemporalRF,
    cascade_constants,
    detach_state,
    temporal_scales,
)
from .spatio_temporal import CovariantSTStem
from .swap import covariant_like

__all__ = [
    "ConvStem",
    "CovariantRFConv2d",
    "CovariantSTStem",
    "CovariantStem",
    "RFBank",
    "TemporalMemory",
    "TemporalRF",
    "cascade_constants",
    "covariant_like",
    "detach_state",
    "temporal_scales",
]
