"""MLPixer: the MLP channel mixer of "Unveiling the Spatial-temporal Effective Receptive Fields of SNNs".

Paper: arXiv:2510.21403 (NeurIPS 2025). The released code differs from the text in two ways, both kept selectable:
it feeds the Linear with the raw buffer (``layout="raster"``, see ``functional/layout.py``) and it has no BN
(``norm_hidden=False``). Published checkpoints need both. Written from the description; no code was copied.
"""

from torch import Tensor, nn

from ..checks import fraction
from ..functional import from_tokens
from .token_linear import TokenExpansion


class MLPixer(TokenExpansion):
    """spike -> Linear (dim -> ratio*dim) -> dropout -> spike -> Linear (ratio*dim -> dim) -> dropout.

    (B, dim, H, W) -> (B, dim, H, W), the branch alone, without the residual.

    ``layout="raster"`` is what the papers' released code computes: the Linear runs over dim raster-consecutive
    numbers of the (B, C, H, W) buffer. Its grouping depends on H and W, so it is not resolution-consistent.
    ``layout="channel"`` is the per-pixel channel MLP of the text. Both have the same parameters.

    Args:
        dim: channels.
        ratio: hidden units per input channel.
        levels: D, integer spike levels.
        layout: "raster" (as published) or "channel".
        norm_hidden: BN after the first Linear, as in the paper's formula (the released code has none).
        drop: dropout rate after each Linear (0.2 in the released detectors and segmentors).

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
        self.fc2 = nn.Linear(self.hidden, self.dim, bias=False)
        self.drop2 = nn.Dropout(drop)
        nn.init.trunc_normal_(self.fc2.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.fc2(self.spike2(self.expand(x)))
        return from_tokens(self.drop2(tokens), x.shape[-2:], self.layout)
