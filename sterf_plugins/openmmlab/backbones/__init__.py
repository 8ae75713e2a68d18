"""Backbones for mmdet and mmseg: ours, any timm model, and stock ones with a covariant stem."""

from .covariant_stems import CovariantConv2d, CovariantStemResNet, WithCovariantStem
from .sdt_v3 import SDTV3
from .timm_backbone import TIMMBackbone

__all__ = ["SDTV3", "CovariantConv2d", "CovariantStemResNet", "TIMMBackbone", "WithCovariantStem"]
