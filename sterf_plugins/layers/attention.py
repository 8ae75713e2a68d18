"""Spike-driven self-attention of SDT-V3 (arXiv:2411.16061): integer q, k, v, no softmax, linear in the tokens."""

import math

from torch import Tensor

from ..checks import check_heads, finite_number
from ..functional import linear_attention
from .conv_bn import ConvBN2d
from .described import Described
from .integer_spike import IntegerSpike

# v has four times the channels of q and k.
V_EXPANSION = 4


class SpikeAttention(Described):
    """spike -> q, k, v (1x1 conv, BN, spike) -> (q k^T) v * factor / sqrt(dim / heads) -> spike -> 1x1 conv, BN.

    (B, dim, H, W) -> (B, dim, H, W), the branch alone, without the residual. The three projections are one
    convolution to 6*dim channels (q, k, 4 of v), since they read the same spikes.

    Args:
        dim: channels.
        num_heads: number of attention heads; it must divide ``dim``.
        levels: D, integer spike levels.
        factor: numerator of the scale; 2 in the released detectors and segmentors, 1 in the released ERF script.

    Raises:
        TypeError, ValueError: an argument is out of range, or ``dim`` is not a multiple of ``num_heads``.
    """

    def __init__(self, dim: int, num_heads: int = 8, levels: int = 4, factor: float = 2.0):
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.split = (dim, dim, V_EXPANSION * dim)
        self.scale = finite_number("factor", factor) / math.sqrt(dim // num_heads)
        self.spike_in = IntegerSpike(levels)
        self.qkv = ConvBN2d(dim, sum(self.split))
        self.spike_qkv = IntegerSpike(levels)
        self.spike_out = IntegerSpike(levels)
        self.proj = ConvBN2d(V_EXPANSION * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.spike_qkv(self.qkv(self.spike_in(x)))
        q, k, v = (t.unflatten(1, (self.num_heads, -1)).flatten(3) for t in qkv.split(self.split, 1))
        out = linear_attention(q, k, v, self.scale).flatten(1, 2).unflatten(-1, x.shape[-2:])
        return self.proj(self.spike_out(out))

    def description(self) -> dict[str, float]:
        """What a state dict says of the attention that no shape shows: its number of heads and its scale."""
        return dict(num_heads=self.num_heads, scale=self.scale)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, scale={self.scale:.4g}"
