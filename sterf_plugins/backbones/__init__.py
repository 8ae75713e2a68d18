"""Spiking backbones as plain PyTorch modules."""

from .convert import convert_state_dict, infer_architecture
from .sdt_v3 import ARCHITECTURES, SDTV3
from .spiking_cnn import SpikingCNN

__all__ = ["ARCHITECTURES", "SDTV3", "SpikingCNN", "convert_state_dict", "infer_architecture"]
