"""Effective receptive fields of any PyTorch model. Needs torch, numpy and scipy only (matplotlib for pictures)."""

from .calibrate import calibrate
from .compare import Comparison, Difference, difference
from .compute import compute_erf
from .field_check import FieldCheck
from .frequency import FrequencyResponse, spatial_response, temporal_response
from .metrics import area_ratio
from .number import Number
from .occlusion import check_field
from .randomisation import randomise_field
from .result import ERFResult
from .sweep import sweep_sizes
from .theoretical_field import TheoreticalField, advice
from .theory import theoretical_rf

__all__ = [
    "Comparison",
    "Difference",
    "ERFResult",
    "FieldCheck",
    "FrequencyResponse",
    "Number",
    "TheoreticalField",
    "advice",
    "area_ratio",
    "calibrate",
    "check_field",
    "compute_erf",
    "difference",
    "randomise_field",
    "spatial_response",
    "sweep_sizes",
    "temporal_response",
    "theoretical_rf",
]
