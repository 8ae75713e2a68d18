"""The transformer block of SDT-V3's last two stages (arXiv:2411.16061)."""

import torch
from torch import Tensor, nn

from ..checks import finite_number, flag
from .attention import SpikeAttention
from .drop_path import drop_path
from .mlp import SpikeMlp
from .separable_conv import SepConv


class TransformerBlock(nn.Module):
    """x + SepConv_3x3(x), x + Attention(x), x + MLP(x); real-valued residuals, no norm layers.

    (B, dim, H, W) -> (B, dim, H, W).

    Args:
        dim: channels.
        num_heads: attention heads.
        ratio: expansion of the MLP.
        levels: D, integer spike levels.
        attn_factor: numerator of the attention scale.
        layer_scale: initial value of a learned per-channel factor on each branch, or None for no factor. Only the
            published segmentation baseline has one (1e-6).
        drop_path_rate: probability that a sample does without a branch in training.
        sep_conv: whether there is the branch of the separable convolution; SDTrack's blocks have none.

    Raises:
        TypeError, ValueError: an argument is out of range, or ``dim`` is not a multiple of ``num_heads``.
    """

    sep_conv: SepConv | None
    layer_scale1: nn.Parameter | None
    layer_scale2: nn.Parameter | None
    layer_scale3: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        ratio: int = 4,
        levels: int = 4,
        attn_factor: float = 2.0,
        layer_scale: float | None = None,
        drop_path_rate: float = 0.0,
        sep_conv: bool = True,
    ):
        super().__init__()
        self.sep_conv = SepConv(dim, 3, levels) if flag("sep_conv", sep_conv) else None
        self.attn = SpikeAttention(dim, num_heads, levels, attn_factor)
        self.mlp = SpikeMlp(dim, ratio, levels)
        self.drop_path = drop_path(drop_path_rate)
        start = None if layer_scale is None else finite_number("layer_scale", layer_scale)
        for name in ("layer_scale1", "layer_scale2", "layer_scale3"):
            value = None if start is None else nn.Parameter(torch.full((dim,), start))
            self.register_parameter(name, value)

    def forward(self, x: Tensor) -> Tensor:
        if self.sep_conv is not None:
            x = x + self.drop_path(_scaled(self.sep_conv(x), self.layer_scale1))
        x = x + self.drop_path(_scaled(self.attn(x), self.layer_scale2))
        return x + self.drop_path(_scaled(self.mlp(x), self.layer_scale3))


def _scaled(branch: Tensor, scale: Tensor | None) -> Tensor:
    return branch if scale is None else branch * scale.view(-1, 1, 1)
