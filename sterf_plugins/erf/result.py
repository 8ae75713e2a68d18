"""The result of an ERF computation: arrays by layer and their errors, derived numbers, files and pictures."""

import math
import os
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..firing import listed
from . import archive, doubts
from .numbers.estimate import Estimate, group_sizes
from .numbers.lags import frame_numbers, temporal_numbers
from .numbers.metrics import area_ratio, spatial_numbers
from .numbers.number import PERIODS, Number, columns, effective, jackknife, possible, pseudo_values
from .outputs.selection import cell
from .passes.flaws import flaw
from .protocols import protocol_of
from .summary import summary

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
        return doubts.warnings(self)

    def doubtful(self, layer: str) -> bool:
        """Whether a layer is among those that ``warnings`` is about."""
        return doubts.doubtful(self, layer)

    @property
    def notes(self) -> list[str]:
        """What a picture of this result has to say beside it: whose statistics BatchNorms had, and what a † means."""
        return doubts.notes(self)

    def published_map(self, layer: str) -> np.ndarray:
        """A layer's spatial field as the paper of its protocol shows it, such as ``log10(x + 1)`` over its maximum.

        Raises:
            ValueError: there is no such layer, it has no spatial field, or the result follows no protocol.
        """
        field, protocol = self._layer(layer), protocol_of(self.info, layer)
        if protocol is None:
            raise ValueError("this result follows no published protocol; compute it with protocol=NAME.")
        return protocol.picture(field)

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
            spikes = doubts.spikes_before(self, layer).values()
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
        """The jackknife's pseudo-values of a number, one per group of inputs (``numbers/number.py``); empty if it has none."""
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
        from .figures.plot import draw

        return draw(self, path, common)
