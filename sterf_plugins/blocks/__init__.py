"""Building blocks of the spiking backbones."""

from .attention import SpikeAttention
from .conv_bn import conv_bn
from .downsample import Downsample
from .mixer_block import MixerBlock
from .mlp import SpikeMlp
from .separable_conv import SepConv
from .transformer import TransformerBlock

__all__ = [
    "Downsample",
    "MixerBlock",
    "SepConv",
    "SpikeAttention",
    "SpikeMlp",
    "TransformerBlock",
    "conv_bn",
]
