"""QKFormer, a hierarchical spiking transformer with token attention of linear cost in its early stages.

Paper: "QKFormer: Hierarchical Spiking Transformer using Q-K Attention" (NeurIPS 2024, arXiv:2403.16552). Written from
descriptions; no code was copied.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from ..checks import check_heads
from ..layers.described import Described
from ..layers.drop_path import drop_path_rates
from ..layers.lif_layers import SpikingAttention, SpikingBlock, SpikingConv, lif
from .base import Stage
from .temporal import TemporalBackbone, check_size, check_three_stages


class QKFormerStem(nn.Module):
    """Three spiking convolutions, of which the first two pool; a 1x1 shortcut of stride 2 skips the last two.

    The spikes of both paths are added.

    (T, B, in_chans, H, W) -> (T, B, dim, H/4, W/4).
    """

    def __init__(self, in_chans: int, dim: int):
        super().__init__()
        self.conv1 = SpikingConv(in_chans, dim // 2, 3, pool="before")
        self.conv2 = SpikingConv(dim // 2, dim, 3, pool="before")
        self.conv3 = SpikingConv(dim, dim, 3)
        self.shortcut = SpikingConv(dim // 2, dim, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv3(self.conv2(x)) + self.shortcut(x)


class QKFormerDownsample(nn.Module):
    """Two spiking convolutions, of which the first pools, beside a 1x1 shortcut of stride 2; their spikes are added.

    (T, B, in_chans, H, W) -> (T, B, dim, H/2, W/2).
    """

    def __init__(self, in_chans: int, dim: int):
        super().__init__()
        self.conv1 = SpikingConv(in_chans, dim, 3, pool="before")
        self.conv2 = SpikingConv(dim, dim, 3)
        self.shortcut = SpikingConv(in_chans, dim, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x)) + self.shortcut(x)


class TokenAttention(Described):
    """Token Q-K attention: a token of k passes where the sum of q over a head's channels fires.

    q, k (1x1 convolution, BN, LIF) -> LIF(sum_head(q)) * k -> 1x1 convolution with bias, BN, LIF; (T, B, C, H, W), the
    branch alone.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.qk = SpikingConv(dim, 2 * dim)
        self.gate = lif(0.5)
        self.proj = SpikingConv(dim, dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        q, k = (t.unflatten(2, (self.num_heads, -1)) for t in self.qk(x).chunk(2, 2))
        return self.proj((self.gate(q.sum(3, keepdim=True)) * k).flatten(2, 3))

    def description(self) -> dict[str, int]:
        """What a state dict says of the attention that no shape shows: its number of heads."""
        return dict(num_heads=self.num_heads)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}"


class QKFormer(TemporalBackbone):
    """QKFormer. Feature levels 0, 1, 2 at strides 4, 8, 16 with dim/4, dim/2, dim channels.

    Args:
        depth: number of blocks, at least 4: the first stage has one, the second has two, the third has the others.
        dim: number of channels of the last stage, a multiple of 8.
        num_heads: number of attention heads in every stage; it must divide dim / 4.
        ratio: expansion of the MLPs.
        drop_path_rate: stochastic depth: probability that a sample does without a branch of the last block in training; it
            grows linearly over the blocks from 0.
        T, keep_time, in_chans, out_indices, num_classes, drop_rate: see ``TemporalBackbone``.

    Raises:
        TypeError, ValueError: an argument is out of range; the message names it and what is allowed.
    """

    def __init__(
        self,
        depth: int = 10,
        dim: int = 384,
        num_heads: int = 6,
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
        check_three_stages(depth)
        dims = (dim // 4, dim // 2, dim)
        downs = (QKFormerStem(in_chans, dims[0]), QKFormerDownsample(*dims[:2]), QKFormerDownsample(*dims[1:]))
        kinds = (TokenAttention, TokenAttention, SpikingAttention)
        rates = iter(drop_path_rates(drop_path_rate, depth))
        stages = [
            Stage(down, [SpikingBlock(width, kind(width, num_heads), ratio, next(rates)) for _ in range(count)])
            for down, width, kind, count in zip(downs, dims, kinds, (1, 2, depth - 3), strict=True)
        ]
        super().__init__(
            stages, dims, (4, 8, 16), T, keep_time, in_chans, out_indices, num_classes, drop_rate=drop_rate
        )
