"""The result of an ERF computation: arrays by layer and their errors, derived numbers, files and pictures."""

import math
import os
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..firing import listed
from . import archive
from .doubts import channels_of, is_elsewhere, is_noise, is_unsettled
from .estimate import Estimate, group_sizes
from .flaws import flaw
from .lags import frame_numbers, temporal_numbers
from .metrics import area_ratio, spatial_numbers
from .number import PERIODS, Number, columns, effective, jackknife, possible, pseudo_values
from .protocols import note, protocol_of
from .selection import cell
from .summary import counted, summary

_FIELDS = (
    "spatial", "temporal", "spatiotemporal", "frames", "volume", "spatial_error", "temporal_error", "frames_error",
)  # fmt: skip


@dataclass(repr=False)
class ERFResult:
    """Effective receptive fields of some layers of one model.

    Attributes:
        layers: layer names, in order of execution.
        spatial: layer -> float32 (H, W), S-ERF: mean over inputs of the mean over input channels of the absolute (or
            otherwise reduced) gradient of the layer's channel sum at the target position.
        temporal: layer -> float32 (T,), T-ERF of the last output step, by lag 0..T-1, summed over all positions.
        spatiotemporal: layer -> float32 (T, T, H, W), ST-ERF by output step and lag; zero where lag > step.
        frames: layer -> float32 (D,), the field summed over each frame of a video or slice of a volume.
        volume: layer -> float32 (D, H, W), the field of a video or volume, of which ``spatial`` is the sum over frames.
        spatial_error, temporal_error, frames_error: standard errors over inputs, of the same shapes.
        info: how it was computed (number of inputs, input shape, position, reduce, ...), as JSON can hold it.
    """

    layers: list[str]
    spatial: dict[str, np.ndarray]
    info: dict[str, Any] = field(default_factory=dict)
    temporal: dict[str, np.ndarray] = field(default_factory=dict)
    spatiotemporal: dict[str, np.ndarray] = field(default_factory=dict)
    spatial_error: dict[str, np.ndarray] = field(default_factory=dict)
    temporal_error: dict[str, np.ndarray] = field(default_factory=dict)
    frames: dict[str, np.ndarray] = field(default_factory=dict)
    volume: dict[str, np.ndarray] = field(default_factory=dict)
    frames_error: dict[str, np.ndarray] = field(default_factory=dict)
    _numbers: dict[str, dict[str, Number]] = field(default_factory=dict)
    _estimates: dict[str, dict[str, Estimate]] = field(default_factory=dict)  # until the numbers are computed
    _pseudo: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # layer -> number -> one value per group

    @classmethod
    def from_estimates(cls, estimates: dict[str, dict[str, Estimate]], info: dict[str, Any]) -> "ERFResult":
        """Make a result of running estimates.

        Args:
            estimates: layer -> kind -> estimate.
            info: how they were computed; its entry ``normalize`` says what the arrays are divided by.

        Layers whose field is all zero or not finite are left out, and ``failed`` says why.

        Raises:
            ValueError: no layer is left; the message says why.
        """
        result = cls(list(estimates), {}, info)
        failed = info.setdefault("failed", {})
        for layer, kinds in estimates.items():
            values = {kind: estimate.value() for kind, estimate in kinds.items()}
            reason = next(filter(None, (flaw(layer, kind, value) for kind, value in values.items())), None)
            if reason is not None:
                failed[layer] = reason
                continue
            result._estimates[layer] = kinds
            for kind, estimate in kinds.items():
                value, error = values[kind], estimate.standard_error()
                scale = {None: 1.0, "max": np.abs(value).max(), "sum": np.abs(value).sum()}[info.get("normalize")]
                getattr(result, kind)[layer] = (value / scale).astype(np.float32)
                if error is not None:
                    getattr(result, f"{kind}_error")[layer] = (error / scale).astype(np.float32)
        result.layers = [layer for layer in estimates if layer not in failed]
        if not result.layers:
            raise ValueError(" ".join(list(dict.fromkeys(failed.values()))[:3]))
        return result

    @property
    def failed(self) -> dict[str, str]:
        """Layer -> why it has no field."""
        return self.info.get("failed", {})

    def _layer(self, layer: str, kind: str = "spatial") -> np.ndarray:
        """A layer's field of one kind; ``ValueError`` if there is none."""
        if layer not in self.layers:
            raise ValueError(f"no layer {layer!r} in this result; it has {', '.join(self.layers)}.")
        if layer not in getattr(self, kind):
            raise ValueError(f"this result has no {kind} field; compute it with kinds={kind!r}.")
        return getattr(self, kind)[layer]

    @property
    def warnings(self) -> list[str]:
        """One line for each layer that has no field, or a field that cannot be trusted.

        Behind spike layers that are silent or saturated the network passes nothing on from its input, and the field is
        that of the surrogate gradient alone. The gradient of a constant sum of channels is rounding noise.
        """
        lines = [f"{layer}: no field. {reason}" for layer, reason in self.failed.items()]
        if self.info.get("cut"):
            lines.append(
                f"{listed(self.info['cut'])}: run with `no_grad` inside the model; what leads through them is missing in the "
                f"fields of all later layers."
            )
        if self.info.get("autocast"):
            lines.append(
                f"{listed(self.info['autocast'])}: run with `autocast` inside the model; the fields of all later layers are "
                f"rounded to 16 bits on the way. Switch it off in the model for exact ones."
            )
        lines += [
            f"{layer}: the sum of its channels is constant, and this is the rounding noise of its gradient; use "
            f"channels='auto', 'per-channel' or a number of random projections."
            for layer in self.layers
            if is_noise(self, layer)
        ]
        lines += [
            f"{layer}: hardly any of its field lies around the target, as where rows and columns of an output are exchanged; if "
            f"they are, pass a function as `layout` that makes (B, C, h, w) of it."
            for layer in self.layers
            if is_elsewhere(self, layer)
        ]
        lines += [
            f"{layer}: gradients of either sign cancel, and half of this signed field or more is what so few inputs leave of their "
            f"noise; so are its numbers. Give more inputs, or reduce='abs'."
            for layer in self.layers
            if is_unsettled(self, layer)
        ]
        for layer in self.layers:
            silent, saturated = self._silent(layer), self._saturated(layer)
            if silent or saturated:
                total = len(self._spikes_before(layer))
                states = [f"{len(n)} silent ({listed(n)})" for n in [silent] if n]
                states += [f"{len(n)} saturated ({listed(n)})" for n in [saturated] if n]
                lines.append(
                    f"{layer}: of {total} spike layers on its way, {' and '.join(states)} for these inputs; what leads "
                    f"through them is the field of the surrogate gradient, not of the network."
                )
        return lines

    def doubtful(self, layer: str) -> bool:
        """Whether a layer is among those that ``warnings`` is about."""
        silent = self._silent(layer) or self._saturated(layer)
        return bool(silent) or is_noise(self, layer) or is_elsewhere(self, layer) or is_unsettled(self, layer)

    @property
    def notes(self) -> list[str]:
        """What a picture of this result has to say beside it: whose statistics BatchNorms had, and what a † means."""
        lines = []
        if self.info.get("weights") == "random":
            lines.append("random weights")
        calibrated = self.info.get("calibrated")
        if calibrated:
            initial = calibrated.get("initial")  # norms that see one value of each channel
            but = f", but for {initial} that see a single value" if initial else ""
            lines.append(f"BatchNorm statistics calibrated on {counted(calibrated['inputs'], 'input')}{but}")
        if self.info.get("cut"):
            lines.append(f"without what leads through {listed(self.info['cut'])}, run with no_grad inside the model")
        if self.info.get("autocast"):
            lines.append(f"rounded to 16 bits in {listed(self.info['autocast'])}, run with autocast inside the model")
        protocol = note(self.info)
        if protocol is not None:
            lines.append(protocol)
        constant = self.info.get("constant_sums", [])
        projected = [n for n in self.layers if n in constant and channels_of(self, n) == "auto"]
        if projected:
            lines.append(f"random projections of the channels, whose sum is constant, in {listed(projected)}")
        noise = [layer for layer in self.layers if is_noise(self, layer)]
        if noise:
            lines.append(f"† the sum of the channels is constant, and this is rounding noise, in {listed(noise)}")
        surrogates = [layer for layer in self.layers if self._silent(layer) or self._saturated(layer)]
        if surrogates:
            of = listed(surrogates)
            lines.append(
                f"† leads through silent or saturated spike layers, where it is the surrogate's field, in {of}"
            )
        unsettled = [layer for layer in self.layers if is_unsettled(self, layer)]
        if unsettled:
            lines.append(f"† half of the signed field or more is noise of so few inputs, in {listed(unsettled)}")
        beside = [layer for layer in self.layers if is_elsewhere(self, layer)]
        if beside:
            lines.append(f"† hardly any of the field lies around the target, in {listed(beside)}")
        return lines

    def published_map(self, layer: str) -> np.ndarray:
        """A layer's spatial field as the paper of its protocol shows it, such as ``log10(x + 1)`` over its maximum.

        Raises:
            ValueError: there is no such layer, it has no spatial field, or the result follows no protocol.
        """
        field, protocol = self._layer(layer), protocol_of(self.info, layer)
        if protocol is None:
            raise ValueError("this result follows no published protocol; compute it with protocol=NAME.")
        return protocol.picture(field)

    def _spikes_before(self, layer: str) -> dict[str, dict[str, Any]]:
        """Facts of the spike layers that ran before a layer, by name."""
        facts = self.info.get("spike_layers", {})
        return {name: facts[name] for name in self.info.get("spikes_before", {}).get(layer, [])}

    def _silent(self, layer: str) -> list[str]:
        return [name for name, fact in self._spikes_before(layer).items() if fact["silent"]]

    def _saturated(self, layer: str) -> list[str]:
        return [name for name, fact in self._spikes_before(layer).items() if fact["saturated"]]

    def area_ratio(self, layer: str, share: float = 0.5) -> float:
        """Smallest share of the input's pixels that holds ``share``, in (0, 1], of the layer's mass.

        Raises:
            ValueError: there is no such layer (the message lists the layers), it has no spatial field, or ``share`` is
                out of range.
        """
        return area_ratio(np.abs(self._layer(layer)), share)

    def numbers(self, layer: str) -> dict[str, Number]:
        """All numbers of a layer with standard errors: see ``metrics.spatial_numbers`` and ``lags.temporal_numbers``.

        Where spike layers run before the layer, ``silent_units`` is the share of their channels that never fire. A
        jackknife over at most ten groups of inputs gives the errors, and corrects the bias of a mean over few inputs; so
        a number may differ from that of the map itself by about its error. Errors are NaN for a single input, and 0 for
        that share.

        Raises:
            ValueError: there is no such layer.
        """
        if layer not in self.layers:
            raise ValueError(f"no layer {layer!r} in this result; it has {', '.join(self.layers)}.")
        if layer not in self._numbers:
            numbers: dict[str, Number] = {}
            if layer in self.spatial:
                numbers |= self._estimated(layer, "spatial", self._spatial_numbers(layer), corrected=True)
                protocol = protocol_of(self.info, layer)
                if protocol is not None:
                    published = self._estimated(layer, "spatial", protocol.measured)
                    steps = protocol.steps({key: number.value for key, number in published.items()})
                    numbers |= {key: number.stepping(steps.get(key, 0.0)) for key, number in published.items()}
            if layer in self.temporal:
                numbers |= self._estimated(layer, "temporal", temporal_numbers, corrected=True)
            if layer in self.frames:
                numbers |= self._estimated(layer, "frames", frame_numbers, corrected=True)
            spikes = self._spikes_before(layer).values()
            if spikes:
                dead = sum(fact["dead"] * fact["channels"] for fact in spikes)
                numbers["silent_units"] = Number(dead / sum(fact["channels"] for fact in spikes), 0.0)
            self._numbers[layer] = numbers
            if self.info.get("reduce") != "signed":  # of which frequency responses may be asked
                self._estimates.pop(layer, None)
        return self._numbers[layer]

    def _spatial_numbers(self, layer: str) -> Callable[[np.ndarray], dict[str, float]]:
        """The function ``spatial_numbers`` of a map, with the layer's output size and target filled in."""
        size, at = self.target(layer)
        return lambda field: spatial_numbers(field, size, at)

    def estimate(self, layer: str, kind: str) -> Estimate | None:
        """What has been added up over groups of inputs, for errors; ``None`` of results from files."""
        return self._estimates.get(layer, {}).get(kind)

    def degrees_of_freedom(self, layer: str, kind: str) -> float:
        """Those of errors of a field's numbers: what its groups of inputs are worth; infinite of results from files."""
        estimate = self.estimate(layer, kind)
        return math.inf if estimate is None else max(effective(estimate.group_masses()) - 1, 1.0)

    def target(self, layer: str) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        """Rows and columns of a layer's output, and the target's in it; ``None`` where there is no single target.

        There is none either in the map of an entry of the inputs that the layer does not follow, such as a template.
        """
        size = self.info.get("map_size", {}).get(layer)
        position = self.info.get("position", "center")
        if size is None or position == "all" or (not isinstance(position, str) and len(position) != 1):
            return None, None
        if layer in self.info.get("without_target", []):
            return None, None
        place, protocol = position if isinstance(position, str) else tuple(position[0]), protocol_of(self.info, layer)
        if protocol is not None:
            place = protocol.places([place], layer in self.info.get("tokens", []))[0]
        at = cell(layer, place, tuple(size))
        assert at is not None
        return (size[-2], size[-1]), (at[-2], at[-1])

    def _estimated(
        self, layer: str, kind: str, compute: Callable[[np.ndarray], dict[str, float]], corrected: bool = False
    ) -> dict[str, Number]:
        """What ``compute`` returns for a field, with errors by a jackknife over groups of inputs.

        ``corrected`` says whether its bias is corrected, too; otherwise the numbers are those of the field itself.
        """
        estimate = self.estimate(layer, kind)
        if estimate is None:
            return {key: Number(value, math.nan) for key, value in compute(getattr(self, kind)[layer]).items()}
        full = compute(estimate.value())
        none = dict.fromkeys(full, math.nan)  # of a field that the other groups do not have
        parts = [compute(part) if np.any(part) else none for part in estimate.without_groups()]
        sizes, numbers = group_sizes(estimate.count), {}
        dof = self.degrees_of_freedom(layer, kind)
        for key, value in full.items():
            period = PERIODS.get(key)
            pseudo = pseudo_values(value, [part[key] for part in parts], sizes, period)
            self._pseudo.setdefault(layer, {})[key] = pseudo
            number = jackknife(value, pseudo, sizes, period)
            numbers[key] = Number(possible(key, number.value, value) if corrected else value, number.error, dof)
        return numbers

    def pseudo_values(self, layer: str, name: str) -> list[float]:
        """The jackknife's pseudo-values of a number, one per group of inputs (see ``number.py``); empty if it has no error."""
        self.numbers(layer)
        return self._pseudo.get(layer, {}).get(name, [])

    def rows(self) -> list[dict[str, Any]]:
        """One dict per layer: ``layer``, and for each number ``name`` and ``name_error``; for tables and CSV files."""
        return [{"layer": layer} | columns(self.numbers(layer)) for layer in self.layers]

    def save(self, path: str | os.PathLike) -> Path:
        """Write an ``.npz`` with the fields and all numbers; see ``archive.py``."""
        numbers = {layer: {k: astuple(n) for k, n in self.numbers(layer).items()} for layer in self.layers}
        documents = {"info": self.info, "numbers": numbers, "pseudo": self._pseudo}
        return archive.write(path, self.layers, documents, {kind: getattr(self, kind) for kind in _FIELDS})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ERFResult":
        """Read what ``save`` wrote.

        Raises:
            ValueError: the file is no result that ``save`` wrote.
        """
        layers, documents, fields = archive.read(path, _FIELDS)
        result = cls(layers, {}, documents["info"])
        for kind, of_layers in fields.items():
            setattr(result, kind, of_layers)
        result._numbers = {
            layer: {key: Number(*number) for key, number in numbers.items()}
            for layer, numbers in documents["numbers"].items()
        }
        result._pseudo = documents["pseudo"]
        return result

    def __repr__(self) -> str:
        return f"<ERFResult of {self.info.get('num_inputs', '?')} inputs, layers {listed(self.layers)}>"

    def __str__(self) -> str:
        return summary(self)

    def plot(self, path: str | os.PathLike | None = None, common: bool = False):
        """Draw the spatial fields side by side; returns a matplotlib ``Figure``, and writes it if ``path`` is given.

        Args:
            path: a .png, .pdf or .svg file.
            common: one brightness for all layers; else each map over its own maximum.
        """
        from .plot import draw

        return draw(self, path, common)
