"""Backbones with a time axis: images are held for T steps, event frames bring their own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..checks import positive_int
from ..functional.still import repeat_still
from .base import StagedBackbone


class TemporalBackbone(StagedBackbone):
    """Stages on (T, B, C, H, W).

    (B, in_chans, H, W) images, held for T steps, or (T, B, in_chans, H, W) event frames of any number of steps -> with
    ``num_classes=0`` a tuple of feature maps, their mean over time (B, C_i, H_i, W_i), or all steps (T, B, C_i, H_i,
    W_i) with ``keep_time``; else (B, num_classes) logits, the mean over time.

    Args:
        stages, dims, strides: as in ``StagedBackbone``.
        T: time steps for which an image is held.
        keep_time: give feature maps of all steps.
        in_chans: image channels.
        out_indices: feature points to return when ``num_classes`` is 0; ``None`` for all.
        num_classes: 0 for feature maps, otherwise the width of a linear head.
        head_neuron: a neuron between the pooled features and the linear head.
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
    ):
        super().__init__(stages, dims, strides, positive_int("in_chans", in_chans), out_indices)
        self.T = positive_int("T", T)
        self.keep_time = keep_time
        self.head_neuron = nn.Identity() if head_neuron is None else head_neuron
        self.set_num_classes(num_classes)

    def enter(self, x: Tensor) -> Tensor:
        """Check the input, turn it channels-last and give it a time axis."""
        if x.ndim not in (4, 5) or x.shape[-3] != self.in_chans:
            raise ValueError(
                f"input has shape {tuple(x.shape)}; this model takes images (B, {self.in_chans}, H, W) or event frames "
                f"(T, B, {self.in_chans}, H, W). "
                f"Pass in_chans={x.shape[-3] if x.ndim in (4, 5) else '...'} to the constructor for other channels."
            )
        if x.ndim == 5:
            return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
        x = x.contiguous(memory_format=torch.channels_last)
        return repeat_still(x, self.T)

    def leave(self, x: Tensor) -> Tensor:
        """(T, B, C, H, W) -> its mean over time, or all of it."""
        return x if self.keep_time else x.mean(0)

    def classify(self, x: Tensor) -> Tensor:
        """Mean over pixels [, neuron], linear, mean over time; (T, B, C, H, W) in."""
        return self.head(self.head_neuron(x.mean((-2, -1)))).mean(0)
