"""Configs of OpenMMLab: where they are found, another backbone or stem in them, and checks before anything is built."""

from .adapt import swap_backbone
from .reading import load_config
from .stem import swap_stem

__all__ = ["load_config", "swap_backbone", "swap_stem"]
