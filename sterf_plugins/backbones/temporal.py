"""Backbones with a time axis: images are held for T steps, event frames bring their own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..checks import check_images, check_steps, flag, fraction, positive_int
from ..functional.still import repeat_still
from ..functional.strides import channels_last
from .base import StagedBackbone


class TemporalBackbone(StagedBackbone):
    """Stages that run on sequences (T, B, C, H, W), for images and for event frames.

    An image (B, in_chans, H, W) is held for ``T`` steps; event frames (T, B, in_chans, H, W) may have any number of
    steps. With ``num_classes=0`` the output is a tuple of feature maps: their means over time (B, C_i, H_i, W_i), or
    all of their steps (T, B, C_i, H_i, W_i) with ``keep_time``. Otherwise it is logits (B, num_classes), the mean over
    time.

    Args:
        stages, dims, strides: as in ``StagedBackbone``.
        T: number of time steps for which an image is held.
        keep_time: return feature maps of all time steps instead of their mean.
        in_chans: number of image channels.
        out_indices: feature levels to return when ``num_classes`` is 0; ``None`` for all.
        num_classes: 0 for feature maps, otherwise the width of a linear head.
        head_neuron: neuron between the pooled features and the linear head; ``None`` for none.
        drop_rate: dropout in front of the linear head; a sample lacks a channel in all time steps or in none.

    Raises:
        TypeError, ValueError: an argument is out of range; the message names it and what is allowed.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        dims: Sequence[int],
        strides: Sequence[int],
        T: int,
        keep_time: bool,
        in_chans: int,
        out_indices: Sequence[int] | None,
        num_classes: int,
        head_neuron: nn.Module | None = None,
        drop_rate: float = 0.0,
    ):
        super().__init__(stages, dims, strides, positive_int("in_chans", in_chans), out_indices)
        self.T = positive_int("T", T)
        self.keep_time = flag("keep_time", keep_time)
        self.head_neuron = nn.Identity() if head_neuron is None else head_neuron
        self.head_drop = nn.Dropout1d(fraction("drop_rate", drop_rate))
        self.set_num_classes(num_classes)

    def description(self) -> dict[str, int]:
        """The steps for which an image is held."""
        return dict(T=self.T)

    def enter(self, x: Tensor) -> Tensor:
        """Check the input, turn it channels-last and give it a time axis.

        Raises:
            ValueError: the input has neither of the two shapes, or another number of channels.
        """
        return _sequence(x, self.in_chans, self.T)

    def leave(self, x: Tensor) -> Tensor:
        """(T, B, C, H, W) -> its mean over time (B, C, H, W), or all of it with ``keep_time``."""
        return x if self.keep_time else x.mean(0)

    def undo_leave(self, x: Tensor) -> Tensor:
        """A mean over time (B, C, H, W), held for ``T`` steps; a sequence (T, B, C, H, W) stays as it is."""
        return x if x.ndim == 5 else repeat_still(x, self.T)

    def classify(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) from the last stage's output (T, B, C, H, W).

        Mean over pixels, the head's neuron where there is one, dropout, the linear head, mean over time.
        """
        x = self.head_neuron(x.mean((-2, -1)))
        x = self.head_drop(x.permute(1, 2, 0)).permute(2, 0, 1)  # (B, C, T): a channel goes in all time steps or none
        return self.head(x).mean(0)


def check_size(depth: int, dim: int, ratio: int, in_chans: int) -> None:
    """Check the arguments of a transformer whose stem starts with dim / 8 channels.

    Raises:
        TypeError, ValueError: ``depth``, ``ratio`` or ``in_chans`` is not an int >= 1, or ``dim`` is not a multiple of 8.
    """
    for name, value in dict(depth=depth, ratio=ratio, in_chans=in_chans).items():
        positive_int(name, value)
    if positive_int("dim", dim) % 8:
        raise ValueError(f"`dim` is {dim}; it must be a multiple of 8, since the stem starts with dim / 8 channels.")


def check_three_stages(depth: int) -> None:
    """Raise ``ValueError`` unless three stages can share the blocks: one, two and the rest."""
    if depth < 4:
        raise ValueError(f"`depth` is {depth}; it must be at least 4: one, two and the rest of the blocks.")


def start_as_released(stages: nn.Module) -> None:
    """Start all convolutions as the released SDT-V1 and Max-Former do: weights from N(0, 0.02), cut off, and no bias."""
    for module in stages.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.fx.wrap  # one step of a traced model, since it looks at the shape
def _sequence(x: Tensor, in_chans: int, steps: int) -> Tensor:
    """Images (B, C, H, W) or event frames (T, B, C, H, W) as a channels-last sequence (T, B, C, H, W)."""
    check_images(x, in_chans, or_frames=True)
    if x.ndim == 5:
        check_steps("x", x)
        return channels_last(x.flatten(0, 1)).unflatten(0, (x.shape[0], -1))
    return repeat_still(channels_last(x), steps)
