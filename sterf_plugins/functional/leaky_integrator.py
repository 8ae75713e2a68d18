"""Leaky integrators over a whole sequence: v[n] = a v[n-1] + g x[n], with the adjoint recursion as backward.

One stage has the impulse response g a^k. With g = 1 - a ("area") a constant input gives the same constant; with g = 1
("peak") one event gives a jump of 1. The maps from a time constant mu to a, r = dt / mu, are exact for inputs that are
held during a step ("zoh", exp(-r)), backward Euler ("backward", 1 / (1 + r)) and forward Euler ("euler", 1 - r).

On a CPU the recursion is bound by memory: a loop that writes each step where it belongs, and the same loop in reverse
for the gradient, beats scans, FFTs and autograd's own graph.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

METHODS = ("zoh", "euler", "backward")
GAINS = ("area", "peak")
BACKENDS = ("auto", "loop", "gemm")
_GEMM_VALUES = 1024  # of a step, up to which a product with a T x T matrix beats the loop on a CPU
_GEMM_STEPS = 128


def decay(mu: Tensor, dt: float = 1.0, method: str = "zoh") -> Tensor:
    """A of the recursion for time constants ``mu``, in the unit of ``dt``; any shape."""
    r = dt / mu
    if method == "zoh":
        return torch.exp(-r)
    return 1 / (1 + r) if method == "backward" else 1 - r


def leaky_integrator(x: Tensor, a: Tensor, v: Tensor, gain: str = "area", backend: str = "auto") -> Tensor:
    """All v[n] of the recursion.

    Args:
        x: (T, ...) input.
        a: decay, broadcastable to v.
        v: (...) state before the first step; a step of x must broadcast to it.
        gain: "area" or "peak".
        backend: "loop"; "gemm", a product with a T x T matrix, for which ``a`` differs along the first axis of v at
            most, along which x is held; or "auto".

    Returns:
        (T, *v.shape); the last step is the next state.
    """
    if backend == "auto":
        small = v.numel() <= _GEMM_VALUES if v.device.type == "cpu" else True
        backend = "gemm" if small and len(x) <= _GEMM_STEPS and _is_product(x, a) else "loop"
    if backend == "gemm":
        return _product(x, a, v, gain)
    if torch.compiler.is_compiling():
        return _plain(x, a, v, gain)
    return _Recursion.apply(x, a, v, gain == "area")


def _is_product(x: Tensor, a: Tensor) -> bool:
    return a.numel() == 1 or (a.shape[0] == a.numel() and x.shape[1] == 1)


def _plain(x: Tensor, a: Tensor, v: Tensor, gain: str) -> Tensor:
    g, steps = (1 - a if gain == "area" else torch.ones_like(a)), []
    for frame in x.unbind(0):
        v = a * v + g * frame
        steps.append(v)
    return torch.stack(steps)


def _product(x: Tensor, a: Tensor, v: Tensor, gain: str) -> Tensor:
    if not _is_product(x, a):
        raise ValueError(
            f"backend='gemm' needs one decay, or one per entry of the state's first axis with an input that is the "
            f"same for all; `a` has shape {tuple(a.shape)} and `x` {tuple(x.shape)}. Use backend='loop'."
        )
    steps = torch.arange(len(x), device=x.device)
    lag = steps[:, None] - steps
    scales = a.reshape(-1, 1)
    response = torch.where(lag[:, None] >= 0, scales ** lag[:, None].clamp_min(0), 0.0)  # (T, K, T)
    response = response * (1 - scales) if gain == "area" else response
    driven = response.flatten(0, 1) @ x.reshape(len(x), -1).to(response.dtype)
    powers = a ** (steps + 1).view(-1, *[1] * v.ndim)
    return driven.view(len(x), *v.shape) + powers * v


class _Recursion(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, a: Tensor, v: Tensor, area: bool) -> Tensor:
        y = torch.empty((len(x), *v.shape), dtype=torch.promote_types(x.dtype, a.dtype), device=x.device)
        before = v.to(y.dtype)
        for frame, after in zip(x.to(y.dtype).unbind(0), y.unbind(0), strict=True):
            if area:
                torch.lerp(frame.expand_as(v), before, a.expand_as(v), out=after)  # a v + (1 - a) x in one pass
            else:
                torch.addcmul(frame, before, a, out=after)
            before = after
        ctx.area = area
        ctx.save_for_backward(x, a, v, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, a, v, y = ctx.saved_tensors
        need_x, need_a, need_v, _ = ctx.needs_input_grad
        total = grad.clone(memory_format=torch.contiguous_format)  # l[n] = dL/dv[n] + a l[n+1]
        steps = total.unbind(0)
        for later, now in zip(steps[:0:-1], steps[-2::-1], strict=True):
            now.addcmul_(later, a)
        gain = 1 - a
        dx = da = dv = None
        if need_a:
            da, before, difference = torch.zeros_like(v), v, torch.empty_like(v)
            for frame, after, now in zip(x.unbind(0), y.unbind(0), steps, strict=True):
                da.addcmul_(now, torch.sub(before, frame, out=difference) if ctx.area else before)
                before = after
            da = da.sum_to_size(a.shape)
        if need_v:
            dv = (total[0] * a).sum_to_size(v.shape)
        if need_x:
            dx = total.mul_(gain) if ctx.area else total
            dx = dx.sum_to_size(x.shape)
        return dx, da, dv, None


def moving_integrator(x: Tensor, a: Tensor, velocity: tuple[float, float]) -> Tensor:
    """A leaky integrator that moves along: v[n](p) = a v[n-1](p - velocity) + (1 - a) x[n](p); (T, ..., H, W).

    Galilean covariance: on a pattern that moves with ``velocity`` (pixels per step, (x, y)) it gives 1 - a^(n+1) times
    the pattern's own response. Whole pixels are exact away from the borders, where zeros enter; fractions are
    interpolated bilinearly, which adds a diffusion of p (1 - p) per axis and step.
    """
    v, steps = torch.zeros_like(x[0]), []
    for frame in x.unbind(0):
        v = a * _shifted(_shifted(v, velocity[0], -1), velocity[1], -2) + (1 - a) * frame
        steps.append(v)
    return torch.stack(steps)


def _shifted(v: Tensor, by: float, axis: int) -> Tensor:
    whole = math.floor(by)
    part = by - whole
    near = _rolled(v, whole, axis)
    return near if not part else (1 - part) * near + part * _rolled(v, whole + 1, axis)


def _rolled(v: Tensor, by: int, axis: int) -> Tensor:
    size = v.shape[axis]
    if by == 0 or abs(by) >= size:
        return v if by == 0 else torch.zeros_like(v)
    kept = v.narrow(axis, max(0, -by), size - abs(by))
    shape = list(v.shape)
    shape[axis] = abs(by)
    empty = v.new_zeros(shape)
    return torch.cat([empty, kept] if by > 0 else [kept, empty], axis)
