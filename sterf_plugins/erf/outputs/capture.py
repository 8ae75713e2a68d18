"""One forward pass that keeps the outputs of some layers."""

import copy
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.autograd.graph import Node

from ...firing import FiringRates, spikes_of
from ...undisturbed import hooked, random_states
from ..inputs.sizer import out_of_memory
from .geometry import Grid
from .graph import nodes_behind
from .layouts import Layout
from .windows import Windows


@dataclass
class Target:
    """A layer whose fields are computed, and what is known about its output's layout (see ``layouts.to_map``)."""

    name: str
    module: nn.Module
    windows: Windows | None = None
    grid: Grid | None = None
    layout: Layout = None


@dataclass
class Output:
    """What a layer gave in one forward pass.

    Attributes:
        target: the layer.
        calls: its outputs in the order of its calls, with their graph if they have one. They are copies, so that no later in-place
            operation of the model reaches them.
        spikes: names of the spike layers that had run by the first call; of a layer that gives several outputs, those of them
            that lead to this one.
    """

    target: Target
    calls: list[Tensor] = field(default_factory=list)
    spikes: list[str] = field(default_factory=list)


@dataclass
class Seen:
    """What the first forward pass of a computation showed.

    Attributes:
        calls: layer -> how often the model calls it in a forward pass.
        shapes: module -> shape of its first output, for all modules that give one tensor.
        cut: modules up to the last target that the model runs with ``no_grad`` on what depends on the input, but none inside
            of others.
        autocast: modules up to the last target that the model runs with ``autocast``, but none inside of others.
        queries: numbers of tokens that the model begins with whatever the input is, such as the queries of a decoder.
        drawn: whether the model has drawn random numbers, in this pass or a later one.
        separate: whether it has been seen that no input of a pass changes what another one gives.
    """

    calls: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, Size] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)
    autocast: list[str] = field(default_factory=list)
    queries: set[int] = field(default_factory=set)
    drawn: bool = False
    separate: bool = False


class _Finished(Exception):
    """All targets have been computed; the rest of the forward pass is not needed."""


def capture(
    model: nn.Module,
    forward: Callable[[Any], Any],
    x: Any,
    targets: list[Target],
    seen: Seen,
    loops: bool,
    rates: FiringRates | None = None,
) -> tuple[dict[str, Output], dict[str, str]]:
    """Run the model and keep the outputs of the targets, in order of execution.

    The first pass goes to the end of the model, without a graph behind the last target, to see how often each target
    is called; if one is called again there, the pass is repeated with a graph. Later passes stop after the last call.

    Args:
        model: the module that contains the targets.
        forward: the function to call with the inputs: the model, or a part of it.
        x: the inputs.
        targets: the layers.
        seen: what the first pass showed; empty in the first pass, which fills it.
        loops: whether layers may be called once for each time step, so that each call needs its graph.
        rates: what counts the spikes of this forward pass, if the model has spike layers and the pass is one for the field.

    Returns:
        The outputs by name, ``layer`` or ``layer[key]`` for each of several; and why others cannot be had, by layer.
    """
    before = copy.deepcopy(rates.layers) if not seen.calls and rates is not None else {}
    states = random_states()
    with rates or nullcontext():
        once = _Pass(targets, seen, loops, rates)
        once.run(model, forward, x)
        if once.first and any(len(o.calls) < seen.calls[o.target.name] for o in once.outputs.values()):
            if rates is not None:
                rates.layers.clear()
                rates.layers.update(before)
            once = _Pass(targets, seen, loops, rates)
            once.run(model, forward, x)
    seen.drawn |= random_states() != states
    if rates is not None:  # the first pass goes on behind the last target
        counted = {name for output in once.outputs.values() for name in output.spikes}
        for name in set(rates.layers) - counted:
            del rates.layers[name]
    return once.outputs, once.failed


class _Pass:
    """One forward pass: its hooks keep what the targets give, and count how often each is called.

    Attributes:
        outputs: the outputs by name.
        failed: why others cannot be had, by layer.
        calls: layer -> how often it was called so far.
    """

    def __init__(self, targets: list[Target], seen: Seen, loops: bool, rates: FiringRates | None):
        self.targets, self.seen, self.loops, self.rates = targets, seen, loops, rates
        self.first = not seen.calls
        self.outputs: dict[str, Output] = {}
        self.failed: dict[str, str] = {}
        self.calls = dict.fromkeys([target.name for target in targets], 0)
        self._nodes: dict[str, list[Node]] = {}  # where the outputs of each spike layer are in the graph
        self._broken: Exception | None = None  # the error that ended the pass
        self._counting = False  # whether calls are counted alone, without a graph

    def run(self, model: nn.Module, forward: Callable[[Any], Any], x: Any) -> None:
        """Run the model once, to its end in the first pass, and else up to the last call of a target."""
        neurons = self.rates.neurons if self.rates is not None else {}
        hooks = [(module, partial(self._mark, name)) for name, module in neurons.items()]
        hooks += [(target.module, partial(self._keep, target)) for target in self.targets]
        if self.first:
            hooks += [(module, partial(self._look, name)) for name, module in model.named_modules()]
        handles = [m.register_forward_hook(hook) for m, hook in hooks if not isinstance(m, torch.jit.ScriptModule)]
        try:
            with torch.enable_grad(), hooked(handles):
                forward(x)
        except _Finished:
            pass
        except Exception as error:
            reached = [count > 0 for name, count in self.calls.items() if self.first or name in self.seen.calls]
            if out_of_memory(error) or not (any(reached) if self.first else all(reached)):
                raise  # else it is an error behind some layers, which have their fields
            self._broken = error
        self.failed |= {target.name: why for target in self.targets if (why := self._never_called(target))}
        self.outputs = {name: o for name, o in self.outputs.items() if o.target.name not in self.failed}
        if self.first:
            self.seen.calls = {name: count for name, count in self.calls.items() if count}

    def _keep(self, target: Target, module: nn.Module, arguments: Any, result: Any) -> None:
        """After each call of a target: keep its outputs."""
        self.calls[target.name] += 1
        if self._counting:
            return
        try:
            self._add(target, module, result)
        except ValueError as error:
            self.failed[target.name] = str(error)
        if self.first and not self.loops and all(self.calls.values()):
            self._counting = True
            torch.set_grad_enabled(False)
        if not self.first and all(count >= self.seen.calls.get(name, 1) for name, count in self.calls.items()):
            raise _Finished

    def _add(self, target: Target, module: nn.Module, result: Any) -> None:
        tensors = _tensors(target.name, result)
        if not tensors:
            raise ValueError(f"layer {target.name!r} gives no floating-point tensor.")
        have_run = list(self.rates.layers) if self.rates is not None else []
        for name, y in tensors:
            if name not in self.outputs:
                spikes = have_run if len(tensors) == 1 else _leading_to(y, self._nodes)
                self.outputs[name] = Output(target, spikes=spikes)
            self.outputs[name].calls.append(_checked(name, y, module).clone())

    def _look(self, name: str, module: nn.Module, arguments: Any, result: Any) -> None:
        """After each call of any module in the first pass: its shape, and what is known of its graph."""
        if isinstance(result, Tensor):
            self.seen.shapes.setdefault(name, result.shape)
        if self._counting:
            return
        tensors = [x for x in arguments if isinstance(x, Tensor)]
        if any(torch.is_autocast_enabled(x.device.type) for x in tensors):
            _enter(self.seen.autocast, name)
        if not torch.is_grad_enabled():
            if any(x.requires_grad for x in tensors):
                _enter(self.seen.cut, name)
        elif _begins(module, result):
            self.seen.queries |= set(result.shape[:2])

    def _mark(self, name: str, module: nn.Module, arguments: Any, result: Any) -> None:
        """After each call of a spike layer: where its output is in the graph."""
        node = spikes_of(result).grad_fn
        if node is not None:
            self._nodes.setdefault(name, []).append(node)

    def _never_called(self, target: Target) -> str:
        """Why a target was never called; an empty text if it was."""
        name, module = target.name, target.module
        if isinstance(module, torch.jit.ScriptModule):
            return f"layer {name!r} is a TorchScript module, into which nobody can look; use the model that it was made of."
        if self.calls[name]:
            return ""
        if self._broken is not None:
            return f"layer {name!r}: before it, {self._broken}"
        entries = [f"{name}.{key}" for key, _ in module.named_children()]
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)) and entries:
            return (
                f"{name} is a list of modules, which is never called itself; name its entries, such as {entries[-1]}."
            )
        inside = next((inner for inner in self.seen.shapes if inner.startswith(f"{name}.")), None)
        if inside is not None:
            return (
                f"{name} runs without being called, as by `{name.rpartition('.')[2]}.forward(x)`, so that nobody sees what it "
                f"gives; name layers in it, such as {inside}."
            )
        return f"the forward pass never reached {name}; name layers that it runs."


def _enter(modules: list[str], name: str) -> None:
    """Enter a module in a list of names, in place of the modules inside of it."""
    modules[:] = [inner for inner in modules if not inner.startswith(f"{name}.")] + [name]


def _begins(module: nn.Module, result: Any) -> bool:
    """Whether a layer of a transformer gives tokens, (B, N, C) or (N, B, C), that do not depend on the input."""
    layers = (nn.Linear, nn.LayerNorm)
    return isinstance(module, layers) and isinstance(result, Tensor) and result.ndim == 3 and not result.requires_grad


def _leading_to(y: Tensor, nodes: dict[str, list[Node]]) -> list[str]:
    """The names of those nodes that the graph of a tensor holds."""
    behind = set(nodes_behind([y]))
    return [name for name, own in nodes.items() if not behind.isdisjoint(own)]


def _tensors(name: str, result: Any) -> list[tuple[str, Tensor]]:
    """The floating-point tensors in a module's output: ``name``, or ``name[key]`` for each of several."""
    if isinstance(result, Tensor):
        return [(name, result)]
    if isinstance(result, nn.utils.rnn.PackedSequence):
        raise ValueError(
            f"layer {name!r} gives a packed sequence, which has no places; name a layer before or after it."
        )
    if is_dataclass(result):
        result = vars(result)
    if isinstance(result, dict):
        items: Iterable[tuple[Any, Any]] = list(result.items())
    elif isinstance(result, (list, tuple)):
        items = list(enumerate(result))
    else:
        raise ValueError(
            f"layer {name!r} gives a {type(result).__name__}; tensors, tuples, dicts and dataclasses are understood."
        )
    tensors = []
    for key, value in items:
        if isinstance(value, Tensor) and value.is_floating_point():
            tensors.append((f"{name}[{key}]", value))
        elif isinstance(value, (dict, list, tuple)) or is_dataclass(value):
            tensors.extend(_tensors(f"{name}[{key}]", value))
    return tensors


def _checked(name: str, y: Tensor, module: nn.Module) -> Tensor:
    """The output; ``ValueError`` with the reason if gradients cannot start from it."""
    if y.is_quantized or type(module).__module__.startswith("torch.ao.nn.quantized"):
        raise ValueError(f"layer {name!r} is quantised, and its integers have no gradients; use the model before that.")
    if y.is_nested or y.layout != torch.strided:
        raise ValueError(f"layer {name!r} gives a nested or sparse tensor, which has no places; name another layer.")
    if not y.is_floating_point():
        raise ValueError(f"layer {name!r} gives {y.dtype}; gradients need a floating-point output.")
    if y.is_inference():
        raise ValueError(
            f"layer {name!r} is computed in inference mode, which keeps no graph; leave `torch.inference_mode` out of "
            f"the model's forward pass."
        )
    return y


def detached(name: str) -> str:
    """Why a layer has no field whose output has no graph."""
    return (
        f"layer {name!r}: its output does not depend on the input by gradients. Likely causes: a `no_grad` or `detach` "
        f"inside the model, weights that are quantised, or a layer that does not see the image."
    )
