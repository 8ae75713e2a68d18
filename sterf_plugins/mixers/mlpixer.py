"""MLPixer: the MLP channel mixer of "Unveiling the Spatial-temporal Effective Receptive Fields of SNNs".

Paper: arXiv:2510.21403 (NeurIPS 2025). The released code differs from the text in two ways, both kept selectable:
it feeds the Linear with the raw buffer (``layout="raster"``, see ``functional/layout.py``) and it has no BN
(``norm_hidden=False``). Released checkpoints need both. Written from the description; no code was copied.
"""

from torch import Tensor, nn

from ..functional import from_tokens
from .token_mixer import TokenMixer


class MLPixer(TokenMixer):
    """spike -> Linear (dim -> ratio*dim) -> BN -> dropout -> spike -> Linear (ratio*dim -> dim) -> dropout.

    (B, dim, H, W) -> (B, dim, H, W), the branch alone, without the residual. The arguments are those of
    ``TokenMixer``.
    """

    def _add_second_layer(self, drop: float) -> None:
        self.fc2 = nn.Linear(self.hidden, self.dim, bias=False)
        self.drop2 = nn.Dropout(drop)
        nn.init.trunc_normal_(self.fc2.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.drop2(self.fc2(self.hidden_spikes(x)))
        return from_tokens(tokens, x.shape[-2:], self.layout)
