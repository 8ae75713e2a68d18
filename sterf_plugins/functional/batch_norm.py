"""A guard for PyTorch's CPU BatchNorm backward, which is silently wrong at batch 1.

When the input of ``BatchNorm2d`` is contiguous and the incoming gradient is channels-last-like (or the other way
round), a batch of one sample counts as contiguous in both orders, the CPU kernel reads the gradient in the wrong
one, and the result is wrong without an error. Spiking attention produces exactly such gradients.
"""

import torch
from torch import Tensor

from .strides import restrided


class _SameStridedGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:
        ctx.stride = y.stride()
        return y.view_as(y)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return restrided(grad, ctx.stride)


def same_strided_grad(y: Tensor) -> Tensor:
    """Return ``y`` unchanged; its gradient will arrive with the strides of ``y``.

    Args:
        y: a dense tensor of any shape.

    Returns:
        A view of ``y``.
    """
    return _SameStridedGrad.apply(y)


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
    """BatchNorm of fixed statistics and parameters, whose gradient is one product in any memory order.

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


class _FrozenConvBN(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, conv: torch.nn.Conv2d, bn: torch.nn.BatchNorm2d):
        assert bn.running_var is not None
        scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
        ctx.save_for_backward((conv.weight * scale.view(-1, 1, 1, 1)).contiguous(memory_format=torch.channels_last))
        ctx.size, ctx.options = x.shape, (conv.stride, conv.padding, conv.dilation, conv.groups)
        y = torch.nn.functional.conv2d(x, conv.weight, conv.bias, *ctx.options)
        return torch.nn.functional.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0, bn.eps)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (weight,) = ctx.saved_tensors
        # Only the shape and memory order of the input matter for its own gradient.
        like = torch.empty(ctx.size, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
        stride, padding, dilation, groups = ctx.options
        found = torch.ops.aten.convolution_backward(
            grad, like, weight, None, stride, padding, dilation, False, (0, 0), groups, (True, False, False)
        )
        return found[0], None, None


def frozen_conv_bn(x: Tensor, conv: torch.nn.Conv2d, bn: torch.nn.BatchNorm2d) -> Tensor:
    """``bn(conv(x))`` in eval mode with fixed parameters: the same values, the gradient in one convolution.

    Args:
        x: (B, C_in, H, W).
        conv: its parameters get no gradient.
        bn: in eval mode, with running statistics; its parameters get no gradient.

    Returns:
        (B, C_out, H', W').
    """
    return _FrozenConvBN.apply(x, conv, bn)
