"""Convolutions whose backward pass looks only at the part of a gradient that is not zero.

The gradient of one unit is zero outside of its theoretical receptive field, which in the layers close to it is a small part
of their maps. There a convolution passes back the smallest box that holds the rest: the same numbers, for less work. What
does not keep zeros, such as attention, gives a box as large as the map, and the pass is an ordinary one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...undisturbed import changed, transformed

_AXES = {"conv1d": 1, "conv2d": 2, "conv3d": 3}  # function of torch.nn.functional -> number of its spatial axes
_WORTH = 0.5  # a box that is a larger share of the map is not cut out
_DEAR = 2e7  # with fewer multiplications for each input, finding the box costs as much as it saves


@contextmanager
def cropped_convolutions() -> Iterator[None]:
    """Inside, convolutions on a CPU of which the input alone has a gradient pass it back as this file says."""
    with changed([(F, name, partial(_convolve, getattr(F, name), axes)) for name, axes in _AXES.items()]):
        yield


def _convolve(function: Callable[..., Tensor], axes: int, *args: Any, **kwargs: Any) -> Tensor:
    """What ``function``, a convolution of PyTorch, gives."""
    if torch.is_grad_enabled():
        call = _arguments(*args, **kwargs)
        if _is_ordinary(axes, *call) and _multiplications(*call) > _DEAR:
            return _Convolution.apply(function, axes, *call)
    return function(*args, **kwargs)


def _arguments(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> tuple:
    """The arguments of a convolution, in order and without defaults."""
    return input, weight, bias, stride, padding, dilation, groups


def _is_ordinary(axes: int, x, weight, bias, stride, padding, dilation, groups) -> bool:
    """Whether only the input of a convolution has a gradient, and nothing but ``backward`` will ask for it."""
    return (
        x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and x.ndim == axes + 2
        and x.requires_grad
        and not weight.requires_grad
        and (bias is None or not bias.requires_grad)
        and not isinstance(padding, str)
        and not transformed()
    )


def _multiplications(x, weight, bias, stride, *how) -> float:
    """About how many multiplications a convolution takes for each input."""
    steps = [stride] if isinstance(stride, int) else stride
    return weight.numel() * prod(n / steps[i % len(steps)] for i, n in enumerate(x.shape[2:]))


class _Convolution(torch.autograd.Function):
    """A convolution, as ``function`` computes it, whose input alone has a gradient."""

    @staticmethod
    def forward(ctx, function, axes, x, weight, bias, *how):
        ctx.save_for_backward(weight)
        ctx.like = torch.empty_like(x, device="meta")  # its shape and the order of its memory
        ctx.groups = how[-1]
        ctx.how = [[v] * axes if isinstance(v, int) else list(v) * (axes // len(v)) for v in how[:-1]]
        return function(x, weight, bias, *how)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (weight,) = ctx.saved_tensors
        stride, padding, dilation = ctx.how
        box = _box(g)
        if box is None:
            gradient = torch.zeros_like(ctx.like, device=g.device)
        elif prod(high - low for low, high in box) > _WORTH * g[0, 0].numel():
            like = torch.empty_like(ctx.like, device=g.device)
            gradient = _gradient(g, like, weight, stride, padding, dilation, ctx.groups)
        else:
            gradient = _of_box(g, box, weight, ctx.like, stride, padding, dilation, ctx.groups)
        return None, None, gradient, *[None] * 6


def _gradient(g: Tensor, like: Tensor, weight: Tensor, stride, padding, dilation, groups: int) -> Tensor:
    """The gradient of a convolution's input, which has the shape and the order of ``like``."""
    nothing, input_alone = [0] * len(stride), [True, False, False]
    return torch.ops.aten.convolution_backward(
        g, like, weight, None, stride, padding, dilation, False, nothing, groups, input_alone
    )[0]


def _of_box(g: Tensor, box, weight: Tensor, like: Tensor, stride, padding, dilation, groups: int) -> Tensor:
    """What ``_gradient`` gives of a gradient that is zero outside a box."""
    spans = zip(box, weight.shape[2:], stride, padding, dilation, like.shape[2:], strict=True)
    reaches: list[int] = []
    inside: list[Any] = [...]
    outside: list[Any] = [...]
    for (low, high), kernel, step, pad, spread, length in spans:
        first, reach = low * step - pad, (high - 1 - low) * step + spread * (kernel - 1) + 1
        start = max(first, 0)
        end = max(start, min(first + reach, length))  # nothing, where the box sees padding alone
        reaches.append(reach)
        inside.append(slice(start - first, end - first))
        outside.append(slice(start, end))
    last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format
    small = torch.empty([*like.shape[:2], *reaches], dtype=g.dtype, device=g.device, memory_format=order)
    chosen: list[Any] = [..., *(slice(low, high) for low, high in box)]
    found = _gradient(g[tuple(chosen)], small, weight, stride, [0] * len(box), dilation, groups)
    gradient = torch.zeros_like(like, device=g.device)
    gradient[tuple(outside)] = found[tuple(inside)]
    return gradient


def _box(g: Tensor) -> list[tuple[int, int]] | None:
    """First and last but one place along each axis at which any channel of any input is not zero; ``None`` without any."""
    filled = g.abs().amax((0, 1)) != 0
    box = []
    for axis in range(filled.ndim):
        others = [a for a in range(filled.ndim) if a != axis]
        places = (filled.any(others) if others else filled).nonzero()
        if not len(places):
            return None
        box.append((int(places[0]), int(places[-1]) + 1))
    return box
