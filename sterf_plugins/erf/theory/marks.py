"""Positive random marks in the place of gradients, and what the nodes of autograd's graph make of them."""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Grads = Sequence[Tensor | None]
Marks = tuple[Tensor | None, ...]
# (gradients of a node's inputs as it computes them, gradients of its outputs) -> marks of the inputs
Rule = Callable[[Grads, Grads], Marks]

_NOTHING = 1e-30  # a share of the largest mark; attention masks of -100 leave 1e-44


def _marks(grad: Tensor | None) -> Tensor | None:
    """Positive random numbers where a gradient is not zero."""
    if grad is None or not grad.numel():
        return grad
    size = grad.abs().nan_to_num(1.0, 1.0)
    return torch.where(size > _NOTHING * size.amax(), _noise(size.shape, size.dtype, size.device), 0.0).to(grad.dtype)


@lru_cache
def _noise(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Random numbers between 0.5 and 1.5."""
    return torch.rand(shape, dtype=dtype, device=device) + 0.5


def forget_noise() -> None:
    """Free the memory of the random numbers."""
    _noise.cache_clear()


def marked(grads: Grads, outputs: Grads) -> Marks:
    """What a node computes does not depend on values, but may have either sign."""
    return tuple(map(_marks, grads))


def rule_of(node: Any) -> Rule | None:
    """How a node passes marks on; ``None`` if it gives marks by itself. A rule does not hold the node that will hold it."""
    if _UNCHANGED.fullmatch(node.name()) and getattr(node, "_saved_alpha", 1) > 0:  # alpha: x + alpha * y
        return None
    places = next((i for pattern, i in _SAMPLING.items() if re.search(pattern, node.name())), None)
    if places is not None and node.next_functions[places][0] is not None:
        return _anywhere
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return _own_or_same_place  # such as a spike function, whose surrogate may be zero
    name = re.sub(r"Backward\d*$", "", node.name())
    if _ELEMENTWISE.fullmatch(name) or (name.endswith("BatchNorm") and not getattr(node, "_saved_training", True)):
        return _same_place
    if name in ("Mul", "Div", "Addcmul", "Addcdiv", "Lerp"):
        return _product
    if name in ("Bmm", "Mm") and all(previous for previous, _ in node.next_functions):
        return _matrix_product(node)
    if re.fullmatch(r"MaxPool[123]DWithIndices", name):
        return _windows(node)
    if adaptive := re.fullmatch(r"(Adaptive|Fractional)MaxPool([23])D", name):
        return (_adaptive_windows if adaptive[1] == "Adaptive" else _drawn_windows(node))(int(adaptive[2]))
    if re.fullmatch(r"MaxUnpool[23]D", name):
        return _unpooled
    if name == "Glu":
        return _gated(_signed(node._saved_dim))
    if name in _ALONG:
        return _along(node)
    if name in ("Cummax", "Cummin", "Cumprod"):
        return _up_to(node)
    return marked


# Nodes that pass on what they get, or sums of it, which are marks already.
_UNCHANGED = re.compile(
    r"(Add|Alias|AsStrided|Cat|Clone|Expand|Mean|Permute|Reshape|ReshapeAlias|Select|Slice|Split|Squeeze|Stack|Sum|T|"
    r"ToCopy|Transpose|UnsafeView|Unsqueeze|View)Backward\d*"
)
# Nodes that read a map between its pixels, of PyTorch, torchvision and mmcv, and which of their inputs says where.
_SAMPLING = {
    r"^GridSampler[23]D": 1, r"::DeformConv2dFunction|torchvision_deform_conv2d": 2, r"^(Modulated)?DeformConv2dFunction": 1,
    r"^MultiScaleDeformableAttnFunction": 3,
}  # fmt: skip
# Of all that lies along some axes.
_ALONG = (
    "Max", "Min", "Amax", "Amin", "Topk", "Sort", "Kthvalue", "Median", "Nanmedian", "Mode", "Norm", "LinalgVectorNorm",
    "Prod",
)  # fmt: skip
_ELEMENTWISE = re.compile(
    r"Abs|Ceil|Celu|Clamp|ClampMax|ClampMin|Elu|Erf|Exp|Floor|Fmax|Fmin|Frac|Gelu|Hardshrink|Hardsigmoid|Hardswish|"
    r"Hardtanh|LeakyRelu|Log|LogSigmoid|Maximum|Minimum|Mish|Pow|PreluKernel|Relu|Round|Rsqrt|Sigmoid|Sign|Silu|Softplus|"
    r"Softshrink|Sqrt|Tanh|Threshold|Trunc"
)


def _first(outputs: Grads) -> Tensor:
    return next(g for g in outputs if g is not None)


def _same_place(grads: Grads, outputs: Grads) -> Marks:
    """Each input element goes into the output element at its place."""
    out = _first(outputs)
    return tuple(None if g is None else out.sum_to_size(g.shape).to(g.dtype) for g in grads)


def chosen(grads: Grads, outputs: Grads) -> Marks:
    """A choice by the values of activations may be another one next time: what could be chosen counts."""
    shape = _first(outputs).shape
    fits = [g is not None and all(n in (1, m) for n, m in zip(g.shape[::-1], shape[::-1], strict=False)) for g in grads]
    return tuple(_same_place([g], outputs)[0] if fit else _marks(g) for g, fit in zip(grads, fits, strict=True))


def _anywhere(grads: Grads, outputs: Grads) -> Marks:
    """Where a map is read may be computed from the input, and be any place of it next time; maps of a batch are apart."""
    first, *others = grads
    if first is None:
        return tuple(map(_marks, grads))
    total = _first(outputs).flatten(1).sum(1).view(-1, *[1] * (first.ndim - 1))
    return total.expand(first.shape).to(first.dtype), *map(_marks, others)


def picked(node: Any) -> Rule:
    """Indices that are computed from the input may be others next time: anything along their axis, or anything."""
    axis = getattr(node, "_saved_dim", None)

    def rule(grads: Grads, outputs: Grads) -> Marks:
        out, (first, *others) = _first(outputs), grads
        if first is None:
            return tuple(grads)
        along = out if axis is None else out.sum(_signed(axis) % out.ndim, keepdim=True)
        fits = axis is not None and all(n in (1, m) for n, m in zip(along.shape, first.shape, strict=True))
        return (along if fits else out.sum()).expand(first.shape).to(first.dtype), *map(_marks, others)

    return rule


def _own_or_same_place(grads: Grads, outputs: Grads) -> Marks:
    """A function written in Python: what it says, and its own place if it keeps the shape, as activations do."""
    out = _first(outputs)
    marks = map(_marks, grads)
    return tuple(m if m is None or m.shape != out.shape else m + out.to(m.dtype) for m in marks)


def _product(grads: Grads, outputs: Grads) -> Marks:
    """Of several activations each may be zero by chance; zeros of a constant are a mask."""
    return marked(grads, outputs) if sum(g is not None for g in grads) < 2 else _same_place(grads, outputs)


def _gated(axis: int) -> Rule:
    """Each half of a gated unit's input, along an axis, goes into all of its output."""
    return lambda grads, outputs: (torch.cat([_first(outputs)] * 2, axis),)


def _matrix_product(node: Any) -> Rule:
    """As for elements; but zeros that come out of a softmax are a mask."""
    left, right = (
        value if _from_softmax(previous) else torch.ones_like(value)
        for value, (previous, _) in zip((node._saved_self, node._saved_mat2), node.next_functions, strict=True)
    )
    left, right = left.detach(), right.detach()
    return lambda grads, outputs: (_first(outputs) @ right.mT, left.mT @ _first(outputs))


def _from_softmax(node: Any) -> bool:
    """Whether the way back to a softmax leads through nothing but functions of one input."""
    while "Softmax" not in node.name():
        if len(node.next_functions) != 1 or node.next_functions[0][0] is None:
            return False
        node = node.next_functions[0][0]
    return True


def _windows(node: Any) -> Rule:
    """Maximum pooling looks at its whole windows."""
    kernel, stride = node._saved_kernel_size, node._saved_stride or node._saved_kernel_size
    padding, dilation = node._saved_padding, node._saved_dilation
    spread = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[len(kernel)]

    def rule(grads: Grads, outputs: Grads) -> Marks:
        out, g = _first(outputs), _first(grads)
        spatial = len(kernel)
        single = out.reshape(-1, 1, *out.shape[-spatial:])
        covered = spread(single, torch.ones(1, 1, *kernel).to(out), stride=stride, dilation=dilation)
        ends = [pad for n, p, have in zip(g.shape[-spatial:], padding, covered.shape[2:], strict=True)
                for pad in (n + p - have, -p)][::-1]  # fmt: skip
        return (F.pad(covered, ends).reshape(g.shape),)

    return rule


def _adaptive_windows(axes: int) -> Rule:
    pool: Any = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[axes]

    def rule(grads: Grads, outputs: Grads) -> Marks:
        out = _first(outputs)
        with torch.enable_grad():
            x = torch.zeros_like(_first(grads)).requires_grad_()
            return torch.autograd.grad(pool(x, out.shape[-axes:]), x, out)

    return rule


def _drawn_windows(node: Any) -> Callable[[int], Rule]:
    """Fractional maximum pooling looks at windows that begin at one of two places, which is drawn anew in each pass."""
    kernel = node._saved_kernel_size

    def windows(cells: int, length: int, size: int) -> Tensor:
        """Which of ``length`` elements each of the ``cells`` may see in a window of some ``size``."""
        step = Fraction(length - size, cells - 1) if cells > 1 else Fraction(0)
        first = torch.tensor([[floor(i * step)] for i in range(cells - 1)] + [[length - size]])
        after = torch.tensor([[ceil(i * step) + size] for i in range(cells - 1)] + [[length]])
        places = torch.arange(length)
        return (places >= first) & (places < after)

    def rule_along(axes: int) -> Rule:
        def rule(grads: Grads, outputs: Grads) -> Marks:
            marks, g = _first(outputs), _first(grads)
            for axis in range(-axes, 0):
                seen = windows(marks.shape[axis], g.shape[axis], kernel[axis]).to(marks)
                marks = (marks.movedim(axis, -1) @ seen).movedim(-1, axis)
            return (marks,)

        return rule

    return rule_along


def _unpooled(grads: Grads, outputs: Grads) -> Marks:
    """What is put back at the place of a maximum may be anywhere in its window."""
    out, g = _first(outputs), _first(grads)
    axes = 2 if g.ndim < 5 else 3
    pool: Any = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[axes]
    return (pool(out, g.shape[-axes:]),)


def _signed(axis: int) -> int:
    """An axis as autograd saves it: one below zero as a number of 64 bits without a sign."""
    return axis - 2**64 if axis >= 2**63 else axis


def _along(node: Any) -> Rule:
    """Everything along the axes that a maximum, a minimum or an order is taken of."""
    saved = getattr(node, "_saved_dim", None)
    keep = getattr(node, "_saved_keepdim", True)

    def rule(grads: Grads, outputs: Grads) -> Marks:
        out, g = _first(outputs), _first(grads)
        if saved is None or g.ndim == 0:
            return (out.sum().expand(g.shape),)
        axes = saved if isinstance(saved, (tuple, list)) else [saved]
        axes = sorted({_signed(d) % g.ndim for d in axes} or range(g.ndim))
        for d in axes if not keep else ():
            out = out.unsqueeze(d)
        return (out.sum(axes, keepdim=True).expand(g.shape),)

    return rule


def _up_to(node: Any) -> Rule:
    """Everything up to each place along an axis, of which a running maximum, minimum or product is taken."""
    d = _signed(node._saved_dim)

    def rule(grads: Grads, outputs: Grads) -> Marks:
        out = _first(outputs)
        return (out.flip(d).cumsum(d).flip(d) if out.ndim else out,)

    return rule
