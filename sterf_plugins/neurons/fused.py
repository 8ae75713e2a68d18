"""A shorter backward pass for SpikingJelly's IF and LIF nodes on the CPU.

Autograd replays every elementwise operation of every time step: about twenty passes over memory per step. But the
dynamics are one chain, charge ``h[t] = leak * v[t-1] + gain * x[t]``, spike ``s[t] = fire(h[t])``, reset
``v[t] = reset(h[t], s[t])``, so that with ``u[t] = dL/dx[t]``

    u[t] = gain * s'[t] * dL/ds[t]  +  leak * v'[t] * u[t + 1]

where s' is the surrogate's derivative at h - threshold, SpikingJelly's own function, and v' follows from the reset:

    hard, to r:  v = (1 - s) h + s r,   v' = 1 - s  [+ (r - h) s' unless the reset is detached]
    soft:        v = h - threshold s,   v' = 1      [- threshold s' unless the reset is detached]

Both are found in the forward pass; what is left for each backward pass is two products per step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor

# Those whose derivative is a function of the excess over the threshold alone.
_SURROGATES = (
    surrogate.ATan,
    surrogate.Erf,
    surrogate.LeakyKReLU,
    surrogate.NonzeroSignLogAbs,
    surrogate.PiecewiseExp,
    surrogate.PiecewiseLeakyReLU,
    surrogate.PiecewiseQuadratic,
    surrogate.Rect,
    surrogate.Sigmoid,
    surrogate.SoftSign,
    surrogate.SuperSpike,
)


def is_fusable(node: Any, x: Tensor) -> bool:
    """Whether ``fused_spikes`` gives what ``node`` gives, starting without a state."""
    return (
        type(node) in (neuron.IFNode, neuron.LIFNode)
        and type(node.surrogate_function) in _SURROGATES
        and node.surrogate_function.spiking
        and x.device.type == "cpu"  # SpikingJelly has kernels of its own for GPUs
        and x.requires_grad
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not node.store_v_seq
        and not (node._forward_hooks or node._forward_pre_hooks)
    )


def fused_spikes(node: Any, x: Tensor, steps: int | None = None, pool: bool = False) -> Tensor:
    """What ``node`` gives without a state, with a short backward pass: the same values and first derivatives.

    Args:
        node: an ``IFNode`` or ``LIFNode``.
        x: (T, ...); or (...), an input that is held for ``steps``.
        steps: T of a held input.
        pool: 3x3 max-pooling of stride 2 behind the neuron, for frames (B, C, H, W).

    Returns:
        Spikes (T, ...).
    """
    return _Spikes.apply(x, node, steps, pool)


class _Spikes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, node: Any, steps: int | None, pool: bool) -> Tensor:
        frames = list(x) if steps is None else [x] * steps
        ctx.held, indices = steps is not None, ()
        spikes = _dense(frames[0], len(frames))
        ctx.leak, direct, carried = _fire(node, frames, spikes)
        if pool:
            pooled, found = torch.nn.functional.max_pool2d(spikes.flatten(0, 1), *_POOL, return_indices=True)
            spikes, indices = pooled.unflatten(0, spikes.shape[:2]), (found.unflatten(0, spikes.shape[:2]),)
        ctx.steps = len(frames)
        ctx.save_for_backward(*direct, *carried, *indices)
        return spikes

    @staticmethod
    def backward(ctx, grad: Tensor):
        if torch.is_grad_enabled():
            raise RuntimeError("the fused IF and LIF neurons have first derivatives only; call the node itself.")
        saved = ctx.saved_tensors
        direct, carried, indices = saved[: ctx.steps], saved[ctx.steps : 2 * ctx.steps - 1], saved[2 * ctx.steps - 1 :]
        frames = _unpooled(grad, indices[0], direct[0]) if indices else (lambda t: grad[t])
        found = (_summed if ctx.held else _chained)(ctx.leak, direct, carried, frames)
        return found, None, None, None


def _fire(node: Any, x: list[Tensor], spikes: Tensor) -> tuple[float, list[Tensor], list[Tensor | None]]:
    """Fill ``spikes``; leak, gain * s' of every step, and v' of all but the last (None where it is 1).

    The operations are SpikingJelly's, in its order, so that spikes are bit-equal; without its copies.
    """
    function, reset, threshold = node.surrogate_function, node.v_reset, node.v_threshold
    leak, gain = _slopes(node)
    h, excess = torch.empty_like(x[0]), torch.empty_like(x[0])
    v, direct, carried = None, [], []
    upstream = x[0].new_tensor(gain)
    for t, frame in enumerate(x):
        _charge(node, frame, v, h)
        s = torch.ge(h, threshold, out=spikes[t])
        slope = type(function).backward(upstream, torch.sub(h, threshold, out=excess), *function._sg_params.values())
        direct.append(slope)
        if t + 1 == len(x):
            break
        if reset is None:
            after = None if node.detach_reset else torch.mul(slope, -threshold / gain).add_(1.0)
            v = torch.sub(h, s, alpha=threshold, out=v)
        else:
            after = 1.0 - s
            v = torch.mul(h, after, out=v)
            if reset:
                v.add_(s, alpha=reset)
            if not node.detach_reset:
                after.addcmul_(slope, excess.sub_(reset - threshold), value=-1.0 / gain)
        carried.append(after)
    return leak, direct, carried


def _charge(node: Any, x: Tensor, v: Tensor | None, h: Tensor) -> None:
    """Charge from v, or from rest, into h."""
    rest = node.v_reset or 0.0
    if type(node) is neuron.IFNode:
        torch.add(x, rest if v is None else v, out=h)
        return
    if v is None:
        v = x.new_tensor(rest)
    if node.decay_input:
        torch.sub(x, v - rest if rest else v, out=h).div_(node.tau).add_(v)
    else:
        h.copy_(v).sub_((v - rest if rest else v) / node.tau).add_(x)


def _slopes(node: Any) -> tuple[float, float]:
    """(dh/dv, dh/dx) of the charge."""
    if type(node) is neuron.IFNode:
        return 1.0, 1.0
    return 1.0 - 1.0 / node.tau, 1.0 / node.tau if node.decay_input else 1.0


_POOL = (3, 2, 1)  # kernel, stride, padding


def _unpooled(grad: Tensor, indices: Tensor, like: Tensor) -> Callable[[int], Tensor]:
    """The gradient in front of the pooling, a step at a time, in one buffer: fresh memory costs a CPU most."""
    buffer = torch.empty_like(like)
    kernel, stride, padding = _POOL
    unpool = torch.ops.aten.max_pool2d_with_indices_backward.grad_input

    def frame(t: int) -> Tensor:
        pairs = [kernel] * 2, [stride] * 2, [padding] * 2, [1, 1]
        return unpool(grad[t], like, *pairs, False, indices[t], grad_input=buffer)

    return frame


_Slopes = Sequence[Tensor | None]


def _carry(u: Tensor, leak: float, slope: Tensor | None, later: Tensor) -> Tensor:
    return u.add_(later, alpha=leak) if slope is None else u.addcmul_(slope, later, value=leak)


def _chained(leak: float, direct: _Slopes, carried: _Slopes, frames: Callable[[int], Tensor]) -> Tensor:
    """U (T, ...) of the module's equation, from the last step to the first."""
    u = _dense(direct[0], len(direct))
    for t in range(len(direct) - 1, -1, -1):
        torch.mul(direct[t], frames(t), out=u[t])
        if t < len(carried):
            _carry(u[t], leak, carried[t], u[t + 1])
    return u


def _summed(leak: float, direct: _Slopes, carried: _Slopes, frames: Callable[[int], Tensor]) -> Tensor:
    """The sum of u over time, without keeping its terms."""
    later = direct[-1] * frames(len(direct) - 1)
    now, total = torch.empty_like(later), None
    for t in range(len(direct) - 2, -1, -1):
        _carry(torch.mul(direct[t], frames(t), out=now), leak, carried[t], later)
        total = now + later if total is None else total.add_(now)
        now, later = later, now
    return later if total is None else total


def _dense(like: Tensor, steps: int) -> Tensor:
    """An empty (steps, ...) of frames in the memory order of ``like``."""
    order = torch.empty_like(like)
    return like.new_empty(steps * like.numel()).as_strided((steps, *like.shape), (like.numel(), *order.stride()))
