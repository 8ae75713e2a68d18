"""Backbones for mmdet and mmseg: ours, any timm model, also in a stock backbone's place, and stock ones with a covariant stem."""

from .covariant_stems import CovariantConv2d, CovariantStemResNet, WithCovariantStem
from .drop_in import DropInBackbone
from .sdt_v3 import SDTV3
from .timm_backbone import TIMMBackbone

__all__ = ["SDTV3", "CovariantConv2d", "CovariantStemResNet", "DropInBackbone", "TIMMBackbone", "WithCovariantStem"]
