"""Effective receptive fields of any PyTorch model. Needs torch, numpy and scipy only (matplotlib for pictures)."""

from .calibrate import calibrate
from .compute import compute_erf
from .metrics import area_ratio
from .result import ERFResult, Number

__all__ = ["ERFResult", "Number", "area_ratio", "calibrate", "compute_erf"]
