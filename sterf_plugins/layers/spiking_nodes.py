"""SpikingJelly's neurons with the state kept inside one ``forward``.

What users stumble over most is a neuron that remembers the previous batch. Here the node is reset before each
call, so the same input gives the same output, and nothing has to be reset by hand.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_floating, check_steps, finite_number, positive_int
from ..functional.still import repeat_still
from ..plugins import check_options
from ..undisturbed import transformed
from .closed_form import IFNode, LIFNode
from .described import Described


class StatelessNode(Described):
    """Run a multi-step SpikingJelly node over time and forget its state.

    Args:
        node: a SpikingJelly neuron built with ``step_mode="m"``.
        T: time steps for inputs without a time axis; such an input is held constant for T steps and the mean
            rate is returned. ``None``: the first axis of the input is time.

    Shapes: (T, B, ...) -> (T, B, ...), or (B, ...) -> (B, ...) when ``T`` is given.

    Raises:
        ValueError: the node is not in multi-step mode, here or in ``forward``, or ``T < 1``; in ``forward``, if there is no
            time step.
    """

    node: Any  # SpikingJelly's nodes have no types

    def __init__(self, node: nn.Module, T: int | None = None):
        super().__init__()
        _check_multi_step(node)
        self.node = node
        self.T = None if T is None else positive_int("T", T)

    def forward(self, x: Tensor) -> Tensor:
        if self.T is None:
            return _run_fresh(self.node, x)
        return _run_fresh(self.node, repeat_still(x, self.T)).mean(0)

    def description(self) -> dict[str, Any]:
        """T, the levels, and the numbers among the node's arguments, those without influence on the spikes left out."""
        names = [n for n in inspect.signature(type(self.node)).parameters if n not in ("detach_reset", "store_v_seq")]
        values = {name: getattr(self.node, name, None) for name in names}
        numbers = {name: v for name, v in values.items() if v is None or isinstance(v, (bool, int, float))}
        levels = getattr(getattr(self.node, "surrogate_function", None), "max_spike_count", None)
        return dict(T=self.T, max_spike_count=levels) | numbers

    def extra_repr(self) -> str:
        return f"T={self.T}"


def _check_multi_step(node: Any) -> None:
    """Raise ``ValueError`` unless a node takes sequences; with a single step it would take time steps for samples."""
    if getattr(node, "step_mode", None) != "m":
        raise ValueError(
            f"`node` is in step_mode {getattr(node, 'step_mode', None)!r}; build it with 'm', and leave it in that mode."
        )


def check_takes_maps(neuron: nn.Module) -> nn.Module:
    """Return a neuron that is to read maps (B, C, H, W); one without ``T`` would take their batch for time steps.

    Raises:
        ValueError: the neuron is a ``StatelessNode`` without ``T``.
    """
    if isinstance(neuron, StatelessNode) and neuron.T is None:
        raise ValueError(
            f"`neuron` is a {type(neuron.node).__name__} without `T`, which takes the first axis for time, and maps "
            f"(B, C, H, W) have no time axis; give the number of steps for which a map is held, such as "
            f"dict(type='lif', T=4)."
        )
    return neuron


@torch.fx.wrap  # one step of a traced model, since nodes loop over time and keep a state meanwhile
def _run_fresh(node: Any, x: Tensor) -> Tensor:
    exported = torch.jit.is_tracing() and torch.onnx.is_in_onnx_export()
    if exported and not (isinstance(node, (IFNode, LIFNode)) and node.has_closed_form(x)):
        raise TypeError(
            f"torch.onnx.export(dynamo=False) has no operator for a {type(node).__name__}; export with dynamo=True, or by "
            f"sterf deploy MODEL CHECKPOINT --onnx."
        )
    check_floating("x", x)
    check_steps("x", x)
    _check_multi_step(node)
    _reset(node)
    try:
        return node(x)
    finally:
        _reset(node)  # no graph and no buffer outlives the call (deepcopy, pickling, memory)


def _reset(node: Any) -> None:
    """Give a node its initial state.

    A compiler cannot trace that SpikingJelly's ``reset`` copies it, and gets it without a copy; but not under ``torch.func``,
    where the surrogate functions cannot be traced either, and all runs uncompiled.
    """
    if not torch.compiler.is_compiling() or transformed():
        node.reset()
        return
    for name in list(dict(node.named_memories())):
        setattr(node, name, node.get_reset_value(name))


def _factory(class_name: str, replacement: type | None = None) -> Callable[..., StatelessNode]:
    """A constructor of stateless nodes of a SpikingJelly class, or of a class of ours that replaces it."""

    def build(T: int | None = None, **kwargs) -> StatelessNode:
        from spikingjelly.activation_based import neuron

        kind = replacement or getattr(neuron, class_name)
        check_options(class_name, kwargs, {*inspect.signature(kind).parameters, "T"} - {"step_mode"})
        surrogate = kwargs.get("surrogate_function")
        if "surrogate_function" in kwargs and (isinstance(surrogate, type) or not callable(surrogate)):
            raise TypeError(
                f"`surrogate_function` is {surrogate!r}; it must be a function, such as "
                f"spikingjelly.activation_based.surrogate.ATan()."
            )
        # SpikingJelly takes no int, such as tau=2, and its assertions have no words.
        numbers = {name: finite_number(name, value) for name, value in kwargs.items() if type(value) in (int, float)}
        try:
            node = kind(step_mode="m", **kwargs | numbers)
        except AssertionError as error:
            arguments = ", ".join(f"{name}={value!r}" for name, value in kwargs.items())
            raise ValueError(
                f"a {class_name} cannot have {arguments}: `tau` and `init_tau` must be > 1, potentials numbers (`v_reset` may be "
                f"None), and `detach_reset` True or False."
            ) from error
        except ValueError as error:
            raise ValueError(f"{class_name} cannot be built: {error} Leave it out for the neuron's own.") from error
        return StatelessNode(node, T)

    build.__name__ = build.__qualname__ = class_name
    build.__doc__ = (
        f"SpikingJelly's ``{class_name}`` as a ``StatelessNode``, which takes ``T``; the node takes all other keywords.\n\n"
        "Raises:\n    TypeError, ValueError: the node has no such keyword, or cannot have one of the values."
    )
    return build


if_node = _factory("IFNode", IFNode)
lif_node = _factory("LIFNode", LIFNode)
plif_node = _factory("ParametricLIFNode")
ilif_node = _factory("ILIFNode")
izhikevich_node = _factory("IzhikevichNode")
