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

Forward-mode differentiation is the transposed recursion: a tangent x'[t] gives the spikes' tangent d[t] * h'[t] with
h'[t] = x'[t] + c[t - 1] h'[t - 1].
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor

from ..functional.still import is_still
from ..functional.strides import empty_frames
from ..functional.torch_kernels import is_mapped
from ..undisturbed import transformed

Node = Any  # SpikingJelly's IFNode or LIFNode, which have no types
if TYPE_CHECKING:  # what the mixin stands in front of
    from spikingjelly.activation_based.neuron import BaseNode as _Base
else:
    _Base = object


class _ClosedForm(_Base):
    """Mixin in front of SpikingJelly's node: the same values and first derivatives on a CPU.

    The node starts without a state and leaves none behind, so it belongs into a ``StatelessNode``. SpikingJelly's own
    forward pass runs on a GPU, under autocast, for a compiler, where ``store_v_seq`` is set, and for surrogate functions whose
    values are not known to be a step, such as those of several levels. For ``torch.jit.trace`` all is ordinary operations.
    ``torch.func`` and forward-mode differentiation take the closed form on every device, since SpikingJelly's surrogate
    functions support neither ``vmap`` nor ``jvp``.

    Attributes:
        closed_form: ``False`` has SpikingJelly's own forward pass run always, which has derivatives of any order.
    """

    closed_form = True

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:
        """Spikes (T, ...) for an input (T, ...)."""
        if not self.has_closed_form(x_seq):
            return super().multi_step_forward(x_seq)
        if torch.jit.is_tracing():
            return _traceable(x_seq, self)
        if not transformed() and not (x_seq.requires_grad and torch.is_grad_enabled()):
            return _fire(x_seq, self)
        still = is_still(x_seq) and not transformed()
        return _Spikes.apply(x_seq, self, still)[0]

    def has_closed_form(self, x: Tensor) -> bool:
        """Whether an input takes our forward pass instead of SpikingJelly's."""
        if torch.compiler.is_compiling() or not self.closed_form or self.store_v_seq:
            return False
        if not _is_step(self.surrogate_function):
            return False
        return (
            transformed() or torch.jit.is_tracing() or (x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"))
        )


class IFNode(_ClosedForm, neuron.IFNode):
    """SpikingJelly's ``IFNode`` with a closed form as its backward pass."""


class LIFNode(_ClosedForm, neuron.LIFNode):
    """SpikingJelly's ``LIFNode`` with a closed form as its backward pass."""


def _is_step(function: Any) -> bool:
    """Whether a surrogate function is one of SpikingJelly's that give 1 from the threshold on, and 0 below."""
    others = (surrogate.MultiLevelSpikeCount, surrogate.PoissonPass)
    return type(function).__module__ == surrogate.__name__ and function.spiking and not isinstance(function, others)


def _fire(x: Tensor, node: Node) -> Tensor:
    """The same spikes where no backward pass follows, in half of SpikingJelly's passes over memory."""
    spikes = empty_frames(x[0], len(x))
    v = torch.full_like(x[0], node.v_reset or 0.0)
    for frame, s in zip(x, spikes, strict=True):
        h = _charge(node, frame, v)
        torch.ge(h, node.v_threshold, out=s)
        _reset(node, h, s, v)
    return spikes


def _traceable(x: Tensor, node: Node) -> Tensor:
    """The same spikes and derivatives in ordinary operations.

    A trace with SpikingJelly's operators in it can neither be loaded where SpikingJelly is not imported, nor become ONNX.
    """
    smooth = copy(node.surrogate_function)
    smooth.spiking = False
    v = x.new_full((), node.v_reset or 0.0).expand_as(x[0])
    spikes = []
    for t in range(x.shape[0]):  # ONNX takes the size of a batch for fixed behind `for frame in x`
        h = _charge(node, x[t], v)
        slope = smooth(h - node.v_threshold)
        s = (h >= node.v_threshold).to(h) + (slope - slope.detach())  # the step, with the surrogate's gradient
        spikes.append(s)
        reset = s.detach() if node.detach_reset else s
        v = h - reset * node.v_threshold if node.v_reset is None else (1.0 - reset) * h + reset * node.v_reset
    return torch.stack(spikes)


class _Spikes(torch.autograd.Function):
    """Spikes (T, ...), and the factors of the backward pass: d of each step, then c of all steps but the last.

    The operations of the forward pass are SpikingJelly's, in its order, so that spikes are bit-equal. The factors are
    outputs because ``torch.func`` asks for everything that is saved to be an input or an output. A still image has no c.
    """

    @staticmethod
    def forward(x: Tensor, node: Node, still: bool) -> tuple[Tensor, ...]:
        leak, gain = _slopes_of_charge(node)
        spikes = empty_frames(x[0], len(x))
        v = torch.full_like(x[0], node.v_reset or 0.0)
        direct, carried = [], []
        weight = torch.ones(())
        for frame, s in zip(x, spikes, strict=True):
            h = _charge(node, frame, v)
            torch.ge(h, node.v_threshold, out=s)
            slope = _surrogate_slope(node, h)
            _reset(node, h, s, v)
            slope_of_reset = _slope_of_reset(node, h, s, slope)
            d, c = slope.mul_(gain), slope_of_reset.mul_(leak)
            direct.append(d.mul_(weight) if still else d)
            if still:
                weight = c.mul_(weight).add_(1.0)
            else:
                carried.append(c)
        return spikes, *direct, *carried[:-1]

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.product = _still if inputs[2] else _adjoint
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:])
        ctx.save_for_forward(*output[1:])

    @staticmethod
    def backward(ctx, grad: Tensor | None, *_):
        if grad is None:
            return None, None, None
        apply = _Product.apply if torch.is_grad_enabled() or transformed() else _Product.forward
        return apply(ctx.product, grad, *ctx.saved_tensors), None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_):
        # The factors have tangents, too; nothing reads their values, but by them a second derivative comes to _Product.
        return _Product.apply(_tangent, tangent, *ctx.saved_tensors), *map(torch.zeros_like, ctx.saved_tensors)

    @staticmethod
    def vmap(info, in_dims, x: Tensor, node: Node, still: bool):
        outputs = _Spikes.apply(x.movedim(in_dims[0], 1), node, still)
        return outputs, (1, *[0] * (len(outputs) - 1))


class _Product(torch.autograd.Function):
    """Product of the factors with a gradient or a tangent: what vmap maps, and where second derivatives are refused."""

    @staticmethod
    def forward(product: Callable[..., Tensor], x: Tensor, *factors: Tensor) -> Tensor:
        return product(x, factors[: len(x)], factors[len(x) :])

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, grad: Tensor) -> NoReturn:
        raise RuntimeError(_NO_SECOND_DERIVATIVES)

    @staticmethod
    def jvp(ctx, *tangents: Tensor) -> NoReturn:
        raise RuntimeError(_NO_SECOND_DERIVATIVES)

    @staticmethod
    def vmap(info, in_dims, product: Callable[..., Tensor], x: Tensor, *factors: Tensor):
        def mapped(tensor: Tensor, axis: int | None, to: int) -> Tensor:
            if axis is not None:
                return tensor.movedim(axis, to)
            return torch.stack([tensor], to).expand(*tensor.shape[:to], info.batch_size, *tensor.shape[to:])

        x = mapped(x, in_dims[1], 1)
        return _Product.apply(product, x, *(mapped(f, d, 0) for f, d in zip(factors, in_dims[2:], strict=True))), 1


_NO_SECOND_DERIVATIVES = (
    "the closed form of IF and LIF neurons has first derivatives only. For second ones have SpikingJelly's own forward "
    "pass run: set `closed_form = False` on the nodes before the forward pass, as in "
    "`for m in model.modules(): if hasattr(m, 'closed_form'): m.closed_form = False`."
)


Frames = Sequence[Tensor]


def _adjoint(grad: Tensor, direct: Frames, carried: Frames) -> Tensor:
    """The gradient u of the input from that of the spikes."""
    steps = len(grad)
    if is_mapped(grad):
        changes = [direct[-1] * grad[-1]]
        for t in reversed(range(steps - 1)):
            changes.append(direct[t] * grad[t] + carried[t] * changes[-1])
        return torch.stack(changes[::-1])
    u = empty_frames(direct[0], steps)
    for t in reversed(range(steps)):
        torch.mul(direct[t], grad[t], out=u[t])
        if t + 1 < steps:
            u[t].addcmul_(carried[t], u[t + 1])
    return u


def _still(grad: Tensor, direct: Frames, carried: Frames) -> Tensor:
    """The same for a still image: a gradient that is alike in all steps and has the right sum over time."""
    total = direct[0] * grad[0]
    for d, g in zip(direct[1:], grad[1:], strict=True):
        total.addcmul_(d, g)
    return total.div_(len(grad)).expand_as(grad)


def _tangent(tangent: Tensor, direct: Frames, carried: Frames) -> Tensor:
    """The tangent of the spikes from that of the input."""
    changes = [tangent[0]]
    for c, frame in zip(carried, tangent[1:], strict=True):
        changes.append(c * changes[-1] + frame)
    return torch.stack([d * h for d, h in zip(direct, changes, strict=True)])


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
    if type(function) is surrogate.Sigmoid:  # that of the published models, in place
        y = excess.mul_(function.alpha).sigmoid_()
        return y.addcmul_(y, y, value=-1.0).mul_(function.alpha)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(function(excess.requires_grad_()), excess, torch.ones_like(excess))
    return slope


def _reset(node: Node, h: Tensor, s: Tensor, v: Tensor) -> None:
    """Write the potential after the reset into ``v``."""
    if node.v_reset is None:
        torch.sub(h, s, alpha=node.v_threshold, out=v)
        return
    torch.addcmul(h, h, s, value=-1.0, out=v)
    if node.v_reset:
        v.add_(s, alpha=node.v_reset)


def _slope_of_reset(node: Node, h: Tensor, s: Tensor, slope: Tensor) -> Tensor:
    """The derivative dv/dh of the potential after the reset; ``slope`` is that of the spike."""
    if node.v_reset is None:
        derivative = torch.ones_like(h)
        return derivative if node.detach_reset else derivative.sub_(slope, alpha=node.v_threshold)
    derivative = 1.0 - s
    return derivative if node.detach_reset else derivative.addcmul_(slope, node.v_reset - h)
