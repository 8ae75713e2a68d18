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

from ..checks import check_steps, entries, finite_number, one_of
from ..undisturbed import transformed
from .torch_kernels import is_mapped, is_traced

METHODS = ("zoh", "euler", "backward")
GAINS = ("area", "peak")
BACKENDS = ("auto", "loop", "gemm")
# A product with a T x T matrix beats the loop up to so many values per step (on a CPU) and so many steps.
_GEMM_VALUES = 1024
_GEMM_STEPS = 128


def decay(mu: Tensor, dt: float = 1.0, method: str = "zoh") -> Tensor:
    """The factor a by which the recursion multiplies the state in each step.

    Args:
        mu: time constants, in the unit of ``dt``; any shape.
        dt: duration of a step.
        method: "zoh", "backward" or "euler", as explained at the top of this file.

    Returns:
        Tensor of the shape of ``mu``.

    Raises:
        TypeError, ValueError: ``method`` is another word, ``mu`` no tensor, or ``dt`` not above 0.
    """
    one_of("method", method, METHODS)
    if not isinstance(mu, Tensor):
        raise TypeError(f"`mu` is {mu!r} ({type(mu).__name__}); it must be a tensor, such as torch.tensor({mu!r}).")
    if not 0 < dt < math.inf:
        raise ValueError(f"`dt` is {dt!r}; it must be a finite number > 0.")
    r = dt / mu
    if method == "zoh":
        return torch.exp(-r)
    return 1 / (1 + r) if method == "backward" else 1 - r


def leaky_integrator(x: Tensor, a: Tensor, v: Tensor, gain: str = "area", backend: str = "auto") -> Tensor:
    """Run the recursion v[n] = a v[n-1] + g x[n] over a sequence.

    Args:
        x: input (T, ...).
        a: decay factors, broadcastable to ``v``.
        v: state (...) before the first step; a step of ``x`` must broadcast to it.
        gain: "area" (g = 1 - a) or "peak" (g = 1).
        backend: "loop"; "gemm", a product with a T x T matrix; or "auto", the faster of those that are possible.
            "gemm" needs a single decay, or decays that differ along the first axis of ``v`` only, while ``x`` has one
            entry along that axis.

    Returns:
        States after each step, (T, *v.shape); the last one is the state from which to continue.

    Raises:
        TypeError, ValueError: there is no time step, the shapes do not fit each other or backend "gemm", or ``gain`` or
            ``backend`` is another word.
    """
    one_of("gain", gain, GAINS)
    one_of("backend", backend, BACKENDS)
    for name, value in (("x", x), ("a", a), ("v", v)):
        if not isinstance(value, Tensor):
            raise TypeError(f"`{name}` is {value!r} ({type(value).__name__}); it must be a tensor.")
    check_steps("x", x)
    if not (_broadcasts(x.shape[1:], v.shape) and _broadcasts(a.shape, v.shape)):
        raise ValueError(
            f"`x` has shape {tuple(x.shape)}, `a` {tuple(a.shape)} and `v` {tuple(v.shape)}; a step of `x`, and `a`, must "
            f"broadcast to `v`, the state."
        )
    if backend == "auto":
        small = v.numel() <= _GEMM_VALUES if v.device.type == "cpu" else True
        backend = "gemm" if small and len(x) <= _GEMM_STEPS and _is_product(x, a) else "loop"
    if backend == "gemm":
        return _product(x, a, v, gain)
    if is_traced() or transformed():
        return _plain(x, a, v, gain)
    return _Recursion.apply(x, a, v, gain == "area")


def _broadcasts(shape: torch.Size, target: torch.Size) -> bool:
    """Whether a tensor of this shape can be expanded to the other one."""
    return len(shape) <= len(target) and all(n in (1, m) for n, m in zip(shape[::-1], target[::-1], strict=False))


def _is_product(x: Tensor, a: Tensor) -> bool:
    """Whether the recursion can be written as a product with one T x T matrix per decay."""
    return a.numel() == 1 or (a.shape[0] == a.numel() and x.shape[1] == 1)


def _plain(x: Tensor, a: Tensor, v: Tensor, gain: str) -> Tensor:
    """The recursion in ordinary operations, for whoever traces, transforms or differentiates them again."""
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
    def backward(ctx, grad: Tensor):
        x, a, v, y = ctx.saved_tensors
        need_x, need_a, need_v, _ = ctx.needs_input_grad
        if torch.is_grad_enabled() or transformed() or is_mapped(grad):
            return _plain_gradients((x, a, v), ctx.needs_input_grad[:3], ctx.area, grad)
        total = grad.clone(memory_format=torch.contiguous_format)  # from the end: l[n] = dL/dv[n] + a l[n+1]
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


def _plain_gradients(inputs: tuple[Tensor, Tensor, Tensor], needed: tuple[bool, ...], area: bool, grad: Tensor):
    """The gradients of ``_Recursion`` by autograd's own graph, which can be differentiated again."""
    with torch.enable_grad():
        y = _plain(*inputs, "area" if area else "peak")
        wanted = [i for i, need in zip(inputs, needed, strict=True) if need]
        found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return *(next(found) if need else None for need in needed), None


def moving_integrator(x: Tensor, a: Tensor, velocity: tuple[float, float]) -> Tensor:
    """A leaky integrator whose state moves along: ``v[n](p) = a v[n-1](p - velocity) + (1 - a) x[n](p)``.

    It is Galilean covariant: for a pattern that moves with ``velocity`` it gives 1 - a^(n+1) times the pattern, which
    is what an integrator at rest gives for the pattern at rest. Shifts by whole pixels are exact away from the borders,
    where zeros enter. Other shifts interpolate bilinearly: with a fraction f of a pixel, each step adds a variance of
    f (1 - f) pixels squared along that axis.

    Args:
        x: input (T, ..., H, W).
        a: decay factors, broadcastable to a step of ``x``.
        velocity: (x, y) in pixels per step, x to the right and y down.

    Returns:
        States after each step, of the shape of ``x``; the state before the first step is 0.

    Raises:
        TypeError, ValueError: there is no time step, or no image in it, or ``velocity`` is not two finite numbers.
    """
    check_steps("x", x)
    velocity = tuple(finite_number("velocity", part) for part in entries("velocity", velocity))  # type: ignore[assignment]
    if len(velocity) != 2 or x.ndim < 3:
        raise ValueError(
            f"`velocity` is {velocity} and `x` has shape {tuple(x.shape)}; they must be (x, y) and (T, ..., H, W)."
        )
    v, steps = torch.zeros_like(x[0]), []
    for frame in x.unbind(0):
        v = a * _shifted(_shifted(v, velocity[0], -1), velocity[1], -2) + (1 - a) * frame
        steps.append(v)
    return torch.stack(steps)


def _shifted(v: Tensor, by: float, axis: int) -> Tensor:
    """``v`` moved by so many pixels along an axis, with linear interpolation."""
    pixels = math.floor(by)
    fraction = by - pixels
    near = _rolled(v, pixels, axis)
    return near if not fraction else (1 - fraction) * near + fraction * _rolled(v, pixels + 1, axis)


def _rolled(v: Tensor, by: int, axis: int) -> Tensor:
    """``v`` moved by whole pixels along an axis; zeros enter at the border."""
    size = v.shape[axis]
    if by == 0 or abs(by) >= size:
        return v if by == 0 else torch.zeros_like(v)
    staying = v.narrow(axis, max(0, -by), size - abs(by))
    shape = list(v.shape)
    shape[axis] = abs(by)
    empty = v.new_zeros(shape)
    return torch.cat([empty, staying] if by > 0 else [staying, empty], axis)
