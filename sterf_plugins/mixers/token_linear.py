"""The widening Linear that MLPixer and SRB share."""

from torch import Tensor, nn

from ..checks import one_of, positive_int
from ..functional import LAYOUTS, to_tokens
from ..layers import IntegerSpike
from ..layers.batch_norm import BatchNorm1d


class TokenExpansion(nn.Module):
    """spike -> Linear (dim -> ratio*dim, no bias) on tokens [-> BN] -> dropout.

    (B, dim, H, W) -> (B, H*W, ratio*dim). Subclasses add what follows.

    The paper's formula has a BN after the Linear, the released code has none, and with the released initialisation
    (std 0.02) the next spike layer then never fires until the weights have grown. ``norm_hidden=True`` is the BN of
    the formula, over the hidden units of the Linear.

    Args:
        dim: channels.
        ratio: hidden units per input channel.
        levels: D, integer spike levels.
        layout: "raster" or "channel" (see ``functional/layout.py``).
        norm_hidden: BN after the Linear.
        drop: dropout rate.

    Raises:
        TypeError, ValueError: an argument is out of range; the message names it.
    """

    def __init__(self, dim: int, ratio: int, levels: int, layout: str, norm_hidden: bool, drop: float):
        super().__init__()
        one_of("layout", layout, LAYOUTS)
        self.dim = positive_int("dim", dim)
        self.hidden = self.dim * positive_int("ratio", ratio)
        self.layout = layout
        self.spike1 = IntegerSpike(levels)
        self.fc1 = nn.Linear(self.dim, self.hidden, bias=False)
        self.bn1 = BatchNorm1d(self.hidden) if norm_hidden else nn.Identity()
        self.drop1 = nn.Dropout(drop)
        self.spike2 = IntegerSpike(levels)
        nn.init.trunc_normal_(self.fc1.weight, std=0.02)

    def expand(self, x: Tensor) -> Tensor:
        """The hidden values before the second spike layer, (B, dim, H, W) -> (B, H*W, ratio*dim)."""
        tokens = self.fc1(to_tokens(self.spike1(x), self.layout))
        return self.drop1(self.bn1(tokens.flatten(0, 1)).view_as(tokens))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, hidden={self.hidden}, layout={self.layout!r}"
