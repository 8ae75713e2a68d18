"""Spiking backbones as plain PyTorch modules."""

from .convert import convert_state_dict, infer_architecture
from .sdt_v3 import ARCHITECTURES, SDTV3

__all__ = ["ARCHITECTURES", "SDTV3", "convert_state_dict", "infer_architecture"]
