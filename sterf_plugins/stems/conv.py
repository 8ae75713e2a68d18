"""The convolution stem of SDT-V3 (arXiv:2411.16061)."""

from torch import Tensor, nn

from ..checks import positive_int
from ..layers.batch_norm import BatchNorm2d


class ConvStem(nn.Module):
    """7x7 convolution with bias, then BN; the image itself is not spiked.

    (B, in_chans, H, W) -> (B, embed_dim, ceil(H / stride), ceil(W / stride)).

    Args:
        in_chans: image channels.
        embed_dim: output channels.
        stride: stride of the convolution.

    Raises:
        TypeError, ValueError: an argument is no int >= 1.
    """

    def __init__(self, in_chans: int, embed_dim: int, stride: int = 2):
        super().__init__()
        positive_int("in_chans", in_chans), positive_int("embed_dim", embed_dim)
        self.stride = positive_int("stride", stride)
        self.conv = nn.Conv2d(in_chans, embed_dim, 7, stride, 3)
        self.bn = BatchNorm2d(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))
