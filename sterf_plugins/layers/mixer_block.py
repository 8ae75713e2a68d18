"""The block of SDT-V3's convolutional stages: a separable convolution and a channel mixer."""

from torch import Tensor, nn

from .drop_path import drop_path
from .separable_conv import SepConv


class MixerBlock(nn.Module):
    """x + SepConv_7x7(x), then x + mixer(x); real-valued residuals (membrane shortcut).

    (B, dim, H, W) -> (B, dim, H, W).

    Args:
        dim: channels.
        mixer: the channel mixer's branch, (B, dim, H, W) -> (B, dim, H, W).
        levels: D, integer spike levels of the separable convolution.
        drop_path_rate: probability that a sample does without a branch in training.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """

    def __init__(self, dim: int, mixer: nn.Module, levels: int = 4, drop_path_rate: float = 0.0):
        super().__init__()
        self.sep_conv = SepConv(dim, 7, levels)
        if not callable(mixer):
            raise TypeError(
                f"`mixer` is {mixer!r} ({type(mixer).__name__}); it must be a module, such as ConvMixer({dim})."
            )
        self.mixer = mixer
        self.drop_path = drop_path(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Raises ``TypeError`` or ``ValueError`` if the mixer gives no tensor, or one of a shape that the sum might spread."""
        x = x + self.drop_path(self.sep_conv(x))
        y = self.mixer(x)
        if not isinstance(y, Tensor):
            raise TypeError(f"the mixer {type(self.mixer).__name__} gave {type(y).__name__}; it must give one tensor.")
        if y.shape != x.shape:
            raise ValueError(
                f"the mixer {type(self.mixer).__name__} gave {tuple(y.shape)} for an input {tuple(x.shape)}; a mixer "
                f"keeps the shape."
            )
        return x + self.drop_path(y)
