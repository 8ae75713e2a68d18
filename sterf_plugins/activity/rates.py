"""Firing rates of neuron layers, counted by forward hooks."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import IntegerSpike


@dataclass
class LayerRate:
    """What a neuron layer did over all forward passes so far.

    Attributes:
        levels: D, the most spikes that a neuron can send at once.
        histogram: (D + 1,) number of outputs of each count 0..D.
        fired: (C,) whether each channel ever fired.
    """

    levels: int
    histogram: np.ndarray
    fired: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def rate(self) -> float:
        """Firing rate in [0, 1]: mean number of spikes per output, divided by D."""
        total = self.histogram.sum()
        return float(self.histogram @ np.arange(len(self.histogram)) / total / self.levels) if total else 0.0

    @property
    def nonzero(self) -> float:
        """Share of outputs with at least one spike."""
        total = self.histogram.sum()
        return float(self.histogram[1:].sum() / total) if total else 0.0

    @property
    def dead(self) -> float:
        """Share of channels that never fired."""
        return float(1 - self.fired.mean()) if self.fired.size else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The numbers by name, as JSON can hold them."""
        return dict(
            levels=self.levels, rate=self.rate, nonzero=self.nonzero, dead=self.dead, histogram=self.histogram.tolist()
        )


def neuron_layers(model: nn.Module) -> dict[str, tuple[nn.Module, int, float]]:
    """Neuron layers by name: the module, its levels D, and what the number of spikes is divided by in its outputs.

    These are the layers ``IntegerSpike`` and SpikingJelly's nodes. The latter are recognised by their threshold and
    state, and have one level unless their surrogate has a ``max_spike_count``.
    """
    layers: dict[str, tuple[nn.Module, int, float]] = {}
    for name, module in model.named_modules():
        if isinstance(module, IntegerSpike):
            layers[name] = (module, module.levels, float(module.norm))
        elif hasattr(module, "v_threshold") and hasattr(module, "named_memories"):
            surrogate = getattr(module, "surrogate_function", None)
            layers[name] = (module, int(getattr(surrogate, "max_spike_count", 1) or 1), 1.0)
    return layers


class FiringRates:
    """Context manager: counts the spikes of every neuron layer in the forward passes inside.

        with FiringRates(model) as rates:
            model(images)
        rates.layers["stages.0.blocks.0.mixer.spike1"].rate

    Channels are axis 1, or axis 2 behind a leading time axis (in outputs of SpikingJelly's multi-step nodes, and in
    those with five axes).

    Args:
        model: a module with at least one neuron layer.

    Attributes:
        layers: name of the neuron layer -> ``LayerRate``; empty before the first forward pass.

    Raises:
        ValueError: the model has no neuron layer.
    """

    def __init__(self, model: nn.Module):
        self._neurons = neuron_layers(model)
        if not self._neurons:
            raise ValueError(
                f"{type(model).__name__} has no spiking neuron layer (IntegerSpike or a SpikingJelly node) to count."
            )
        self.layers: dict[str, LayerRate] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> "FiringRates":
        for name, (module, levels, norm) in self._neurons.items():
            self._handles.append(module.register_forward_hook(self._counter(name, levels, norm)))
        return self

    def _counter(self, name: str, levels: int, norm: float):
        def count(module: nn.Module, arguments: Any, output: Any) -> None:
            y = output if isinstance(output, Tensor) else output[0]
            spikes = (y.detach().float() * norm).round().long().clamp_(0, levels)
            layer = self.layers.setdefault(name, LayerRate(levels, np.zeros(levels + 1, np.int64)))
            layer.histogram += torch.bincount(spikes.flatten(), minlength=levels + 1).cpu().numpy()
            timed = getattr(module, "step_mode", "s") == "m" or spikes.ndim == 5
            axis = min(2 if timed else 1, spikes.ndim - 1)
            others = [i for i in range(spikes.ndim) if i != axis]
            fired = (spikes.sum(others) > 0).cpu().numpy()
            layer.fired = layer.fired | fired if layer.fired.shape == fired.shape else fired

        return count

    def __exit__(self, *error) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def rate(self) -> float:
        """Firing rate of the model: mean, over all outputs of all layers, of the number of spikes divided by D."""
        outputs = sum(int(r.histogram.sum()) for r in self.layers.values())
        return sum(r.rate * int(r.histogram.sum()) for r in self.layers.values()) / max(1, outputs)

    @property
    def dead(self) -> float:
        """Share of channels of all layers that never fired."""
        channels = sum(r.fired.size for r in self.layers.values())
        return sum(r.dead * r.fired.size for r in self.layers.values()) / max(1, channels)
