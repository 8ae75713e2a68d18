"""The baseline channel mixer of SDT-V3 (arXiv:2411.16061): two 3x3 convolutions."""

from torch import Tensor, nn

from ..checks import flag, fraction, one_of, positive_int
from ..functional import LAYOUTS
from ..layers import IntegerSpike
from ..layers.batch_norm import BatchNorm2d


class ConvMixer(nn.Module):
    """spike -> 3x3 conv (dim -> ratio*dim) -> BN -> spike -> 3x3 conv (ratio*dim -> dim) -> BN.

    (B, dim, H, W) -> (B, dim, H, W), the branch alone, without the residual.

    The arguments are those of ``TokenMixer``, for one signature of all mixers. A convolution has one layout only, its
    hidden BN is always there, and the published block has no dropout: ``layout``, ``norm_hidden`` and ``drop`` have no
    effect.

    Raises:
        TypeError, ValueError: an argument is out of range; the message names it.
    """

    def __init__(
        self,
        dim: int,
        ratio: int = 4,
        *,
        levels: int = 4,
        layout: str = "channel",
        norm_hidden: bool = True,
        drop: float = 0.0,
    ):
        super().__init__()
        one_of("layout", layout, LAYOUTS)
        flag("norm_hidden", norm_hidden)
        fraction("drop", drop)
        hidden = positive_int("dim", dim) * positive_int("ratio", ratio)
        self.spike1 = IntegerSpike(levels)
        self.conv1 = nn.Conv2d(dim, hidden, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(hidden)
        self.spike2 = IntegerSpike(levels)
        self.conv2 = nn.Conv2d(hidden, dim, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(self.spike1(x)))
        return self.bn2(self.conv2(self.spike2(x)))
