"""A guard for PyTorch's CPU BatchNorm backward, which is silently wrong at batch 1.

When the input of ``BatchNorm2d`` is contiguous and the incoming gradient is channels-last-like (or the other way
round), a batch of one sample counts as contiguous in both orders, the CPU kernel reads the gradient in the wrong
one, and the result is wrong without an error. Spiking attention produces exactly such gradients.
"""

import torch
from torch import Tensor


class _SameStridedGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:
        ctx.stride = y.stride()
        return y.view_as(y)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        if grad.stride() == ctx.stride:
            return grad
        return torch.empty_strided(grad.shape, ctx.stride, dtype=grad.dtype, device=grad.device).copy_(grad)


def same_strided_grad(y: Tensor) -> Tensor:
    """Return ``y`` unchanged; its gradient will arrive with the strides of ``y``.

    Args:
        y: a dense tensor of any shape.

    Returns:
        A view of ``y``.
    """
    return _SameStridedGrad.apply(y)
