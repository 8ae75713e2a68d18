"""Effective receptive fields of any PyTorch model. Needs torch, numpy and scipy only (matplotlib for pictures)."""

from .calibrate import calibrate
from .compare import Comparison, Difference, difference
from .compute import compute_erf
from .field_checks.field_check import FieldCheck
from .field_checks.occlusion import check_field
from .field_checks.randomisation import randomise_field
from .frequency import FrequencyResponse, spatial_response, temporal_response
from .numbers.metrics import area_ratio
from .numbers.number import Number
from .result import ERFResult
from .sweep import sweep_sizes
from .theory.compute import theoretical_rf
from .theory.field import TheoreticalField, advice

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
