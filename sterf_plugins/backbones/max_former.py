"""Max-Former, whose early stages keep high frequencies: max-pooling between stages, and depthwise convolutions for attention.

Paper: "Spiking Neural Networks Need High-Frequency Information" (NeurIPS 2025, arXiv:2505.18608). Residuals add
membrane potentials, so that every convolution but the first reads spikes. This is the network of the released ImageNet
checkpoints. SpikingJelly 2 has it for CIFAR; its ``maxformer_10_384`` differs from the release in that q, k and v read
potentials, and in that spikes leave the attention. Written from descriptions; no code was copied.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from ..checks import check_heads
from ..layers.drop_path import drop_path_rates
from ..layers.lif_layers import MembraneBlock, SelfAttention, SpikingConv, TimeConvBN, lif
from .base import Stage
from .temporal import TemporalBackbone, check_size, check_three_stages, start_as_released


class MaxFormerStem(nn.Module):
    """3x3 convolutions of stride 2, 2 and 1 with a LIF between them; a 1x1 shortcut of stride 2 skips the last two.

    The potentials of both paths are added.

    (T, B, in_chans, H, W) -> (T, B, dim, H/4, W/4).
    """

    def __init__(self, in_chans: int, dim: int):
        super().__init__()
        self.conv1 = SpikingConv(in_chans, dim // 2, 3, stride=2)
        self.conv2 = SpikingConv(dim // 2, dim, 3, stride=2)
        self.conv3 = TimeConvBN(dim, dim, 3)
        self.shortcut = TimeConvBN(dim // 2, dim, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv3(self.conv2(x)) + self.shortcut(x)


class MaxFormerDownsample(nn.Module):
    """LIF, then two 3x3 convolutions, of which the first pools, beside a 1x1 shortcut that pools; potentials are added.

    (T, B, in_chans, H, W) -> (T, B, dim, H/2, W/2).
    """

    def __init__(self, in_chans: int, dim: int):
        super().__init__()
        self.lif = lif()
        self.conv1 = SpikingConv(in_chans, dim, 3, pool="before")
        self.conv2 = TimeConvBN(dim, dim, 3)
        self.shortcut = TimeConvBN(in_chans, dim, pool=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif(x)
        return self.conv2(self.conv1(x)) + self.shortcut(x)


class DepthwiseBranch(nn.Sequential):
    """LIF -> depthwise convolution with bias, BN; (T, B, dim, H, W) in and out, the branch alone, without the residual."""

    def __init__(self, dim: int, kernel: int):
        super().__init__(OrderedDict(lif=lif(), dw=TimeConvBN(dim, dim, kernel, groups=dim, bias=True)))


class AttentionBranch(nn.Module):
    """LIF -> q, k, v (1x1 convolution, BN, LIF) -> q (k^T v) * 0.125, LIF -> 1x1 convolution with bias, BN.

    (T, B, dim, H, W) in and out; the branch alone, without the residual.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        check_heads(dim, num_heads)
        self.lif = lif()
        self.qkv = SpikingConv(dim, 3 * dim)
        self.attend = SelfAttention(num_heads)
        self.proj = TimeConvBN(dim, dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.attend(*self.qkv(self.lif(x)).chunk(3, 2)))


class MaxFormer(TemporalBackbone):
    """Max-Former. Feature levels 0, 1, 2 at strides 4, 8, 16 with dim/4, dim/2, dim channels.

    Args:
        depth: number of blocks, at least 4: the first stage has one, the second has two, the third has the others.
        dim: number of channels of the last stage, a multiple of 8.
        num_heads: number of attention heads of the last stage; it must divide ``dim``. The release has dim / 64.
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
        downs = (MaxFormerStem(in_chans, dims[0]), MaxFormerDownsample(*dims[:2]), MaxFormerDownsample(*dims[1:]))
        branches: tuple[list[nn.Module], ...] = (
            [DepthwiseBranch(dims[0], 7)],
            [DepthwiseBranch(dims[1], 5) for _ in range(2)],
            [AttentionBranch(dim, num_heads) for _ in range(depth - 3)],
        )
        rates = iter(drop_path_rates(drop_path_rate, depth))
        stages = [
            Stage(down, [MembraneBlock(width, branch, ratio, next(rates)) for branch in mixing])
            for down, width, mixing in zip(downs, dims, branches, strict=True)
        ]
        super().__init__(stages, dims, (4, 8, 16), T, keep_time, in_chans, out_indices, num_classes, lif(), drop_rate)
        start_as_released(self.stages)
