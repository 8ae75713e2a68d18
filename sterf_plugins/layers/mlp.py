"""The spiking MLP of SDT-V3's transformer blocks (arXiv:2411.16061)."""

from torch import Tensor, nn

from ..checks import positive_int
from .conv_bn import ConvBN2d
from .integer_spike import IntegerSpike


class SpikeMlp(nn.Module):
    """(spike, 1x1 conv with bias, BN) twice: dim -> ratio*dim -> dim.

    (B, dim, H, W) -> (B, dim, H, W), the branch alone, without the residual.

    Args:
        dim: channels.
        ratio: hidden channels per input channel.
        levels: D, integer spike levels.

    Raises:
        TypeError, ValueError: an argument is no int >= 1.
    """

    def __init__(self, dim: int, ratio: int = 4, levels: int = 4):
        super().__init__()
        hidden = positive_int("ratio", ratio) * positive_int("dim", dim)
        self.spike1 = IntegerSpike(levels)
        self.fc1 = ConvBN2d(dim, hidden, bias=True)
        self.spike2 = IntegerSpike(levels)
        self.fc2 = ConvBN2d(hidden, dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.spike2(self.fc1(self.spike1(x))))
