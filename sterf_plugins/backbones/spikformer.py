"""Spikformer, a plain spiking transformer whose residuals add spikes.

Paper: "Spikformer: When Spiking Neural Network Meets Transformer" (ICLR 2023, arXiv:2209.15425). The released model
has two LayerNorms per block that no forward pass uses; they count in its parameters and are not here. Written from
descriptions; no code was copied.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ..layers.drop_path import drop_path_rates
from ..layers.lif_layers import SpikingAttention, SpikingBlock, SpikingConv
from .base import Stage
from .temporal import TemporalBackbone, check_size


class SpikformerStem(nn.Module):
    """Four times (3x3 convolution, BN, LIF, max-pooling), and a convolutional position encoding added to the spikes.

    (T, B, in_chans, H, W) -> (T, B, dim, H/16, W/16).
    """

    def __init__(self, in_chans: int, dim: int):
        super().__init__()
        widths = (in_chans, dim // 8, dim // 4, dim // 2, dim)
        self.convs = nn.Sequential(*[SpikingConv(a, b, 3, pool="after") for a, b in pairwise(widths)])
        self.position = SpikingConv(dim, dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x)
        return x + self.position(x)


class Spikformer(TemporalBackbone):
    """Spikformer. Feature level i is the output of block i, all at stride 16; see ``TemporalBackbone`` for shapes.

    Args:
        depth: number of transformer blocks.
        dim: number of channels, a multiple of 8.
        num_heads: number of attention heads; it must divide ``dim``.
        ratio: expansion of the MLPs.
        drop_path_rate: stochastic depth: probability that a sample does without a branch of the last block in training; it
            grows linearly over the blocks from 0.
        T, keep_time, in_chans, out_indices, num_classes, drop_rate: see ``TemporalBackbone``.

    Raises:
        TypeError, ValueError: an argument is out of range; the message names it and what is allowed.
    """

    def __init__(
        self,
        depth: int = 8,
        dim: int = 384,
        num_heads: int = 8,
        ratio: int = 4,
        T: int = 4,
        keep_time: bool = False,
        in_chans: int = 3,
        out_indices: Sequence[int] | None = None,
        num_classes: int = 0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        check_size(depth, dim, ratio, in_chans)
        stages = [
            Stage(
                nn.Identity() if i else SpikformerStem(in_chans, dim),
                [SpikingBlock(dim, SpikingAttention(dim, num_heads), ratio, rate)],
            )
            for i, rate in enumerate(drop_path_rates(drop_path_rate, depth))
        ]
        super().__init__(
            stages, [dim] * depth, [16] * depth, T, keep_time, in_chans, out_indices, num_classes, drop_rate=drop_rate
        )
