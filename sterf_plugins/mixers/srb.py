"""SRB, the splash-and-reconstruct block of "Unveiling the Spatial-temporal Effective Receptive Fields of SNNs".

Paper: arXiv:2510.21403 (NeurIPS 2025). The text replaces the *second* convolution of the conv mixer by a Linear; the
released code and the published parameter counts replace the *first*, and so does this. The global early receptive
field that the paper shows comes from ``layout="raster"`` (see ``functional/layout.py``): there the widened buffer is
read as ratio*dim full maps, which stretches each horizontal band over a whole map before the 3x3 convolution.
Written from the description; no code was copied.
"""

from torch import Tensor, nn

from ..functional import from_tokens
from ..layers.batch_norm import BatchNorm2d
from .token_mixer import TokenMixer


class SRB(TokenMixer):
    """spike -> Linear (dim -> ratio*dim) -> BN -> dropout -> spike -> 3x3 conv (ratio*dim -> dim) -> BN.

    (B, dim, H, W) -> (B, dim, H, W), the branch alone, without the residual. The arguments are those of
    ``TokenMixer``; the convolution has no dropout.
    """

    def _add_second_layer(self, drop: float) -> None:
        self.conv2 = nn.Conv2d(self.hidden, self.dim, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(self.dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = from_tokens(self.hidden_spikes(x), x.shape[-2:], self.layout)
        return self.bn2(self.conv2(hidden))
