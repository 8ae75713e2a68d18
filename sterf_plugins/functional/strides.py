"""Memory order: convolutions are faster channels-last, and some CPU kernels read a gradient in another's order."""

import torch
from torch import Tensor

from ..undisturbed import transformed


def channels_last(x: Tensor) -> Tensor:
    """Images (B, C, H, W) in channels-last order; as they are under ``torch.func``, whose vmap has no such order."""
    return x if transformed() else x.contiguous(memory_format=torch.channels_last)


def restrided(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """``x`` itself if it has these strides, else a dense copy that has them."""
    if x.stride() == stride:
        return x
    return x.new_empty_strided(x.shape, stride).copy_(x)


def restrided_like(x: Tensor, other: Tensor) -> Tensor:
    """``x`` in the memory order of ``other``, also where ``torch.compile`` of PyTorch 2.6 cannot ask for strides."""
    if torch.compiler.is_compiling():
        return torch.empty_like(other).copy_(x)
    return restrided(x, other.stride())


def empty_frames(like: Tensor, steps: int) -> Tensor:
    """An uninitialised tensor (steps, *like.shape) whose frames have the memory order of the frame ``like``."""
    order = torch.empty_like(like).stride()
    return like.new_empty(steps * like.numel()).as_strided((steps, *like.shape), (like.numel(), *order))
