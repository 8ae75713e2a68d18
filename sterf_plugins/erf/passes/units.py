"""The values of the units that ``compute_erf`` differentiates, as often as wanted, from a model that is left as it was."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...firing import FiringRates, neuron_layers
from ...undisturbed import hooked, preserved_random_state
from ..calibrate import calibrated
from ..inputs.batches import Batch
from ..outputs.capture import Target
from ..outputs.geometry import Geometry, possible_strides, prefix_tokens
from ..outputs.selection import channel_vectors
from ..outputs.targets import match_layers
from .fields import fields_of
from .preparation import (
    check_size,
    check_weights,
    device_of,
    dtype_of,
    forward_of,
    guarded,
    inner_steps,
    prepared,
)
from .single import mixes_inputs
from .starts import Passes, Settings, starts_of


@dataclass
class Units(Passes):
    """The forward passes of a model, and the units of its layers; see ``ready``."""

    failed: dict[str, str] = field(default_factory=dict)

    def place(self, inputs: Batch) -> Batch:
        """Inputs on the model's device, in its precision."""
        has_weights = next(self.model.parameters(), None) is not None
        return inputs.to(device_of(self.model), dtype_of(self.model) if has_weights else None)

    def values(self, inputs: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the model once.

        Returns:
            What the units can be differentiated by, (B, C, H, W) or (T, B, C, H, W); and by layer the units (J, B) of J
            places and vectors of channels. The field of a layer is the sum of the absolute gradients of its J units.
        """
        count = len(inputs)
        if not self.known:
            self._look(inputs)
        # With several inputs no axis of length 1 can be taken for the batch, and a BatchNorm's backward pass is right; nor can
        # that of time be taken for it. In norms without statistics copies of an input would see each other.
        if count in (1, self.geometry.steps) and not mixes_inputs(self.model):
            inputs = Batch.joined([inputs] * (3 if self.geometry.steps == 2 else 2))
        leaves, starts, failed = starts_of(self, inputs)
        self.failed = failed | self.failed
        units = {}
        for name in [name for name in starts if name in self.known]:
            start = starts[name]
            (protocol,) = self.settings.protocols.values()
            outputs = [start.places[place] for place in protocol.places(self.settings.places, start.facts.tokens)]
            channels = start.channels(protocol)
            if channels == "relu":
                outputs, channels = [y.relu() for y in outputs], "sum"
            generator = torch.Generator().manual_seed(self.settings.seed)
            vectors, factor = channel_vectors(channels, outputs[0], generator)
            # A sum of float32 would round away small changes of many large channels.
            values = torch.cat([(y.mean(0).double() @ vectors.double().T).T for y in outputs])
            units[name] = values[:, :count] * (factor / len(outputs))
        return next(iter(leaves.values())), units

    def _look(self, inputs: Batch) -> None:
        """Find out what is known of the outputs, and which have a field, in passes of their own, which draw the same numbers.

        A model may change its state in place in each of them, and with it numbers that backward passes need.
        """
        with preserved_random_state():
            found = fields_of(self, inputs)
        self.known, self.failed = found.facts, found.failed | self.failed

    def gradients(self, inputs: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The units (J, B), and their gradients (J, B, C, H, W) or (J, T, B, C, H, W)."""
        x, units = self.values(inputs)
        found = {}
        for name, unit in units.items():
            rows = [torch.autograd.grad(u.sum(), x, retain_graph=True, allow_unused=True)[0] for u in unit]
            zero = torch.zeros_like(x)
            found[name] = torch.stack([zero if g is None else g for g in rows]).narrow(x.ndim - 3, 0, len(inputs))
        return {name: unit.detach() for name, unit in units.items()}, found

    def spike_layers(self, choice: str | Iterable[str] | None, sample: Batch) -> list[str]:
        """Names of spike layers: those that fit patterns; of "silent", those that let nothing of the sample through."""
        if choice is None:
            return []
        if choice != "silent":
            return match_layers(self.model, choice)
        if not neuron_layers(self.model):
            return []
        self.start_afresh()
        with torch.no_grad(), FiringRates(self.model) as rates:
            self.forward(self.place(sample).for_model({})[0])
        return [name for name, rate in rates.layers.items() if rate.silent or rate.saturated]


@contextmanager
def ready(
    model: nn.Module,
    targets: list[Target],
    settings: Settings,
    sample: Batch,
    norms: list[Any],
    forward: Callable[[nn.Module, Any], Any] | None,
    device: str | torch.device | None,
) -> Iterator[Units]:
    """Inside, a model runs without a trace; ``norms`` have the statistics of the first inputs, ``sample``.

    Args:
        model: any module.
        targets: the layers.
        settings: which units of them.
        sample: the first inputs.
        norms: BatchNorms that get their statistics.
        forward: the user's function that runs the model, if there is one.
        device: where to compute; the model's own device if ``None``.
    """
    check_weights(model)
    for size in sample.sizes:
        check_size(model, size)
    run = guarded(forward_of(model, [t.name for t in targets], forward, sample.form), sample)
    steps = sample.steps or inner_steps(model)
    geometry = Geometry(tuple(sample.sizes), 0, steps, possible_strides(model), prefix_tokens(model))
    with prepared(model, device) as (_, start_afresh):
        units = Units(model, run, targets, geometry, settings, start_afresh)
        with calibrated(norms, run, units.place(sample).for_model({})[0]):
            yield units


@contextmanager
def stopped(model: nn.Module, names: list[str]) -> Iterator[None]:
    """Inside, no gradient passes the outputs of these layers."""

    def stop(module: nn.Module, arguments: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return output.detach()
        if not isinstance(output, tuple) or not isinstance(output[0], Tensor):
            raise TypeError(f"`without` names {type(module).__name__}, which gives no tensor; name spike layers.")
        return output[0].detach(), *output[1:]  # of a neuron that returns its state, too

    modules = dict(model.named_modules())
    with hooked(modules[name].register_forward_hook(stop) for name in names):
        yield
