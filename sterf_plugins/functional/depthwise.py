"""Depthwise convolution with a fast weight gradient on the CPU.

oneDNN's kernel for the weight gradient of depthwise convolutions takes up to three columns of weights. Wider ones go
through the kernel for dense convolutions, which computes eight times as much: 7x7 weights took a tenth of a training
step of SDT-V3. Here they are computed three columns at a time, each from an image moved by that many columns.
"""

import torch
from torch import Tensor

from ..checks import check_axes
from ..undisturbed import transformed
from .torch_kernels import depthwise_backward, is_traced

_COLUMNS = 3  # the most columns that oneDNN's depthwise kernel takes


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The weight gradient, from groups of at most three columns."""
    height, width = weight.shape[-2:]
    side = (width - _COLUMNS) // 2  # the middle columns need no moved image
    starts = [*range(0, side, _COLUMNS), side, *range(side + _COLUMNS, width, _COLUMNS)]
    parts = []
    for start, end in zip(starts, [*starts[1:], width], strict=True):
        left = width // 2 - start
        right = end - start - 1 - left
        padding = (height // 2, left if left == right else 0)
        moved = x if left == right else torch.nn.functional.pad(x, (left, right))
        part = depthwise_backward(grad, moved, weight[..., start:end], padding, (False, True))[1]
        assert part is not None
        parts.append(part)
    return torch.cat(parts, -1)


def _stock(x: Tensor, weight: Tensor) -> Tensor:
    """PyTorch's own depthwise convolution of stride 1 with same padding."""
    padding = (weight.shape[-2] // 2, weight.shape[-1] // 2)
    return torch.nn.functional.conv2d(x, weight, None, 1, padding, 1, x.shape[1])


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = (weight.shape[-2] // 2, weight.shape[-1] // 2)
        return _stock(x, weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        # Gradients of gradients need PyTorch's own operation, which can be differentiated again. Up to three columns
        # need no groups, and maps narrower than the weight are left to PyTorch.
        if torch.is_grad_enabled() or not needed[1] or not _COLUMNS < weight.shape[-1] <= x.shape[-1]:
            return depthwise_backward(grad, x, weight, ctx.padding, needed)
        x_grad = depthwise_backward(grad, x, weight, ctx.padding, (True, False))[0] if needed[0] else None
        return x_grad, _weight_gradient(grad, x, weight)


def depthwise_conv2d(x: Tensor, weight: Tensor) -> Tensor:
    """Depthwise convolution of stride 1 with same padding; the values of ``torch.nn.functional.conv2d``.

    Its weight gradient differs from PyTorch's by rounding, and is 1.7 to 5 times as fast where it has more than three
    columns (oneDNN on a CPU; docs/performance.md). Gradients of gradients are PyTorch's.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, kh, kw) with odd kh and kw.

    Returns:
        (B, C, H, W).

    Raises:
        TypeError, ValueError: the shapes do not fit.
    """
    if is_traced() or transformed():
        return _stock(x, weight)
    check_axes("x", x, "(B, C, H, W)")
    height, width = weight.shape[-2:]
    if weight.shape != (x.shape[1], 1, height, width) or not height % 2 == width % 2 == 1:
        raise ValueError(
            f"`weight` has shape {tuple(weight.shape)}, and `x` {tuple(x.shape)}; it must be (C, 1, kh, kw) with odd kh and kw."
        )
    return _DepthwiseConv.apply(x, weight)


def splits_weight_gradient(x: Tensor, weight: Tensor) -> bool:
    """Whether ``depthwise_conv2d`` computes the weight gradient of maps ``x`` faster than PyTorch does.

    This is so for float32 maps (B, C, H, W) on a CPU with oneDNN and more than three columns of weights, outside of
    autocast, of a compiler, ``torch.jit.trace`` and ``torch.func``, where the weight needs a gradient at all.
    """
    if is_traced() or transformed():
        return False
    if not torch.is_grad_enabled() or not weight.requires_grad:
        return False
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    onednn = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    return plain and onednn and x.ndim == 4 and weight.shape[-1] > _COLUMNS
