"""Receptive fields as parameters: banks of kernels, the convolution of a bank's mixtures, and fields over time."""

from .bank import RFBank
from .covariant_conv import CovariantRFConv2d
from .temporal import TemporalMemory, TemporalRF, cascade_constants, detach_state, temporal_scales

__all__ = [
    "CovariantRFConv2d",
    "RFBank",
    "TemporalMemory",
    "TemporalRF",
    "cascade_constants",
    "detach_state",
    "temporal_scales",
]
