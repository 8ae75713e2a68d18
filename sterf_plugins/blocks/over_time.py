"""Layers without a time axis on sequences."""

from collections.abc import Callable

from spikingjelly.activation_based import functional
from torch import Tensor


def over_time(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``layer`` on every time step; (T, B, ...) -> (T, B, ...).

    An image that is held for T steps (time axis of stride 0, from ``expand``) is processed once and held again. In
    training, BatchNorm's running variance then corrects for B instead of T*B samples; all else is the same.
    """
    if is_held(x):
        y = layer(x[0])
        return y.expand(x.shape[0], *y.shape)
    return functional.seq_to_ann_forward(x, layer)


def is_held(x: Tensor) -> bool:
    """Whether all steps of (T, ...) are one image in memory."""
    return x.shape[0] > 1 and x.stride(0) == 0
