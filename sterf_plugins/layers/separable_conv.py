"""The spiking separable convolution of SDT-V3 (arXiv:2411.16061)."""

from torch import Tensor, nn

from ..checks import positive_int
from .conv_bn import ConvBN2d
from .integer_spike import IntegerSpike


class SepConv(nn.Module):
    """(spike, 1x1 conv to 2*dim, BN), (spike, depthwise kxk, BN), (spike, 1x1 conv to dim, BN).

    (B, dim, H, W) -> (B, dim, H, W), the branch alone, without the residual.

    Args:
        dim: channels.
        kernel: depthwise kernel size; 7 in mixer blocks, 3 in transformer blocks.
        levels: D, integer spike levels.

    Raises:
        TypeError, ValueError: an argument is no int >= 1, or ``kernel`` is even.
    """

    def __init__(self, dim: int, kernel: int, levels: int = 4):
        super().__init__()
        hidden = 2 * positive_int("dim", dim)
        self.spike1 = IntegerSpike(levels)
        self.pw1 = ConvBN2d(dim, hidden)
        self.spike2 = IntegerSpike(levels)
        self.dw = ConvBN2d(hidden, hidden, kernel, groups=hidden)
        self.spike3 = IntegerSpike(levels)
        self.pw2 = ConvBN2d(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pw1(self.spike1(x))
        x = self.dw(self.spike2(x))
        return self.pw2(self.spike3(x))
