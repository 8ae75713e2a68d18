"""What MLPixer and SRB share: their arguments, and the widening Linear on tokens."""

from torch import Tensor, nn

from ..checks import fraction, one_of, positive_int
from ..functional import LAYOUTS, to_tokens
from ..layers import IntegerSpike
from ..layers.batch_norm import BatchNorm1d


class TokenMixer(nn.Module):
    """spike -> Linear (dim -> ratio*dim, no bias) on tokens [-> BN] -> dropout -> spike; subclasses add what follows.

    (B, dim, H, W) -> (B, dim, H, W), the branch alone, without the residual.

    ``layout="raster"`` is what the papers' released code computes: the Linear runs over dim raster-consecutive
    numbers of the (B, C, H, W) buffer. Its grouping depends on H and W, so it is not resolution-consistent.
    ``layout="channel"`` is a per-pixel channel MLP. Both have the same parameters.

    The paper's formula has a BN after the Linear, the released code has none, and with the released initialisation
    (std 0.02) the next spike layer then never fires until the weights have grown. ``norm_hidden=True`` is the BN of
    the formula, over the hidden units of the Linear.

    Args:
        dim: channels.
        ratio: hidden units per input channel.
        levels: D, integer spike levels.
        layout: "raster" (as published) or "channel" (see ``functional/layout.py``).
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
        super().__init__()
        one_of("layout", layout, LAYOUTS)
        self.dim = positive_int("dim", dim)
        self.hidden = self.dim * positive_int("ratio", ratio)
        self.layout = layout
        self.spike1 = IntegerSpike(levels)
        self.fc1 = nn.Linear(self.dim, self.hidden, bias=False)
        self.bn1 = BatchNorm1d(self.hidden) if norm_hidden else nn.Identity()
        self.drop1 = nn.Dropout(fraction("drop", drop))
        self.spike2 = IntegerSpike(levels)
        nn.init.trunc_normal_(self.fc1.weight, std=0.02)
        self._add_second_layer(drop)

    def _add_second_layer(self, drop: float) -> None:
        """Create the layer that narrows the hidden spikes to ``dim`` channels again."""
        raise NotImplementedError

    def hidden_spikes(self, x: Tensor) -> Tensor:
        """Spikes of the hidden units, (B, dim, H, W) -> (B, H*W, ratio*dim)."""
        tokens = self.fc1(to_tokens(self.spike1(x), self.layout))
        return self.spike2(self.drop1(self.bn1(tokens.flatten(0, 1)).view_as(tokens)))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, hidden={self.hidden}, layout={self.layout!r}"
