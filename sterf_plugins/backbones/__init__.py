"""Spiking backbones as plain PyTorch modules."""

from .convert import convert_state_dict, infer_architecture
from .meta_sdt import MetaSDT
from .qkformer import QKFormer
from .sdt_v1 import SDTV1
from .sdt_v3 import ARCHITECTURES, SDTV3
from .shape_tracker import ShapeTracker
from .spikformer import Spikformer
from .spiking_cnn import SpikingCNN

__all__ = [
    "ARCHITECTURES",
    "SDTV1",
    "SDTV3",
    "MetaSDT",
    "QKFormer",
    "ShapeTracker",
    "Spikformer",
    "SpikingCNN",
    "convert_state_dict",
    "infer_architecture",
]
