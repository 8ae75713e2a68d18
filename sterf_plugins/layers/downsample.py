"""The spiking downsampling between the stages of SDT-V3 (arXiv:2411.16061)."""

from torch import Tensor, nn

from ..checks import positive_int
from .batch_norm import BatchNorm2d
from .integer_spike import IntegerSpike


class Downsample(nn.Module):
    """spike -> 3x3 convolution with bias -> BN.

    (B, in_chans, H, W) -> (B, embed_dim, ceil(H / stride), ceil(W / stride)).

    Args:
        in_chans: channels of the input.
        embed_dim: channels of the output.
        stride: stride of the convolution.
        levels: D, integer spike levels.

    Raises:
        TypeError, ValueError: an argument is no int >= 1.
    """

    def __init__(self, in_chans: int, embed_dim: int, stride: int = 2, levels: int = 4):
        super().__init__()
        positive_int("in_chans", in_chans), positive_int("embed_dim", embed_dim)
        self.stride = positive_int("stride", stride)
        self.spike = IntegerSpike(levels)
        self.conv = nn.Conv2d(in_chans, embed_dim, 3, stride, 1)
        self.bn = BatchNorm2d(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(self.spike(x)))
