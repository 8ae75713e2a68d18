"""Spiking backbones as plain PyTorch modules."""

from .max_former import MaxFormer
from .meta_sdt import MetaSDT
from .qkformer import QKFormer
from .scale_covariant import ScaleCovariantNet
from .sdt_v1 import SDTV1
from .sdt_v3 import ARCHITECTURES, SDTV3
from .spikformer import Spikformer
from .spiking_cnn import SpikingCNN

__all__ = [
    "ARCHITECTURES",
    "SDTV1",
    "SDTV3",
    "MaxFormer",
    "MetaSDT",
    "QKFormer",
    "ScaleCovariantNet",
    "Spikformer",
    "SpikingCNN",
    "convert_state_dict",
]


def __getattr__(name: str) -> object:
    """``convert_state_dict``, whose package imports this one: published weights are looked for beside the networks."""
    if name == "convert_state_dict":
        from ..checkpoints import convert_state_dict

        return convert_state_dict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
