"""Effective receptive fields of any PyTorch model. Needs torch, numpy and scipy only (matplotlib for pictures)."""

from .calibrate import calibrate
from .compare import Comparison, Difference, difference
from .compute import compute_erf
from .metrics import area_ratio
from .number import Number
from .result import ERFResult

__all__ = [
    "Comparison",
    "Difference",
    "ERFResult",
    "Number",
    "area_ratio",
    "calibrate",
    "compute_erf",
    "difference",
]
