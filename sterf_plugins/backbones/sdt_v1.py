"""SDT-V1, the first spike-driven transformer: attention by masking, residuals of membrane potentials.

Paper: "Spike-driven Transformer" (NeurIPS 2023, arXiv:2307.01694). The released model has a 1x1 convolution over the
heads in each block ("talking heads") that no forward pass uses; it counts in its parameters and is not here. Written
from descriptions; no code was copied.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ..checks import check_heads
from ..layers.drop_path import drop_path_rates
from ..layers.lif_layers import MembraneBlock, SpikingConv, TimeConvBN, lif
from .base import Stage
from .temporal import TemporalBackbone, check_size, start_as_released


class SDTV1Stem(nn.Module):
    """Three times (3x3 convolution, BN, LIF, max-pooling), a fourth without the neuron, and a position encoding.

    (T, B, in_chans, H, W) -> (T, B, dim, H/16, W/16), real numbers: the membrane potentials of the residual stream.
    """

    def __init__(self, in_chans: int, dim: int):
        super().__init__()
        widths = (in_chans, dim // 8, dim // 4, dim // 2)
        self.convs = nn.Sequential(*[SpikingConv(a, b, 3, pool="after") for a, b in pairwise(widths)])
        self.last = TimeConvBN(dim // 2, dim, 3, pool=True)
        self.lif = lif()
        self.position = TimeConvBN(dim, dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.convs(x))
        return x + self.position(self.lif(x))


class MaskAttention(nn.Module):
    """Spike-driven self-attention: which channels of q pass is decided by the spikes of sum_tokens(k * v).

    LIF -> q, k, v (1x1 convolution, BN, LIF) -> q * LIF(sum(k * v)) -> 1x1 convolution with bias, BN. There is no
    matrix product, no scale, and no difference between heads. (T, B, dim, H, W) in and out; the branch alone, without
    the residual.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        check_heads(dim, num_heads)
        self.lif = lif()
        self.qkv = SpikingConv(dim, 3 * dim)
        self.mask = lif(0.5)
        self.proj = TimeConvBN(dim, dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.lif(x)).chunk(3, 2)
        return self.proj(q * self.mask((k * v).sum((-2, -1), keepdim=True)))


class SDTV1(TemporalBackbone):
    """Spike-driven transformer. Feature level i is the output of block i, all at stride 16.

    Args:
        depth: number of transformer blocks.
        dim: number of channels, a multiple of 8.
        num_heads: number of attention heads, which must divide ``dim``; it changes nothing, since the masking attention
            treats all channels alike.
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
                nn.Identity() if i else SDTV1Stem(in_chans, dim),
                [MembraneBlock(dim, MaskAttention(dim, num_heads), ratio, rate)],
            )
            for i, rate in enumerate(drop_path_rates(drop_path_rate, depth))
        ]
        dims, strides = [dim] * depth, [16] * depth
        super().__init__(stages, dims, strides, T, keep_time, in_chans, out_indices, num_classes, lif(), drop_rate)
        start_as_released(self.stages)
