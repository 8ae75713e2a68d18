"""Spikes of a forward pass: which tensors they are, and what the neurons that sent them did."""

from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based.layer import SpikeCountToBinary
from torch import Tensor, nn

from ..firing import check_spikes, neuron_layers
from ..layers import StatelessNode
from ..layers.merged_time import MergedTimeNeuron


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
        neurons: what each neuron layer has done so far.
        senders: name -> levels and steps of what sends the spikes that layers read. These are the neuron layers; in the place
            of one whose mean over T steps is handed on (``StatelessNode``) stands that mean, with T times as many levels and
            a single step.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        layers = neuron_layers(model)
        # Layers that divide the spikes of a neuron inside, or give their mean: their own name, and the neuron's.
        self._dividers = {
            module: (name, inside)
            for name, module in model.named_modules()
            if isinstance(module, MergedTimeNeuron) or (isinstance(module, StatelessNode) and module.T is not None)
            for inside in [layer for layer in layers if layer.startswith(f"{name}." if name else "")][:1]
        }
        # Address of a neuron output's memory -> the output, what the number of spikes was divided by, and the sender.
        self._neuron_outputs: dict[int, tuple[Tensor, float, str | None]] = {}
        self._handles: list[Any] = []
        self._calls: dict[str, int] = {}
        # The same for products of spikes, whose values are whole numbers, but no spikes.
        self._products: dict[int, Tensor] = {}
        self.weights = {w.untyped_storage().data_ptr(): w for w in (*model.parameters(), *model.buffers())}
        self.neurons: dict[str, NeuronOperations] = {}
        self.senders: dict[str, NeuronOperations] = {}

    def __enter__(self) -> "Spikes":
        for name, (module, levels, norm) in neuron_layers(self._model).items():

            def remember(module, arguments, y, name=name, levels=levels, norm=norm):
                y = y if isinstance(y, Tensor) else y[0]
                # As long as the tensor is kept, no other one can get its address.
                self._neuron_outputs[y.untyped_storage().data_ptr()] = (y, norm, name)
                found = self.neurons.setdefault(name, NeuronOperations(levels=levels, **_state_of(module)))
                found.outputs += y.numel()
                check_spikes(name, y)
                found.spikes += round(float(y.sum(dtype=torch.float64)) * norm)
                found.steps = max(found.steps, self._steps(name, module, y))
                self.senders[name] = found

            self._handles.append(module.register_forward_hook(remember))
        for module in self._model.modules():
            if isinstance(module, SpikeCountToBinary):  # in a spike-driven layer, behind an integer neuron

                def expanded(module, arguments, y):
                    self._neuron_outputs[y.untyped_storage().data_ptr()] = (y, 1.0, None)

                self._handles.append(module.register_forward_hook(expanded))
        for divider, (name, inside) in self._dividers.items():

            def divided(module, arguments, y, name=name, inside=inside):
                address = y.untyped_storage().data_ptr()
                if isinstance(module, MergedTimeNeuron):
                    self._neuron_outputs[address] = (y, float(module.norm), inside)
                else:
                    self._neuron_outputs[address] = (y, float(module.T), name)
                    del self.senders[inside]
                    self.senders[name] = NeuronOperations(levels=module.T * self.neurons[inside].levels)

            self._handles.append(divider.register_forward_hook(divided))
        return self

    def _steps(self, name: str, module: Any, y: Tensor) -> int:
        """Time steps of this forward pass so far: the leading axis, or calls of a node that remembers the last one."""
        if getattr(module, "step_mode", "s") == "m" or y.ndim == 5:
            return y.shape[0]
        self._calls[name] = self._calls.get(name, 0) + 1
        return self._calls[name] if hasattr(module, "named_memories") else 1

    def __exit__(self, *error) -> None:
        for handle in self._handles:
            handle.remove()
        self._neuron_outputs.clear()
        self._products.clear()

    def start(self) -> None:
        """Begin a forward pass: nothing is a spike before the first neuron, even if an image has whole numbers."""
        self._neuron_outputs.clear()
        self._products.clear()
        self._calls.clear()

    def note_product(self, x: Tensor) -> None:
        """Remember a product of two activations, such as k^T v of an attention without a softmax, which is no spikes."""
        self._products[x.untyped_storage().data_ptr()] = x

    def is_weight(self, x: Tensor) -> bool:
        """Whether a tensor is a parameter or a buffer, or a view of one."""
        return x.untyped_storage().data_ptr() in self.weights

    def counts(self, x: Tensor) -> Tensor | None:
        """Number of spikes that each value of a tensor stands for; ``None`` for an analog tensor."""
        if not self._neuron_outputs or not x.is_floating_point() or self.is_weight(x) or x.min() < 0:
            return None
        if x.untyped_storage().data_ptr() in self._products:
            return None
        neuron_output = self._neuron_outputs.get(x.untyped_storage().data_ptr())
        sent = [neuron_output] if neuron_output else reversed(self._neuron_outputs.values())
        for norm in dict.fromkeys(norm for _, norm, _ in sent):  # what fired last is the most likely
            scaled = x.double() * norm
            counts = scaled.round()
            # Up to rounding: (k / 13) * 13 is no whole number for each k.
            if ((scaled - counts).abs() <= 2 * torch.finfo(x.dtype).eps * counts).all():
                return counts
        return None

    def source(self, x: Tensor) -> str | None:
        """Which of the ``senders`` gave a tensor, or what it is a view of; ``None`` if something was computed since."""
        neuron_output = self._neuron_outputs.get(x.untyped_storage().data_ptr())
        return neuron_output[2] if neuron_output else None


def _state_of(module: Any) -> dict[str, Any]:
    """What a neuron remembers and whether it decays; an integer neuron has the potential of its spike-driven form."""
    memories = dict(module.named_memories()) if hasattr(module, "named_memories") else {"v": 0.0}
    leaks = any(hasattr(module, name) for name in ("tau", "w", "decay"))
    return dict(states=sum(value is not None for value in memories.values()), leaks=leaks)
