"""Spikes of a forward pass: which tensors they are, and what the neurons that sent them did."""

from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based.layer import SpikeCountToBinary
from torch import Tensor, nn

from ..firing import check_spikes, input_of, neuron_layers, runs_all_steps, spikes_of
from ..layers import StatelessNode
from .origins import Origin, Origins


@dataclass
class NeuronOperations:
    """What the neurons of one layer did, summed over all inputs.

    Attributes:
        outputs: values that left, in all time steps.
        spikes: spikes that left.
        levels: D, the most spikes in one value.
        steps: T, the time steps that the neurons run for.
        states: numbers that a neuron remembers, such as its membrane potential.
        leaks: whether the potential decays, which takes a multiplication.
    """

    outputs: int = 0
    spikes: int = 0
    levels: int = 1
    steps: int = 1
    states: int = 1
    leaks: bool = False


class Spikes:
    """Context manager that tells which tensors of a forward pass are spikes, and how many each value stands for.

    Attributes:
        origins: what is known of each tensor; it has to see all operators of the forward pass.
        neurons: what each neuron layer has done so far.
        senders: name -> levels and steps of what sends the spikes that layers read. These are the neuron layers; in the place
            of one whose mean over T steps is handed on (``StatelessNode``) stands that mean, with T times as many levels and
            a single step. An input with time steps is one of them.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        layers = neuron_layers(model)
        # Layers that give the mean of the spikes of a neuron inside over its steps: their own name, and the neuron's.
        self._means = {
            module: (name, inside)
            for name, module in model.named_modules()
            if isinstance(module, StatelessNode) and module.T is not None
            for inside in [layer for layer in layers if layer.startswith(f"{name}." if name else "")][:1]
        }
        self._handles: list[Any] = []
        self._calls: dict[str, int] = {}
        self._number = 1
        self.origins = Origins(model)
        self.neurons: dict[str, NeuronOperations] = {}
        self.senders: dict[str, NeuronOperations] = {}

    def __enter__(self) -> "Spikes":
        for name, (module, levels, norm) in neuron_layers(self._model).items():

            def remember(module, arguments, options, output, name=name, levels=levels, norm=norm):
                x, y = input_of(arguments, options), spikes_of(output)
                found = self.neurons.setdefault(name, NeuronOperations(levels=levels, **_state_of(module, output)))
                found.outputs += y.numel()
                check_spikes(name, y, x)
                found.spikes += int((y.double() * norm).round().sum())
                found.steps = max(found.steps, self._steps_of_neuron(name, module, x, y))
                self.senders[name] = found
                self.origins.note(y, Origin(norm, frozenset([name]), binary=levels == 1))

            self._handles.append(module.register_forward_hook(remember, with_kwargs=True))
        for name, module in self._model.named_modules():
            if isinstance(module, SpikeCountToBinary):  # in a spike-driven layer, behind an integer neuron

                def expanded(module, arguments, y, name=name):
                    counts = self.origins.of(arguments[0])
                    steps = max((self.senders[s].steps for s in counts.senders), default=1) if counts else 1
                    self.senders[name] = NeuronOperations(steps=steps * module.num_slots)
                    self.origins.note(y, Origin(1.0, frozenset([name]), binary=True))

                self._handles.append(module.register_forward_hook(expanded))
        for mean, (name, inside) in self._means.items():

            def averaged(module, arguments, y, name=name, inside=inside):
                self.origins.note(y, Origin(float(module.T), frozenset([name])))
                del self.senders[inside]
                self.senders[name] = NeuronOperations(levels=module.T * self.neurons[inside].levels)

            self._handles.append(mean.register_forward_hook(averaged))
        return self

    def _steps_of_neuron(self, name: str, module: Any, x: Tensor | None, y: Tensor) -> int:
        """Time steps of this forward pass so far: the leading axis, or calls of a node that remembers the last one."""
        if runs_all_steps(module) or (y.ndim == 5 and y.shape[1] == self._number):
            return y.shape[0]
        if getattr(module, "is_spiking", False) and x is not None:
            origin = self.origins.of(x)
            return self.steps(self.leading(x), origin and origin.senders)
        self._calls[name] = self._calls.get(name, 0) + 1
        return self._calls[name]

    def leading(self, x: Tensor, merged: bool = False) -> frozenset[int]:
        """How many time steps the leading axes of an operand may hold: (T, B, ...) unless they are ``merged``, or (T*B, ...)."""
        shape = x.shape if merged else self.origins.shape(x)
        lengths = {shape[0] // self._number} if len(shape) and shape[0] % self._number == 0 else set()
        if not merged and len(shape) > 2 and shape[1] == self._number:
            lengths.add(shape[0])
        return frozenset(lengths)

    def steps(self, leading: frozenset[int], senders: frozenset[str] | None, calls: int = 1) -> int:
        """The time steps T of what reads an operand: one of those of the neurons behind it, or of all where none is known.

        It is T if the leading axes can hold T steps, or if these hold one and a forward pass has T calls. Where they tell
        nothing, as those of windows, the neurons do.
        """
        steps = {n.steps for name, n in self.senders.items() if senders is None or name in senders} - {1}
        if 1 in leading and not steps & leading:
            steps = {T for T in steps if calls % T == 0}
        elif senders is None or steps & leading:
            steps &= leading
        return max(steps, default=1)

    def __exit__(self, *error) -> None:
        for handle in self._handles:
            handle.remove()

    def start(self, batch: Tensor, number: int) -> None:
        """Begin a forward pass of so many inputs: nothing is a spike before the first neuron, even if it is a whole number."""
        self.origins.start()
        self._calls.clear()
        self._number = number
        if batch.ndim == 5:  # the input has time steps as a neuron's spikes have
            self.senders["(input)"] = NeuronOperations(steps=batch.shape[0])
            self.origins.note(batch, Origin(None, frozenset(["(input)"])))

    def counts(self, x: Tensor) -> Tensor | None:
        """Number of spikes that each value of a tensor stands for; ``None`` for an analog tensor or a weight."""
        origin = self.origins.of(x)
        if origin is None or origin.norm is None or not x.is_floating_point() or self.origins.is_weight(x):
            return None
        scaled = x.double() * origin.norm
        counts = scaled.round()
        # Up to rounding: (k / 13) * 13 is no whole number for each k. A difference of spikes, or what a neuron has that sends
        # other numbers, is no spikes.
        are_whole = (scaled - counts).abs() <= 2 * torch.finfo(x.dtype).eps * counts
        return counts if bool(are_whole.all()) else None


def _state_of(module: Any, output: Any) -> dict[str, Any]:
    """What a neuron remembers and whether it decays; an integer neuron has the potential of its spike-driven form.

    snnTorch's keep their state in buffers of the spikes' shape and have a ``beta``, norse's return it and have parameters ``p``.
    """
    if hasattr(module, "named_memories"):
        states = sum(value is not None for value in dict(module.named_memories()).values())
    elif hasattr(module, "p"):
        states = sum(isinstance(value, Tensor) for value in output[1])
    else:
        states = sum(b.shape == spikes_of(output).shape for b in module.buffers(recurse=False)) or 1
    return dict(states=states, leaks=any(hasattr(module, name) for name in ("tau", "w", "decay", "beta", "p")))
