"""Building blocks of the spiking backbones."""

from .attention import SpikeAttention
from .conv_bn import conv_bn
from .downsample import Downsample
from .mixer_block import MixerBlock
from .mlp import SpikeMlp
from .readouts import LeakyReadout, SoftArgmax2d
from .separable_conv import SepConv
from .transformer import TransformerBlock

__all__ = [
    "Downsample",
    "LeakyReadout",
    "MixerBlock",
    "SepConv",
    "SoftArgmax2d",
    "SpikeAttention",
    "SpikeMlp",
    "TransformerBlock",
    "conv_bn",
]
