"""A still image over time: one frame in memory that stands for all time steps."""

import torch
from torch import Tensor

from ..undisturbed import transformed
from .torch_kernels import is_traced


class _Repeat(torch.autograd.Function):
    @staticmethod
    def forward(ctx, frame: Tensor, steps: int) -> Tensor:
        return frame.expand(steps, *frame.shape)

    @staticmethod
    def backward(ctx, grad: Tensor):
        if len(grad) == 1 or torch.is_grad_enabled() or transformed():
            return grad.sum(0), None
        if is_still(grad):
            return grad[0] * len(grad), None
        # Frame by frame: PyTorch's sum over the first axis is several times slower for channels-last frames.
        total = grad[0] + grad[1]
        for frame in grad[2:]:
            total += frame
        return total, None


def repeat_still(frame: Tensor, steps: int) -> Tensor:
    """Repeat a frame over time, (steps, *frame.shape), without a copy: the time axis has stride 0."""
    if is_traced() or transformed():
        return frame.expand(steps, *[-1] * frame.ndim)
    return _Repeat.apply(frame, steps)


def is_still(x: Tensor) -> bool:
    """Whether all steps of a sequence (T, ...) are the same frame in memory, and nobody asks for each step's gradient."""
    return x.shape[0] > 1 and x.stride(0) == 0 and not (x.is_leaf and x.requires_grad)
