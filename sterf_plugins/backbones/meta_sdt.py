"""Meta-SDT, the spike-driven transformer V2: convolutional stages, then attention with re-parameterisable projections.

Paper: "Spike-driven Transformer V2: Meta Spiking Neural Network Architecture" (ICLR 2024, arXiv:2404.03663). Stages
and strides are those of SDT-V3. Written from descriptions; no code was copied.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_heads, entries, positive_int
from ..layers.batch_norm import BatchNorm2d
from ..layers.conv_bn import ConvBN2d
from ..layers.depthwise import DepthwiseConv2d
from ..layers.drop_path import drop_path, drop_path_rates
from ..layers.lif_layers import MembraneBlock, SelfAttention, TimeConvBN, lif
from ..layers.over_time import over_time
from .base import Stage
from .sdt_v3 import DEPTHS, MIXER_STAGES, STRIDES
from .temporal import TemporalBackbone


class MetaDownsample(nn.Module):
    """LIF (left out in front of the image) -> convolution with bias -> BN.

    (T, B, in_chans, H, W) -> (T, B, dim, H/stride, W/stride), sizes rounded up.
    """

    def __init__(self, in_chans: int, dim: int, kernel: int, stride: int, first: bool):
        super().__init__()
        self.lif = nn.Identity() if first else lif()
        self.conv_bn = TimeConvBN(in_chans, dim, kernel, stride=stride, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_bn(self.lif(x))


class MetaSepConv(nn.Module):
    """LIF -> 1x1 convolution to 2*dim, BN -> LIF -> depthwise 7x7 convolution -> 1x1 convolution to dim, BN.

    (T, B, dim, H, W) in and out; the branch alone, without the residual.
    """

    def __init__(self, dim: int):
        super().__init__()
        hidden = 2 * dim
        self.lif1 = lif()
        self.pw1 = TimeConvBN(dim, hidden)
        self.lif2 = lif()
        self.dw = DepthwiseConv2d(hidden, hidden, 7, padding=3, groups=hidden, bias=False)
        self.pw2 = ConvBN2d(hidden, dim)  # as published, neither a BN nor a neuron stands before it

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif2(self.pw1(self.lif1(x)))
        return over_time(lambda frames: self.pw2(self.dw(frames)), x)


class MetaConvBlock(nn.Module):
    """x + MetaSepConv(x), then x + branch(x); the branch is (LIF, 3x3 convolution, BN) twice, dim -> ratio*dim -> dim.

    (T, B, dim, H, W) in and out.
    """

    def __init__(self, dim: int, ratio: int = 4, drop_path_rate: float = 0.0):
        super().__init__()
        self.sep_conv = MetaSepConv(dim)
        self.lif1 = lif()
        self.conv1 = TimeConvBN(dim, ratio * dim, 3)
        self.lif2 = lif()
        self.conv2 = TimeConvBN(ratio * dim, dim, 3)
        self.drop_path = drop_path(drop_path_rate, over_time=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.sep_conv(x))
        return x + self.drop_path(self.conv2(self.lif2(self.conv1(self.lif1(x)))))


class BorderedBatchNorm(nn.Module):
    """BN, then a border of one pixel that holds what BN makes of zero; (B, C, H, W) -> (B, C, H + 2, W + 2).

    A 3x3 convolution behind it therefore sees what it would see if the map had been padded with zeros before the BN,
    so that the two could be folded into one layer for inference (``deploy.reparameterize`` leaves them as they are). In
    training the pixels alone make the statistics, and the border holds what the running ones make of zero. The BN is a
    submodule, so that it may become a ``SyncBatchNorm``.
    """

    bn: Any

    def __init__(self, dim: int):
        super().__init__()
        self.bn = BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.bn(F.pad(x, (1, 1, 1, 1)))
        y = self.bn(x)
        scale = self.bn.weight.detach() / torch.sqrt(self.bn.running_var + self.bn.eps)
        border = (self.bn.bias.detach() - self.bn.running_mean * scale).view(-1, 1, 1).to(y.dtype)
        padded = F.pad(y.detach(), (1, 1, 1, 1)).copy_(border)
        padded[..., 1:-1, 1:-1] = y
        return padded


class RepConv(nn.Module):
    """1x1 convolution, BN with a border, depthwise 3x3, 1x1 convolution, BN, and a BN around it; (B, C, H, W).

    The last BN is registered first: mmcv's ``fuse_conv_bn`` takes a BN for that of the convolution registered before it,
    and would fold it into the depthwise one.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.bn2 = BatchNorm2d(dim)
        self.conv1 = nn.Conv2d(dim, dim, 1, bias=False)
        self.bn1 = BorderedBatchNorm(dim)
        self.dw = nn.Conv2d(dim, dim, 3, groups=dim, bias=False)
        self.pw = ConvBN2d(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.pw(self.dw(self.bn1(self.conv1(x)))))


class RepAttention(nn.Module):
    """LIF -> q, k, v (RepConv, LIF) -> q (k^T v) * 0.125 -> LIF of threshold 0.5 -> RepConv.

    (T, B, dim, H, W) in and out; the branch alone, without the residual.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        check_heads(dim, num_heads)
        self.lif = lif()
        self.q, self.k, self.v = (RepConv(dim) for _ in range(3))
        self.lif_q, self.lif_k, self.lif_v = (lif() for _ in range(3))
        self.attend = SelfAttention(num_heads)
        self.proj = RepConv(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif(x)
        q, k, v = (
            neuron(over_time(branch, x))
            for branch, neuron in ((self.q, self.lif_q), (self.k, self.lif_k), (self.v, self.lif_v))
        )
        return over_time(self.proj, self.attend(q, k, v))


class MetaSDT(TemporalBackbone):
    """Meta-SDT. Feature levels 0 to 4 at strides 2, 4, 8, 16, 16, as in SDT-V3.

    Args:
        embed_dims: number of channels of feature levels 1 to 4; level 0 has half as many as level 1.
        num_heads: number of attention heads; it must divide the last two of ``embed_dims``.
        ratio: expansion of the 3x3 convolutions and of the MLPs.
        drop_path_rate: stochastic depth: probability that a sample does without a branch of the last block in training; it
            grows linearly over the blocks from 0.
        T, keep_time, in_chans, out_indices, num_classes, drop_rate: see ``TemporalBackbone``.

    Raises:
        TypeError, ValueError: an argument is out of range; the message names it and what is allowed.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 128, 256, 360),
        num_heads: int = 8,
        ratio: int = 4,
        T: int = 4,
        keep_time: bool = False,
        in_chans: int = 3,
        out_indices: Sequence[int] | None = (1, 2, 3, 4),
        num_classes: int = 0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        ratio, in_chans = positive_int("ratio", ratio), positive_int("in_chans", in_chans)
        dims = tuple(positive_int("embed_dims", d) for d in entries("embed_dims", embed_dims))
        if len(dims) != 4 or dims[0] % 2:
            raise ValueError(f"`embed_dims` is {dims}; it must be four ints, the first even.")
        stage_dims = (dims[0] // 2, *dims)
        stages = []
        previous_dim = in_chans
        rates = iter(drop_path_rates(drop_path_rate, sum(DEPTHS)))
        for i, (dim, depth) in enumerate(zip(stage_dims, DEPTHS, strict=True)):
            stride = STRIDES[i] // (STRIDES[i - 1] if i else 1)
            down = MetaDownsample(previous_dim, dim, 3 if i else 7, stride, first=not i)
            build = MetaConvBlock if i < MIXER_STAGES else _attention_block(num_heads)
            stages.append(Stage(down, [build(dim, ratio, next(rates)) for _ in range(depth)]))
            previous_dim = dim
        super().__init__(
            stages, stage_dims, STRIDES, T, keep_time, in_chans, out_indices, num_classes, lif(), drop_rate
        )


def _attention_block(num_heads: int):
    """A function ``(dim, ratio, drop_path_rate) -> block``, to be called like the class ``MetaConvBlock``."""
    return lambda dim, ratio, rate: MembraneBlock(dim, RepAttention(dim, num_heads), ratio, rate)
