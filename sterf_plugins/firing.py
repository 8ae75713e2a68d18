"""Firing rates of neuron layers, counted by forward hooks."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .checks import check_module
from .undisturbed import in_backward_pass, uncompiled

# Share of a layer's channels, or of its outputs, from which on the layer is called silent or saturated.
NEARLY_ALL = 0.99


@dataclass
class LayerRate:
    """What a neuron layer did over all forward passes so far.

    Attributes:
        levels: D, the most spikes that a neuron can send at once.
        histogram: (D + 1,) number of outputs of each count 0..D.
        fired: (C,) whether each channel ever fired; where a layer has run at several widths, C is the largest.
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

    @property
    def silent(self) -> bool:
        """Whether at least 99 % of the channels never fired: what follows gets a constant."""
        return self.dead >= NEARLY_ALL

    @property
    def saturated(self) -> bool:
        """Whether at least 99 % of the outputs are D: what follows gets a constant, too."""
        total = self.histogram.sum()
        return bool(total and self.histogram[-1] / total >= NEARLY_ALL)

    def merge(self, other: "LayerRate") -> None:
        """Add what the same layer did in other forward passes.

        Raises:
            ValueError: it had another number of levels in them.
        """
        if self.levels != other.levels:
            raise ValueError(
                f"a spike layer has up to {self.levels} spikes in one forward pass and up to {other.levels} in another, as in "
                f"training and evaluation; count these apart."
            )
        self.histogram = self.histogram + other.histogram
        fired = np.zeros(max(self.fired.size, other.fired.size), bool)
        fired[: self.fired.size] |= self.fired
        fired[: other.fired.size] |= other.fired
        self.fired = fired

    def as_dict(self) -> dict[str, Any]:
        """The numbers by name, as JSON can hold them."""
        names = ("levels", "rate", "nonzero", "dead", "silent", "saturated")
        return {name: getattr(self, name) for name in names} | dict(histogram=self.histogram.tolist())


def silence(layers: Mapping[str, LayerRate]) -> str | None:
    """One line about spike layers that let nothing through, with their names, their share and what helps.

    Args:
        layers: name -> what the layer did, as in ``FiringRates.layers``.

    Returns:
        The line; ``None`` if all layers do their work.
    """
    silent = [name for name, layer in layers.items() if layer.silent]
    saturated = [name for name, layer in layers.items() if layer.saturated]
    parts = []
    if silent:
        parts.append(
            f"{len(silent)} of {len(layers)} spike layers are silent, so that what follows them is constant: "
            f"{listed(silent)}. A BatchNorm in front wakes them (MLPixer and SRB: norm_hidden=True); if there is one, "
            f"its statistics may not fit the weights (random weights: sterf_plugins.erf.calibrate)."
        )
    if saturated:
        parts.append(
            f"{len(saturated)} of {len(layers)} spike layers are saturated, nearly all their outputs are D: "
            f"{listed(saturated)}. A BatchNorm in front, or a lower learning rate, brings them back."
        )
    return " ".join(parts) or None


def listed(names: list[str]) -> str:
    """The first four names, and how many there are beyond them."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def neuron_layers(model: nn.Module) -> dict[str, tuple[nn.Module, int, float]]:
    """Neuron layers by name: the module, its levels D, and what the number of spikes is divided by in its outputs.

    These are modules with ``is_spiking = True``, as ``IntegerSpike`` is, which have the attributes ``levels`` (D),
    ``norm`` (what the number of spikes is divided by), and ``levels_now`` if D depends on the mode; SpikingJelly's nodes,
    which are recognised by their threshold and state, and have one level unless their surrogate has a ``max_spike_count``;
    and the neurons of snnTorch, recognised by the factor of their spikes, and of norse, by the threshold among their
    parameters, with one level. ``spikes_of`` finds the spikes in what any of them returns.

    Raises:
        TypeError: ``model`` is no module.
    """
    check_module("model", model)
    layers: dict[str, tuple[nn.Module, int, float]] = {}
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod"):  # has all attributes of the module inside, which is the neuron
            continue
        if getattr(module, "is_spiking", False) is True:
            layers[name] = (module, getattr(module, "levels_now", module.levels), float(module.norm))
        elif hasattr(module, "v_threshold") and hasattr(module, "named_memories"):
            surrogate = getattr(module, "surrogate_function", None)
            layers[name] = (module, int(getattr(surrogate, "max_spike_count", 1) or 1), 1.0)
        elif hasattr(module, "graded_spikes_factor") and (
            hasattr(module, "reset_mem")
            or getattr(module, "output", True)  # others of snnTorch's give membrane potentials
        ):
            layers[name] = (module, 1, float(1 / module.graded_spikes_factor.detach().min()))
        elif _of_norse(module):
            layers[name] = (module, 1, 1.0)
    return layers


def check_spiking(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model's neuron layers by name; ``ValueError`` if it has none, of which any count would be empty."""
    neurons = {name: module for name, (module, *_) in neuron_layers(model).items()}
    if not neurons:
        raise ValueError(
            f"{type(model).__name__} has no spiking neuron layer to count: IntegerSpike, or a neuron of SpikingJelly, snnTorch "
            f"or norse."
        )
    return neurons


def _of_norse(module: nn.Module) -> bool:
    """Whether a module has norse's parameters ``p``, a tuple that has a threshold or holds the parameters that have one."""
    p: Any = getattr(module, "p", None)
    return isinstance(p, tuple) and any(hasattr(part, "v_th") or hasattr(part, "v_thresh") for part in (p, *p))


def spikes_of(output: Any) -> Tensor:
    """The spikes in what a neuron layer returns, which are the first entry where it returns its state, too."""
    return output if isinstance(output, Tensor) else output[0]


def has_time_axis(module: nn.Module, y: Tensor) -> bool:
    """Whether the leading axis of a neuron layer's spikes is time: of a layer that runs all steps, or of five axes."""
    return runs_all_steps(module) or y.ndim == 5


def runs_all_steps(module: nn.Module) -> bool:
    """Whether a neuron layer takes (T, B, ...): SpikingJelly's in multi-step mode, and norse's, but for its cells."""
    return getattr(module, "step_mode", "s") == "m" or (_of_norse(module) and hasattr(module, "record_states"))


def input_of(arguments: tuple, options: Mapping[str, Any]) -> Tensor | None:
    """What a neuron layer was called on, by position or by name; ``None`` if it was no tensor."""
    return next((x for x in (*arguments, *options.values()) if isinstance(x, Tensor)), None)


def check_spikes(name: str, y: Tensor, x: Tensor | None) -> None:
    """Raise ``ValueError`` if there is NaN among the outputs or the inputs of a neuron layer, which would count as no spike.

    Args:
        name: name of the layer.
        y: its outputs.
        x: its input. A neuron that compares its potential with a threshold makes no spike, and no NaN, of NaN.
    """
    if not y.numel():
        return
    verb = "give" if not math.isfinite(y.amax()) else ""
    if not verb and x is not None and x.numel() and math.isnan(x.detach().amax()):
        verb = "get"
    if verb:
        raise ValueError(f"the neurons of layer {name!r} {verb} NaN: the weights have diverged, or the input has NaN.")


def _count_above(y: Tensor, threshold: float) -> int:
    """How many entries are above a threshold; on a CPU numpy compares and counts about seven times as fast as PyTorch."""
    if y.device.type != "cpu":
        return int((y > threshold).sum())
    values = y.float() if y.dtype is torch.bfloat16 else y  # numpy has no such numbers
    return int(np.count_nonzero(values.numpy() > threshold))


class FiringRates:
    """Context manager: counts the spikes of every neuron layer in the forward passes inside.

        with FiringRates(model) as rates:
            model(images)
        rates.layers["stages.0.blocks.0.mixer.spike1"].rate

    Channels are axis 1, or axis 2 behind a leading time axis (in outputs of SpikingJelly's multi-step nodes and of norse's
    layers that are no cells, and in those with five axes); of tokens (B, N, C) they are the last axis. In tokens with time
    steps (T, B, N, C) axis 2 cannot be told from channels, and counts as them. What ``torch.compile`` has compiled runs as it was
    written meanwhile, since compiled code calls no hooks. What recomputation runs again in a backward pass counts once.

    Args:
        model: a module with at least one neuron layer.
        layers: counts of earlier forward passes to go on from, as in the attribute; none by default.

    Attributes:
        neurons: name of the neuron layer -> the module.
        layers: name of the neuron layer -> ``LayerRate``, in the order of their first execution.

    Raises:
        ValueError: the model has no neuron layer; in a forward pass, if neurons give NaN, or have other levels than before;
            ``rate`` and ``dead``, if no neuron layer has run.
    """

    def __init__(self, model: nn.Module, layers: dict[str, LayerRate] | None = None):
        self._model = model
        self.neurons = check_spiking(model)
        self.layers: dict[str, LayerRate] = {} if layers is None else layers
        self._counting = ExitStack()

    def __enter__(self) -> "FiringRates":
        self._counting.enter_context(uncompiled())
        for name, (module, levels, norm) in neuron_layers(self._model).items():
            self._counting.callback(
                module.register_forward_hook(self._counter(name, levels, norm), with_kwargs=True).remove
            )
        return self

    def _counter(self, name: str, levels: int, norm: float):
        def count(module: nn.Module, arguments: Any, options: Any, output: Any) -> None:
            y = spikes_of(output).detach()
            if in_backward_pass() or not y.numel():  # as behind a detector's second stage that has no proposals
                return
            levels_now = getattr(module, "levels_now", levels)
            axis = min(2 if has_time_axis(module, y) or y.ndim == 3 else 1, y.ndim - 1)
            others = [i for i in range(y.ndim) if i != axis]
            highest = y.amax(others)
            check_spikes(name, highest, input_of(arguments, options))
            at_least = [y.numel(), *[0] * (levels_now + 1)]  # how many outputs are at least k spikes, for k = 0..D + 1
            for k in range(1, levels_now + 1):
                at_least[k] = _count_above(y, (k - 0.5) / norm)
                if not at_least[k]:
                    break
            found = LayerRate(levels_now, -np.diff(at_least), (highest > 0.5 / norm).cpu().numpy())
            if name in self.layers:
                self.layers[name].merge(found)
            else:
                self.layers[name] = found

        return count

    def __exit__(self, *error) -> None:
        self._counting.close()

    @property
    def not_run(self) -> str:
        """Names of the spike layers that no forward pass has reached, as the end of a line; empty if there are none."""
        names = [name for name in self.neurons if name not in self.layers]
        return f"; not run: {listed(names)}" if names else ""

    @property
    def rate(self) -> float:
        """Firing rate of the model: mean, over all outputs of all layers, of the number of spikes divided by D."""
        return self._mean([(r.rate, int(r.histogram.sum())) for r in self.layers.values()])

    @property
    def dead(self) -> float:
        """Share of channels of all layers that never fired."""
        return self._mean([(r.dead, r.fired.size) for r in self.layers.values()])

    def _mean(self, weighted: list[tuple[float, int]]) -> float:
        if not weighted:
            raise ValueError(
                f"none of the {len(self.neurons)} spike layers of {type(self._model).__name__} has run; run the model inside of "
                f"the `with` block, on at least one input."
            )
        return sum(value * weight for value, weight in weighted) / sum(weight for _, weight in weighted)
