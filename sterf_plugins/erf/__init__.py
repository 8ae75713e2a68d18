"""Effective receptive fields of any PyTorch model. Needs torch, numpy and scipy only (matplotlib for pictures)."""

from .calibrate import calibrate
from .compare import Comparison, Difference, difference
from .compute import compute_erf
from .field_check import FieldCheck
from .metrics import area_ratio
from .number import Number
from .occlusion import check_field
from .randomisation import randomise_field
from .result import ERFResult

__all__ = [
    "Comparison",
    "Difference",
    "ERFResult",
    "FieldCheck",
    "Number",
    "area_ratio",
    "calibrate",
    "check_field",
    "compute_erf",
    "difference",
    "randomise_field",
]
