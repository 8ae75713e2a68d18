"""Integer spikes: the I-LIF firing function with a closed-interval straight-through gradient.

Paper: "Integer-valued training and spike-driven inference SNN" (arXiv:2407.20708); used by SDT-V3
(arXiv:2411.16061) and by the MLPixer / SRB mixers (arXiv:2510.21403) with one time step.

The values and gradients are those of ``spikingjelly.activation_based.surrogate.MultiLevelSpikeCount(levels)``
divided by ``norm`` (a test pins it, bit for bit). It is written again here only because it is the hottest
elementwise pass of every model: this form takes 3 passes forward and 2 backward instead of 3 and 5, and hands
BatchNorm a gradient in BatchNorm's own memory order (see ``batch_norm.py``).
"""

import math

import torch
from torch import Tensor

from ..checks import check_floating, positive_int
from ..undisturbed import transformed
from .strides import restrided_like
from .torch_kernels import clamp_backward


class _IntegerFire(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, levels: int, norm: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.levels, ctx.norm = levels, norm
        if torch.compiler.is_compiling():  # tracing loses `backward` if `forward` writes in place
            # Of integer bounds, two neurons that read one tensor are an invalid ONNX file: onnxscript drops constants.
            y = x.clamp(0.0, float(levels)).round()
            return y if norm == 1 else y / norm
        y = x.clamp(0, levels).round_()  # half to even
        return y if norm == 1 else y.div_(norm)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled() or transformed():  # gradients of gradients, or of many outputs at once
            return grad * ((x >= 0) & (x <= ctx.levels)) / ctx.norm, None, None
        grad = restrided_like(grad, x)
        # hardtanh's backward is one fused pass, but it leaves out both ends of its interval. The bounds are therefore
        # the next numbers below 0 and above D. Below 0 this is a subnormal number in float16 and the smallest normal
        # one in wider types, whose subnormal numbers may be flushed to 0.
        info = torch.finfo(x.dtype)
        below = info.tiny * (info.eps if x.dtype == torch.float16 else 1)
        above = ctx.levels + info.eps * 2 ** (math.frexp(ctx.levels)[1] - 1)
        out = clamp_backward(grad, x, -below, above)
        return out if ctx.norm == 1 else out.div_(ctx.norm), None, None


def integer_fire(x: Tensor, levels: int = 4, norm: float | None = None) -> Tensor:
    """Fire integer spikes: ``round(clamp(x, 0, levels)) / norm``.

    Rounding is half-to-even. The gradient is ``1 / norm`` on the closed interval [0, levels] and 0 elsewhere,
    in training and in evaluation alike. There is no state.

    Args:
        x: membrane potential of any shape, float16, bfloat16, float32 or float64.
        levels: D, the largest number of spikes.
        norm: divisor; ``None`` means ``levels``, so that the output lies in [0, 1]. 1 gives integers.

    Returns:
        Tensor of the shape and dtype of ``x``, values in {0, 1, ..., levels} / norm.

    Raises:
        TypeError: ``x`` is not a floating-point tensor, or ``levels`` not an int.
        ValueError: ``levels < 1`` or ``norm <= 0``.

    Source: arXiv:2407.20708, eq. 6-8 with one time step.
    """
    check_floating("x", x)
    positive_int("levels", levels)
    norm = levels if norm is None else norm
    check_norm(norm)
    if transformed() or (torch.jit.is_tracing() and x.requires_grad):
        return _straight_through(x, levels) / norm
    if torch.jit.is_tracing():  # a trace with functions of Python in it cannot be saved
        return x.clamp(0, levels).round() / norm
    return _IntegerFire.apply(x, levels, norm)


def check_norm(norm: float) -> None:
    """Raise ``ValueError`` unless the divisor of a number of spikes is positive and finite."""
    if isinstance(norm, str) or not 0 < norm < math.inf:
        raise ValueError(f"`norm` is {norm!r}; it must be > 0 and finite, or None for `levels`.")


def _straight_through(x: Tensor, levels: int) -> Tensor:
    """The rounded clamp with a slope of 1 from 0 to D, both ends included, in ordinary operations.

    The slope is not left to ``clamp``, whose own gradient leaves out the ends since PyTorch 2.14.
    """
    slope = torch.where((x >= 0) & (x <= levels), x - x.detach(), 0)  # 0 everywhere, with the gradient of x inside
    return x.detach().clamp(0, levels).round() + slope
