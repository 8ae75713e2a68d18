"""Effective receptive fields of any PyTorch model. Needs torch and numpy only (matplotlib for pictures)."""

from .compute import compute_erf
from .metrics import area_ratio
from .result import ERFResult

__all__ = ["ERFResult", "area_ratio", "compute_erf"]
