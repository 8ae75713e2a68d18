"""Layers that the networks share: neurons, norms, and the blocks of spiking transformers.

Integer spikes and the layers of SDT-V3 take and return (B, C, H, W). Neurons with dynamics and the layers of networks
with a time axis take and return (T, B, C, H, W).
"""

from .attention import SpikeAttention
from .batch_norm import BatchNorm1d, BatchNorm2d
from .conv_bn import ConvBN2d
from .depthwise import DepthwiseConv2d
from .downsample import Downsample
from .integer_spike import IntegerSpike
from .mixer_block import MixerBlock
from .mlp import SpikeMlp
from .separable_conv import SepConv
from .spiking_nodes import StatelessNode, if_node, ilif_node, izhikevich_node, lif_node, plif_node
from .transformer import TransformerBlock

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "ConvBN2d",
    "DepthwiseConv2d",
    "Downsample",
    "IntegerSpike",
    "MixerBlock",
    "SepConv",
    "SpikeAttention",
    "SpikeMlp",
    "StatelessNode",
    "TransformerBlock",
    "if_node",
    "ilif_node",
    "izhikevich_node",
    "lif_node",
    "plif_node",
]
