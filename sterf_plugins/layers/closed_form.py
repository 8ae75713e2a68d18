"""IF and LIF neurons whose backward pass is a closed form: two products per time step instead of twenty passes.

Autograd replays every elementwise operation of every time step. But the dynamics are one chain, charge
``h[t] = leak * v[t-1] + gain * x[t]``, spike ``s[t] = fire(h[t])``, reset ``v[t] = reset(h[t], s[t])``, so that the
gradient ``u[t] = dL/dx[t]`` follows backwards in time from

    u[t] = d[t] * dL/ds[t] + c[t] * u[t + 1],    d[t] = gain * s'[t],    c[t] = leak * v'[t]

where s' is the derivative of the surrogate at h - threshold, and v' = dv/dh follows from the reset:

    hard, to r:  v = (1 - s) h + s r,   v' = 1 - s  [+ (r - h) s' unless the reset is detached]
    soft:        v = h - threshold s,   v' = 1      [- threshold s' unless the reset is detached]

Both d and c are computed in the forward pass. Receptive fields go backward many times through one forward pass. A still
image (``functional/still.py``) needs the sum of u over time alone, which is one product per step:

    sum_t u[t] = sum_t w[t] d[t] * dL/ds[t],    w[0] = 1,    w[t] = 1 + c[t - 1] w[t - 1]
"""

from typing import TYPE_CHECKING, Any

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor

from ..functional.still import is_still
from ..functional.strides import empty_frames

Node = Any  # SpikingJelly's IFNode or LIFNode, which have no types
if TYPE_CHECKING:  # what the mixin stands in front of
    from spikingjelly.activation_based.neuron import BaseNode as _Base
else:
    _Base = object


class _ClosedForm(_Base):
    """Mixin in front of SpikingJelly's node: the same values and first derivatives on a CPU.

    The node starts without a state and leaves none behind, so it belongs into a ``StatelessNode``. On a GPU, without
    gradients, under autocast and for a compiler SpikingJelly's own forward pass runs.
    """

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:
        """Spikes (T, ...) for an input (T, ...)."""
        if x_seq.device.type != "cpu" or not x_seq.requires_grad or not torch.is_grad_enabled():
            return super().multi_step_forward(x_seq)
        if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or self.store_v_seq:
            return super().multi_step_forward(x_seq)
        return _Spikes.apply(x_seq, self)


class IFNode(_ClosedForm, neuron.IFNode):
    """SpikingJelly's ``IFNode`` with a closed form as its backward pass."""


class LIFNode(_ClosedForm, neuron.LIFNode):
    """SpikingJelly's ``LIFNode`` with a closed form as its backward pass."""


class _Spikes(torch.autograd.Function):
    """The operations of the forward pass are SpikingJelly's, in its order, so that spikes are bit-equal."""

    @staticmethod
    def forward(ctx, x: Tensor, node: Node) -> Tensor:
        leak, gain = _slopes_of_charge(node)
        spikes = empty_frames(x[0], len(x))
        v = torch.full_like(x[0], node.v_reset or 0.0)
        direct, carried = [], []
        ctx.still, weight = is_still(x), torch.ones(())
        for frame, s in zip(x, spikes, strict=True):
            h = _charge(node, frame, v)
            torch.ge(h, node.v_threshold, out=s)
            slope = _surrogate_slope(node, h)
            slope_of_reset = _reset(node, h, s, slope, v)
            d, c = slope.mul_(gain), slope_of_reset.mul_(leak)
            direct.append(d.mul_(weight) if ctx.still else d)
            if ctx.still:
                weight = c.mul_(weight).add_(1.0)
            else:
                carried.append(c)
        ctx.save_for_backward(*direct, *carried)
        return spikes

    @staticmethod
    def backward(ctx, grad: Tensor):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the closed form of IF and LIF neurons has first derivatives only; for second ones wrap SpikingJelly's "
                "own node, such as StatelessNode(neuron.LIFNode(step_mode='m'))."
            )
        steps = len(grad)
        saved = ctx.saved_tensors
        direct, carried = saved[:steps], saved[steps:]
        if ctx.still:  # any gradient with this sum over time is that of a still image
            total = direct[0] * grad[0]
            for d, g in zip(direct[1:], grad[1:], strict=True):
                total.addcmul_(d, g)
            return total.div_(steps).expand(steps, *total.shape), None
        u = empty_frames(direct[0], steps)
        for t in reversed(range(steps)):
            torch.mul(direct[t], grad[t], out=u[t])
            if t + 1 < steps:
                u[t].addcmul_(carried[t], u[t + 1])
        return u, None


def _slopes_of_charge(node: Node) -> tuple[float, float]:
    """Derivatives (dh/dv, dh/dx) of the charge."""
    if isinstance(node, neuron.IFNode):
        return 1.0, 1.0
    return 1.0 - 1.0 / node.tau, 1.0 / node.tau if node.decay_input else 1.0


def _charge(node: Node, x: Tensor, v: Tensor) -> Tensor:
    """The potential h after a step's input."""
    if isinstance(node, neuron.IFNode):
        return v + x
    above_rest = v - node.v_reset if node.v_reset else v
    if node.decay_input:
        return (x - above_rest).div_(node.tau).add_(v)
    return (v - above_rest / node.tau).add_(x)


def _surrogate_slope(node: Node, h: Tensor) -> Tensor:
    """The derivative of the node's surrogate function at h: by the function's own backward pass."""
    function, excess = node.surrogate_function, h - node.v_threshold
    if type(function) is surrogate.Sigmoid and function.spiking:  # that of the published models, in place
        y = excess.mul_(function.alpha).sigmoid_()
        return y.addcmul_(y, y, value=-1.0).mul_(function.alpha)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(function(excess.requires_grad_()).sum(), excess)
    return slope


def _reset(node: Node, h: Tensor, s: Tensor, slope: Tensor, v: Tensor) -> Tensor:
    """Write the potential after the reset into ``v``; the derivative dv/dh."""
    if node.v_reset is None:
        torch.sub(h, s, alpha=node.v_threshold, out=v)
        derivative = torch.ones_like(h)
        return derivative if node.detach_reset else derivative.sub_(slope, alpha=node.v_threshold)
    derivative = 1.0 - s
    torch.mul(derivative, h, out=v)
    if node.v_reset:
        v.add_(s, alpha=node.v_reset)
    return derivative if node.detach_reset else derivative.addcmul_(slope, node.v_reset - h)
