"""SRB, the splash-and-reconstruct block of "Unveiling the Spatial-temporal Effective Receptive Fields of SNNs".

Paper: arXiv:2510.21403 (NeurIPS 2025). The text replaces the *second* convolution of the conv mixer by a Linear; the
released code and the published parameter counts replace the *first*, and so does this. The global early receptive
field that the paper shows comes from ``layout="raster"`` (see ``functional/layout.py``): there the widened buffer is
read as ratio*dim full maps, which stretches each horizontal band over a whole map before the 3x3 convolution.
Written from the description; no code was copied.
"""

from torch import Tensor, nn

from ..checks import fraction
from ..functional import from_tokens
from ..layers.batch_norm import BatchNorm2d
from .token_linear import TokenExpansion


class SRB(TokenExpansion):
    """spike -> Linear (dim -> ratio*dim) -> dropout -> spike -> 3x3 conv (ratio*dim -> dim) -> BN.

    (B, dim, H, W) -> (B, dim, H, W), the branch alone, without the residual.

    ``layout="raster"`` is what the papers' released code computes: the Linear runs over dim raster-consecutive
    numbers of the (B, C, H, W) buffer. Its grouping depends on H and W, so it is not resolution-consistent.
    ``layout="channel"`` is a per-pixel channel MLP. Both have the same parameters.

    Args:
        dim: channels.
        ratio: hidden channels per input channel.
        levels: D, integer spike levels.
        layout: "raster" (as published) or "channel".
        norm_hidden: BN after the Linear, as in the paper's formula (the released code has none).
        drop: dropout rate after the Linear (0.2 in the released detectors and segmentors).

    Raises:
        TypeError, ValueError: an argument is out of range; the message names it.
    """

    def __init__(
        self,
        dim: int,
        ratio: int = 4,
        *,
        levels: int = 4,
        layout: str = "raster",
        norm_hidden: bool = False,
        drop: float = 0.0,
    ):
        super().__init__(dim, ratio, levels, layout, norm_hidden, fraction("drop", drop))
        self.conv2 = nn.Conv2d(self.hidden, self.dim, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(self.dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = from_tokens(self.spike2(self.expand(x)), x.shape[-2:], self.layout)
        return self.bn2(self.conv2(hidden))
