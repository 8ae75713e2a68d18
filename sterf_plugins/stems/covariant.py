"""The covariant stem: a convolution of receptive fields and its norm."""

from collections.abc import Mapping

from torch import Tensor, nn

from ..checks import positive_int
from ..layers.batch_norm import BatchNorm2d
from ..layers.over_time import over_time
from .fields import CovariantRFConv2d, RFBank
from .fields.bank_arguments import bank_or_default


class CovariantStem(nn.Module):
    """``CovariantRFConv2d`` and BN, as the first layers of a backbone; plugin name "covariant".

    (B, in_chans, H, W) -> (B, embed_dim, ceil(H / stride), ceil(W / stride)); a sequence
    (T, B, in_chans, H, W) keeps its time axis.

    Args:
        in_chans: image channels.
        embed_dim: output channels.
        stride: stride of the convolution.
        kernel_size: side of the window in pixels, for the default bank; ``None``: 7. An even size, as patch embeddings
            have, becomes the next odd one; the size of the output remains.
        bank: the receptive fields, or a mapping of the arguments of ``RFBank``; ``None``:
            ``RFBank.for_kernel_size(kernel_size)``. A bank that is given has a ``kernel_size`` of its own.
        learn: what the default bank learns, such as ("sigma", "ratio", "angle").
        init: "rf", "rf-free" or "uniform", as in ``CovariantRFConv2d``.

    Raises:
        ValueError, TypeError: an argument is out of range.

    Source: Nat. Commun. 16:8231 (2025).
    """

    def __init__(
        self,
        in_chans: int,
        embed_dim: int,
        stride: int = 2,
        kernel_size: int | None = None,
        bank: RFBank | Mapping | None = None,
        learn: tuple[str, ...] = (),
        init: str = "rf",
    ):
        super().__init__()
        self.stride = positive_int("stride", stride)
        if bank is not None and kernel_size is not None:
            raise ValueError(
                f"`kernel_size` is {kernel_size}, which is for the default bank; give `bank` its own, as "
                f"RFBank(kernel_size=...)."
            )
        bank = bank_or_default(bank, 7 if kernel_size is None else kernel_size, learn, init)
        self.conv = CovariantRFConv2d(in_chans, embed_dim, bank, stride, init=init)
        self.bn = BatchNorm2d(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(y) if y.ndim == 4 else over_time(self.bn, y)
