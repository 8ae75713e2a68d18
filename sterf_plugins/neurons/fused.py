"""A shorter backward pass for SpikingJelly's IF and LIF nodes on the CPU.

Autograd replays every elementwise operation of every time step: about twenty passes over memory per step. But the
dynamics are one chain, charge ``h[t] = leak * v[t-1] + gain * x[t]``, spike ``s[t] = fire(h[t])``, reset
``v[t] = reset(h[t], s[t])``, so that with ``u[t] = dL/dx[t]``

    u[t] = gain * s'[t] * dL/ds[t]  +  leak * v'[t] * u[t + 1]

where s' and v' are derivatives with respect to h. SpikingJelly's own charge, surrogate and reset functions are
differentiated once, in the forward pass; what is left for each backward pass is two products per step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from spikingjelly.activation_based import functional, neuron
from torch import Tensor


def is_fusable(node: Any, x: Tensor) -> bool:
    """Whether ``fused_spikes`` gives what ``node`` gives, starting without a state."""
    return (
        type(node) in (neuron.IFNode, neuron.LIFNode)
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
        direct, carried = _fire(node, frames, spikes)
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
        found = _summed(direct, carried, frames) if ctx.held else _chained(direct, carried, frames)
        return found, None, None, None


# Gradient checkpointing around the neuron must not take hold of the small graphs inside it.
_KEEP = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


def _fire(node: Any, x: list[Tensor], spikes: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Fill ``spikes``; gain * s' of every step and leak * v' of all but the last."""
    gain, leak = (x[0].new_tensor(slope) for slope in _slopes(node))
    v, direct, carried = torch.full_like(x[0], node.v_reset or 0.0), [], []
    for t, frame in enumerate(x):
        with torch.enable_grad(), _KEEP:
            h = _charge(node, frame, v).detach().requires_grad_()
            s = node.surrogate_function(h - node.v_threshold)
            if t + 1 < len(x):
                after = functional.voltage_reset(h, s, node.v_threshold, node.v_reset, node.detach_reset)
                carried += torch.autograd.grad(after, h, leak.expand_as(h), retain_graph=True)
                v = after.detach()
            direct += torch.autograd.grad(s, h, gain.expand_as(h))
        spikes[t] = s.detach()
    return direct, carried


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


def _chained(direct: Sequence[Tensor], carried: Sequence[Tensor], frames: Callable[[int], Tensor]) -> Tensor:
    """U (T, ...) of the module's equation, from the last step to the first."""
    u = _dense(direct[0], len(direct))
    for t in range(len(direct) - 1, -1, -1):
        torch.mul(direct[t], frames(t), out=u[t])
        if t < len(carried):
            u[t].addcmul_(carried[t], u[t + 1])
    return u


def _summed(direct: Sequence[Tensor], carried: Sequence[Tensor], frames: Callable[[int], Tensor]) -> Tensor:
    """The sum of u over time, without keeping its terms."""
    later = direct[-1] * frames(len(direct) - 1)
    now, total = torch.empty_like(later), None
    for t in range(len(direct) - 2, -1, -1):
        torch.mul(direct[t], frames(t), out=now).addcmul_(carried[t], later)
        total = now + later if total is None else total.add_(now)
        now, later = later, now
    return later if total is None else total


def _charge(node: Any, x: Tensor, v: Tensor) -> Tensor:
    if type(node) is neuron.IFNode:
        return v + x
    return functional.lif_charge(x, v, node.tau, node.decay_input, node.v_reset)


def _slopes(node: Any) -> tuple[float, float]:
    """(dh/dx, dh/dv) of the charge, which is linear: its values at (1, reset) and (0, reset + 1) less that at rest."""
    rest = torch.tensor([node.v_reset or 0.0], dtype=torch.float64)
    zero, one = torch.zeros_like(rest), torch.ones_like(rest)
    base = _charge(node, zero, rest)
    return float(_charge(node, one, rest) - base), float(_charge(node, zero, rest + one) - base)


def _dense(like: Tensor, steps: int) -> Tensor:
    """An empty (steps, ...) of frames in the memory order of ``like``."""
    order = torch.empty_like(like)
    return like.new_empty(steps * like.numel()).as_strided((steps, *like.shape), (like.numel(), *order.stride()))
