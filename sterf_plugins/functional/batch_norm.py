"""A guard for PyTorch's CPU BatchNorm backward, which is silently wrong at batch 1.

When the input of ``BatchNorm2d`` is contiguous and the incoming gradient is channels-last-like (or the other way
round), a batch of one sample counts as contiguous in both orders, the CPU kernel reads the gradient in the wrong
one, and the result is wrong without an error. Spiking attention produces exactly such gradients.
"""

from functools import partial

import torch
from torch import Tensor

from .strides import restrided


def same_strided_grad(y: Tensor) -> Tensor:
    """Return ``y`` itself; in the backward pass its gradient will have the strides that ``y`` has.

    Args:
        y: a dense tensor of any shape that requires a gradient.
    """
    y.register_hook(partial(restrided, stride=y.stride()))
    return y


class _FrozenBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float):
        scale = torch.rsqrt(var + eps)
        ctx.save_for_backward(scale if weight is None else scale * weight)
        return torch.nn.functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (scale,) = ctx.saved_tensors
        return grad * scale.view(-1, *[1] * (grad.ndim - 2)).to(grad.dtype), None, None, None, None, None


def frozen_batch_norm(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """BatchNorm with fixed statistics and parameters, whose gradient is one product in any memory order.

    Args:
        x: (B, C, ...).
        mean: running mean (C,).
        var: running variance (C,).
        weight: (C,) or None; it gets no gradient.
        bias: (C,) or None; it gets no gradient.
        eps: added to the variance.

    Returns:
        Tensor of the shape of ``x``, with the values of ``torch.nn.functional.batch_norm``.
    """
    return _FrozenBatchNorm.apply(x, mean, var, weight, bias, eps)
