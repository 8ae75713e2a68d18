"""A shorter backward pass for SpikingJelly's IF and LIF nodes on the CPU.

Autograd replays every elementwise operation of every time step: about twenty passes over memory per step. But the
dynamics are one chain, charge ``h[t] = leak * v[t-1] + gain * x[t]``, spike ``s[t] = fire(h[t])``, reset
``v[t] = reset(h[t], s[t])``, so that with ``u[t] = dL/dx[t]``

    u[t] = d[t] * dL/ds[t] + c[t] * u[t + 1],    d[t] = gain * s'[t],    c[t] = leak * v'[t]

where s' is the surrogate's derivative at h - threshold, SpikingJelly's own function, and v' follows from the reset:

    hard, to r:  v = (1 - s) h + s r,   v' = 1 - s  [+ (r - h) s' unless the reset is detached]
    soft:        v = h - threshold s,   v' = 1      [- threshold s' unless the reset is detached]

d and c are found in the forward pass; what is left for each backward pass is two products per step. An input that is
held for all steps gets the sum of u, which is one product per step:

    sum_t u[t] = sum_t w[t] d[t] * dL/ds[t],    w[0] = 1,    w[t] = 1 + c[t - 1] w[t - 1]
"""

from collections.abc import Iterator, Sequence
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
        ctx.held, ctx.frame, indices = steps is not None, x.shape, ()
        frames = [x] * steps if steps is not None else list(x)
        spikes = _dense(frames[0], len(frames))
        direct, carried = _fire(node, frames, spikes, ctx.held)
        if pool:
            pooled, found = torch.nn.functional.max_pool2d(spikes.flatten(0, 1), *_POOL, return_indices=True)
            spikes, indices = pooled.unflatten(0, spikes.shape[:2]), found.unflatten(0, spikes.shape[:2])
            if ctx.held:  # only what the pooling lets through has a gradient
                direct = [_gathered(d, i) for d, i in zip(direct, indices, strict=True)]
        ctx.save_for_backward(*direct, *carried, *indices)
        ctx.steps = len(frames)
        return spikes

    @staticmethod
    def backward(ctx, grad: Tensor):
        if torch.is_grad_enabled():
            raise RuntimeError("the fused IF and LIF neurons have first derivatives only; call the node itself.")
        saved, steps = ctx.saved_tensors, ctx.steps
        direct, rest = saved[:steps], saved[steps:]
        if ctx.held:
            found = _pooled_sum(direct, rest, grad, ctx.frame) if rest else _sum(direct, grad)
        else:
            carried, indices = rest[: steps - 1], rest[steps - 1 :]
            found = _chain(direct, carried, _unpooled(grad, indices, direct[0]) if indices else grad)
        return found, None, None, None


def _fire(node: Any, x: list[Tensor], spikes: Tensor, held: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Fill ``spikes``; d of every step and c of all but the last, or for a held input w d alone.

    The operations are SpikingJelly's, in its order, so that spikes are bit-equal; without its copies.
    """
    function, reset, threshold = node.surrogate_function, node.v_reset, node.v_threshold
    leak, gain = _slopes(node)
    h, excess = torch.empty_like(x[0]), torch.empty_like(x[0])
    v, w, direct, carried = None, None, [], []
    upstream, constant = x[0].new_tensor(gain), x[0].new_tensor(leak)
    for t, frame in enumerate(x):
        _charge(node, frame, v, h)
        s = torch.ge(h, threshold, out=spikes[t])
        d = _derivative(function, torch.sub(h, threshold, out=excess), upstream)
        direct.append(d if w is None else d * w)
        if t + 1 == len(x):
            break
        if reset is None:
            v = torch.sub(h, s, alpha=threshold, out=v)
            c = constant if node.detach_reset else torch.mul(d, -threshold * leak / gain).add_(leak)
        else:
            v = torch.addcmul(h, h, s, value=-1.0, out=v)
            if reset:
                v.add_(s, alpha=reset)
            c = torch.rsub(s, leak, alpha=leak)
            if not node.detach_reset:
                c.addcmul_(d, excess.sub_(reset - threshold), value=-leak / gain)
        if held:
            w = 1.0 + (c if w is None else c * w)
        else:
            carried.append(c)
    return direct, carried


def _derivative(function: surrogate.SurrogateFunctionBase, excess: Tensor, upstream: Tensor) -> Tensor:
    """``upstream`` times the surrogate's derivative."""
    if type(function) is surrogate.Sigmoid:  # that of the published models: one pass for the three products
        y = (excess * function.alpha).sigmoid_()
        return torch.ops.aten.sigmoid_backward.grad_input(upstream * function.alpha, y, grad_input=y)
    return type(function).backward(upstream, excess, *function._sg_params.values())


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


def _gathered(x: Tensor, indices: Tensor) -> Tensor:
    """The elements of frames (B, C, H, W) that pooling has found, (B, C, H', W')."""
    if x.stride(1) == 1:  # channels-last: no copy either way
        rows = x.movedim(1, -1).flatten(1, 2).gather(1, indices.movedim(1, -1).flatten(1, 2))
        return rows.unflatten(1, indices.shape[2:]).movedim(-1, 1)
    return x.flatten(2).gather(2, indices.flatten(2)).unflatten(2, indices.shape[2:])


def _unpool(grad: Tensor, indices: Tensor, out: Tensor) -> Tensor:
    """The gradient in front of the pooling, into ``out``."""
    kernel, stride, padding = _POOL
    pairs = [kernel] * 2, [stride] * 2, [padding] * 2, [1, 1]
    return torch.ops.aten.max_pool2d_with_indices_backward.grad_input(grad, out, *pairs, False, indices, grad_input=out)


def _unpooled(grad: Tensor, indices: Sequence[Tensor], like: Tensor) -> Iterator[Tensor]:
    """Frames of the gradient in front of the pooling, the last first, in one buffer: fresh memory costs a CPU most."""
    buffer = torch.empty_like(like)
    for t in range(len(indices) - 1, -1, -1):
        yield _unpool(grad[t], indices[t], buffer)


def _chain(direct: Sequence[Tensor], carried: Sequence[Tensor], grad: Tensor | Iterator[Tensor]) -> Tensor:
    """U (T, ...) of the module's equation; frames of the gradient, or an iterator from the last to the first."""
    u, last = _dense(direct[0], len(direct)), len(direct) - 1
    for t in range(last, -1, -1):
        torch.mul(direct[t], grad[t] if isinstance(grad, Tensor) else next(grad), out=u[t])
        if t < last:
            u[t].addcmul_(carried[t], u[t + 1])
    return u


def _sum(direct: Sequence[Tensor], grad: Tensor) -> Tensor:
    """The gradient of a held input."""
    total = direct[0] * grad[0]
    for d, g in zip(direct[1:], grad[1:], strict=True):
        total.addcmul_(d, g)
    return total


def _pooled_sum(direct: Sequence[Tensor], indices: Sequence[Tensor], grad: Tensor, frame: torch.Size) -> Tensor:
    """The gradient of a held input of shape ``frame`` in front of the pooling."""
    order = torch.channels_last if direct[0].stride(1) == 1 else torch.contiguous_format
    total = torch.empty(frame, dtype=grad.dtype, memory_format=order)
    _unpool(direct[0] * grad[0], indices[0], total)
    buffer = torch.empty_like(total)
    for d, g, i in zip(direct[1:], grad[1:], indices[1:], strict=True):
        total.add_(_unpool(d * g, i, buffer))
    return total


def _dense(like: Tensor, steps: int) -> Tensor:
    """An empty (steps, ...) of frames in the memory order of ``like``."""
    order = torch.empty_like(like)
    return like.new_empty(steps * like.numel()).as_strided((steps, *like.shape), (like.numel(), *order.stride()))
