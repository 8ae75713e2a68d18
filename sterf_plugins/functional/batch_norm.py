"""A guard for PyTorch's CPU BatchNorm backward, which is silently wrong at batch 1.

When the input of ``BatchNorm2d`` is contiguous and the incoming gradient is channels-last-like (or the other way
round), a batch of one sample counts as contiguous in both orders, the CPU kernel reads the gradient in the wrong
one, and the result is wrong without an error. Spiking attention produces exactly such gradients.
"""

from functools import partial

import torch
from torch import Tensor

from ..undisturbed import transformed
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
    if transformed():
        return plain_batch_norm(x, mean, var, weight, bias, eps)
    return _FrozenBatchNorm.apply(x, mean, var, weight, bias, eps)


def plain_batch_norm(
    x: Tensor, mean: Tensor | None, var: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """BatchNorm in ordinary operations, for ``torch.func``; without statistics ``mean`` and ``var`` those of the batch.

    PyTorch's kernel would be wrong there: ``vmap`` over samples makes one sample of more channels out of them, whose
    gradient the kernel reads in the wrong order. The other arguments are those above; all of them get gradients.
    """
    if mean is None or var is None:
        var, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
    scale = torch.rsqrt(var + eps)
    scale = scale if weight is None else scale * weight
    per_channel = (-1, *[1] * (x.ndim - 2))
    y = (x - mean.view(per_channel)) * scale.view(per_channel)
    return (y if bias is None else y + bias.view(per_channel)).to(x.dtype)
