"""What MLPixer and SRB share: their arguments, and the widening Linear on tokens."""

from torch import Tensor, nn

from ..checks import flag, fraction, one_of, positive_int
from ..functional import LAYOUTS, to_tokens
from ..layers import IntegerSpike
from ..layers.batch_norm import BatchNorm1d
from ..layers.described import Described


class TokenMixer(Described):
    """spike -> Linear (dim -> ratio*dim, no bias) on tokens [-> BN] -> dropout -> spike; subclasses add what follows.

    (B, dim, H, W) -> (B, dim, H, W), the branch alone, without the residual.

    The defaults are what the paper writes: a channel MLP for each pixel, with a BN between the Linear and its spikes.
    The released code differs in both, and released checkpoints need ``layout="raster", norm_hidden=False``: there the
    Linear runs over dim raster-consecutive numbers of the (B, C, H, W) buffer, so that its grouping depends on H and W,
    and its spikes have no BN in front of them. With the released initialisation (std 0.02) they then never fire, and
    the branch is a constant that no gradient wakes: train with the BN.

    Args:
        dim: channels.
        ratio: hidden units per input channel.
        levels: D, integer spike levels.
        layout: "channel" or "raster" (see ``functional/layout.py``); both have the same parameters.
        norm_hidden: BN over the hidden units, after the first Linear.
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
        layout: str = "channel",
        norm_hidden: bool = True,
        drop: float = 0.0,
    ):
        super().__init__()
        one_of("layout", layout, LAYOUTS)
        self.dim = positive_int("dim", dim)
        self.hidden = self.dim * positive_int("ratio", ratio)
        self.layout = layout
        self.spike1 = IntegerSpike(levels)
        self.fc1 = nn.Linear(self.dim, self.hidden, bias=False)
        self.bn1 = BatchNorm1d(self.hidden) if flag("norm_hidden", norm_hidden) else nn.Identity()
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

    def description(self) -> dict[str, str]:
        """The layout, which changes no shape."""
        return dict(layout=self.layout)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, hidden={self.hidden}, layout={self.layout!r}"
