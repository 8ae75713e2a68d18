"""The estimates of all layers while inputs come in, kept in a file on request, so that an interruption loses little."""

import json
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from ...firing import LayerRate
from .. import archive
from ..inputs.batches import check_shapes
from ..numbers.estimate import Estimate
from .fields import BatchFields
from .starts import Facts

SAVE_EVERY = 30  # seconds


class Running:
    """Running estimates of the fields of all layers.

    Args:
        aggregate: "mean" or "median" over inputs.
        path: file that the state is kept in; ``None`` to keep it nowhere.

    Attributes:
        estimates: layer -> kind -> estimate.
        facts: layer -> what is known of its output.
        rates: spike layer -> what it did in the forward passes so far.
        failed: layer -> why it has no field.
        calibrated: how many ``norms`` have the statistics of how many ``inputs``; ``None`` if all have their own.
        cut: modules that the model runs without gradients, see ``capture.Seen``.
        autocast: modules that the model runs with ``autocast``, see there.
        drawn: whether the model draws random numbers.
        count: number of inputs so far.
        shape: shape of each tensor of a single input, by name or index, without the batch axis.
        kinds: kinds of fields that are computed.
    """

    def __init__(self, aggregate: str, path: Path | None):
        self.estimates: dict[str, dict[str, Estimate]] = {}
        self.facts: dict[str, Facts] = {}
        self.rates: dict[str, LayerRate] = {}
        self.failed: dict[str, str] = {}
        self.calibrated: dict[str, int] | None = None
        self.cut: list[str] = []
        self.autocast: list[str] = []
        self.drawn = False
        self.count = 0
        self.shape: dict[str, list[int]] = {}
        self.kinds: tuple[str, ...] = ()
        self._aggregate = aggregate
        self._path = path
        self._identity: dict[str, Any] = {}
        self._saved = time.monotonic()

    @property
    def layers(self) -> list[str]:
        """Names of the outputs, in order of execution."""
        return list(self.estimates)

    def resume(self, identify: Callable[[], dict[str, Any]]) -> int:
        """Take over what the file holds, if it is of the same computation; returns the number of inputs in it.

        Args:
            identify: function that returns what has to be the same; it is called only if a state is kept, as it reads
                all weights.

        Raises:
            ValueError: the file is no state.
        """
        if self._path is None:
            return 0
        self._identity = identify()
        if not self._path.is_file():
            return 0
        with archive.arrays(self._path, "state of compute_erf", ("header",)) as file:
            header = json.loads(str(file["header"]))
            if header["identity"] != json.loads(json.dumps(self._identity)):
                return 0
            self.count = header["count"]
            for i, (name, kind) in enumerate(header["estimates"]):
                prefix = f"{i}."
                self._estimate(name, kind).restore(
                    {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}
                )
            self.facts = {name: Facts(tuple(size), *rest) for name, (size, *rest) in header["facts"].items()}
            self.failed = header["failed"]
            for name, (levels, histogram, fired) in header["rates"].items():
                self.rates[name] = LayerRate(levels, np.array(histogram), np.array(fired, bool))
        return self.count

    def _estimate(self, name: str, kind: str) -> Estimate:
        """The estimate of an output and kind, made when it is first asked for."""
        # Groups would take ten times the memory of an ST-ERF or a volume; only maps and curves have errors.
        kinds = self.estimates.setdefault(name, {})
        if kind not in kinds:
            kinds[kind] = Estimate(self._aggregate, grouped=kind not in ("spatiotemporal", "volume"))
        return kinds[kind]

    def add(self, fields: BatchFields) -> None:
        """Take in what was found in a batch."""
        self.failed |= fields.failed
        for name, kinds in fields.values.items():
            for kind, values in kinds.items():
                self._estimate(name, kind).add(values)
        for name in [n for n in self.estimates if n not in fields.values]:
            del self.estimates[name]  # it failed in this batch
        for name, facts in fields.facts.items():
            self.facts.setdefault(name, facts)  # what the first batch showed
        self.count += len(next(iter(next(iter(fields.values.values())).values())))
        if self._path is not None and time.monotonic() - self._saved > SAVE_EVERY:
            self.save()

    @classmethod
    def merged(cls, parts: list["Running"]) -> "Running":
        """Join several runs over different inputs, as if one had taken all inputs in the order of the runs.

        Raises:
            ValueError: the runs had inputs of different shapes.
        """
        first = next((p for p in parts if p.count), parts[0])
        joined = cls(first._aggregate, first._path)
        joined.shape, joined.kinds, joined.facts = first.shape, first.kinds, first.facts
        joined.calibrated, joined.cut, joined.autocast = first.calibrated, first.cut, first.autocast
        for part in parts:
            if part.count:
                check_shapes(joined.shape, part.shape)
            if part.count and part.facts != joined.facts:
                raise ValueError(
                    "the processes see different layers; give `layers`, `layout` and `channels` explicitly."
                )
            for name in set(part.facts) & set(joined.facts):
                joined.facts[name].follows &= part.facts[name].follows
                joined.facts[name].unclear |= part.facts[name].unclear
            joined.failed |= part.failed
            joined.drawn |= part.drawn
            for name, kinds in part.estimates.items():
                for kind, estimate in kinds.items():
                    joined._estimate(name, kind).merge(estimate)
            for name, rate in part.rates.items():
                joined.rates.setdefault(name, LayerRate(rate.levels, np.zeros_like(rate.histogram))).merge(rate)
            joined.count += part.count
        return joined

    def error(self) -> float:
        """The largest relative standard error of all spatial maps and temporal curves; infinite before there is one."""
        errors = [e.relative_error() for kinds in self.estimates.values() for e in kinds.values() if e.grouped]
        return max(errors, default=float("inf"))

    def save(self) -> None:
        """Write the state, unless it is kept nowhere or the last ``add`` was interrupted."""
        counts = {e.count for kinds in self.estimates.values() for e in kinds.values()}
        if self._path is None or counts != {self.count}:  # nothing yet, or interrupted in the middle of `add`
            return
        pairs = [(name, kind) for name, kinds in self.estimates.items() for kind in kinds]
        arrays: dict[str, Any] = {
            f"{i}.{key}": value
            for i, (name, kind) in enumerate(pairs)
            for key, value in self.estimates[name][kind].state().items()
        }
        rates = {k: (r.levels, r.histogram.tolist(), r.fired.tolist()) for k, r in self.rates.items()}
        header = dict(
            identity=self._identity,
            count=self.count,
            estimates=pairs,
            facts={name: astuple(facts) for name, facts in self.facts.items()},
            failed=self.failed,
            rates=rates,
        )
        arrays["header"] = np.array(json.dumps(header))
        archive.save(self._path, arrays, compressed=False)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Delete the file of the state, which is not needed once the computation is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
