"""Building blocks of the spiking backbones."""

from .attention import SpikeAttention
from .conv_bn import ConvBN2d
from .depthwise import DepthwiseConv2d
from .downsample import Downsample
from .mixer_block import MixerBlock
from .mlp import SpikeMlp
from .readouts import LeakyReadout, SoftArgmax2d
from .separable_conv import SepConv
from .transformer import TransformerBlock

__all__ = [
    "ConvBN2d",
    "DepthwiseConv2d",
    "Downsample",
    "LeakyReadout",
    "MixerBlock",
    "SepConv",
    "SoftArgmax2d",
    "SpikeAttention",
    "SpikeMlp",
    "TransformerBlock",
]
