"""Two results beside each other: how the numbers of their layers differ, with intervals."""

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from .numbers.estimate import group_sizes
from .numbers.number import PERIODS, Number, change
from .result import ERFResult

# Entries of ``info`` that say what is computed; numbers of two results are comparable only if these agree.
DEFINITION = (
    "input_shape", "inputs", "position", "reduce", "time", "weight", "channels", "aggregate", "target", "protocol",
)  # fmt: skip
MAIN = ("area_50", "area_90", "rectangle_90", "r50", "r90", "anisotropy", "mean_lag")


@dataclass(frozen=True)
class Difference:
    """How one number of one layer differs between two results.

    Attributes:
        layer: name of the layer.
        name: name of the number.
        a: the number in the first result.
        b: the number in the second result.
        change: ``b - a`` with its standard error and ``interval``.
        paired: whether the error is that of the changes on the same inputs; otherwise the two count as independent.
    """

    layer: str
    name: str
    a: Number
    b: Number
    change: Number
    paired: bool

    @property
    def relative(self) -> float:
        """The change as a share of the first value; infinite if that is zero, or if one of the two is not finite."""
        if not self.change.value:
            return 0.0
        if not math.isfinite(self.change.value):
            return math.inf
        return self.change.value / abs(self.a.value) if self.a.value else math.copysign(math.inf, self.change.value)

    @property
    def verdict(self) -> str:
        """``"larger"`` or ``"smaller"`` if the interval of the change leaves out zero, else ``"unclear"``; ``"same"``."""
        low, high = self.change.interval
        if low == high == 0:
            return "same"
        return "larger" if low > 0 else "smaller" if high < 0 else "unclear"


class Comparison(list[Difference]):
    """The differences of two results, by layer and number; ``print`` shows the main ones.

    Attributes:
        lost: layers of the first result of which the second has no field -> why.
        gained: layers of the second result of which the first has no field -> why.
    """

    def __init__(self, a: ERFResult, b: ERFResult):
        super().__init__()
        self.lost, self.gained = _only(a, b), _only(b, a)

    @property
    def notes(self) -> list[str]:
        """One line for each layer that only one of the results has, and one if errors are those of independent inputs."""
        lines = self.alone("*")
        if not all(d.paired for d in self if d.name in MAIN):
            lines.append(
                "Errors as of independent inputs: the results do not have the same number of inputs in groups."
            )
        return lines

    def of(self, layer: str, name: str) -> Difference:
        """The difference of one number.

        Raises:
            ValueError: there is no such number.
        """
        found = self.matching(layer, name)
        if not found:
            raise ValueError(
                f"no number {name!r} of a layer {layer!r} that both results have; there are {self.known()}."
            )
        return found[0]

    def matching(self, layers: str, names: str) -> list[Difference]:
        """The differences whose layer and number match two glob patterns."""
        return [d for d in self if fits(d.layer, layers) and fnmatchcase(d.name, names)]

    def alone(self, layers: str) -> list[str]:
        """A line for each layer that matches a glob pattern and has a field in one of the results alone."""
        found = [("first", self.lost), ("second", self.gained)]
        return [
            f"{layer}: only the {which} result has its field. {reason}"
            for which, of_layers in found
            for layer, reason in of_layers.items()
            if fits(layer, layers)
        ]

    def known(self) -> str:
        """The numbers and layers that there are, in words."""
        layers, names = (list(dict.fromkeys(getattr(d, key) for d in self)) for key in ("layer", "name"))
        return f"the numbers {', '.join(names)} of {', '.join(layers)}"

    def rows(self) -> list[dict[str, object]]:
        """One dict per difference, for tables and CSV files."""
        return [
            dict(
                layer=d.layer, number=d.name, a=d.a.value, b=d.b.value, change=d.change.value, error=d.change.error,
                low=d.change.interval[0], high=d.change.interval[1], verdict=d.verdict, paired=d.paired,
            )
            for d in self
        ]  # fmt: skip

    def __str__(self) -> str:
        """A line for each main number of each layer."""
        texts = [
            (d.layer, d.name, str(d.a), str(d.b), _signed(d.change), interval(d.change), d.verdict)
            for d in self
            if d.name in MAIN
        ]
        table = [("layer", "number", "a", "b", "b - a", "95 % interval", "b is"), *texts]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(f"{t:<{w}}" for t, w in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([*lines, *self.notes])


def difference(a: ERFResult, b: ERFResult) -> Comparison:
    """How each number of the layers that two results share differs, ``b - a``.

    Give both the same inputs in the same order: what an input does to both cancels, and the error of the difference is
    far smaller than those of the two. It is a jackknife over groups of inputs, of whatever changes with them. Where a
    result has no such groups (a single input) or the numbers of inputs differ, the two count as independent. Layers that
    only one of them has are named.

    Raises:
        TypeError: one of them is no result.
        ValueError: they have no layer or no number in common, or are of differently defined fields.
    """
    for name, given in (("a", a), ("b", b)):
        if not isinstance(given, ERFResult):
            raise TypeError(
                f"`{name}` is {given!r} ({type(given).__name__}); give an ERFResult, of a file ERFResult.load(path)."
            )
    layers = [layer for layer in a.layers if layer in b.layers]
    if not layers:
        raise ValueError(f"the results have no layer in common: {', '.join(a.layers)}; and {', '.join(b.layers)}.")
    differing = [
        f"{key}: {a.info.get(key)!r} and {b.info.get(key)!r}"
        for key in DEFINITION
        if a.info.get(key) != b.info.get(key)
    ]
    if differing:
        raise ValueError(f"the results are not of the same kind of field ({'; '.join(differing)}); compute both alike.")
    result, count = Comparison(a, b), a.info.get("num_inputs")
    for layer in layers:
        ours, theirs = a.numbers(layer), b.numbers(layer)
        for name in [n for n in ours if n in theirs]:
            pseudo = a.pseudo_values(layer, name), b.pseudo_values(layer, name)
            paired = count == b.info.get("num_inputs") and len(pseudo[0]) == len(pseudo[1]) > 1
            fixed = ours[name].error == theirs[name].error == 0  # such as a share of silent units
            found = change(
                ours[name], theirs[name], pseudo if paired else None, group_sizes(count or 0), PERIODS.get(name)
            )
            result.append(Difference(layer, name, ours[name], theirs[name], found, paired or fixed))
    if not result:
        kinds = [", ".join(r.info.get("kinds", ["unknown"])) for r in (a, b)]
        raise ValueError(
            f"the results have no number in common: one has fields of the kind {kinds[0]}, the other of {kinds[1]}, and "
            f"spatiotemporal fields and volumes have no numbers; compute both with kinds='spatial' or 'temporal', too."
        )
    return result


def distances(a: ERFResult, b: ERFResult, layer: str) -> dict[str, Number]:
    """How far apart the fields of a layer are, by kind: the norm of their difference, each over its sum, as a share of the first's.

    The error is the distance that independent inputs alone would lead to; it is NaN for a single input.
    """
    found = {}
    for kind in ("spatial", "temporal", "frames"):
        if not all(layer in getattr(result, kind) for result in (a, b)):
            continue
        fields, errors = [], []
        for result in (a, b):
            field = getattr(result, kind)[layer].astype(np.float64)
            error = getattr(result, f"{kind}_error").get(layer, np.full(field.shape, math.nan))
            fields.append(field / np.abs(field).sum())
            errors.append(error / np.abs(field).sum())
        norm = float(np.linalg.norm(fields[0]))
        found[kind] = Number(float(np.linalg.norm(fields[1] - fields[0])) / norm, float(np.linalg.norm(errors)) / norm)
    return found


def fits(layer: str, pattern: str) -> bool:
    """Whether a layer has this name, which may hold brackets, or fits this glob pattern."""
    return layer == pattern or fnmatchcase(layer, pattern)


def _only(result: ERFResult, other: ERFResult) -> dict[str, str]:
    """Layers of a result of which the other one has no field -> why."""
    return {
        layer: other.failed.get(layer, "The other was computed without it.")
        for layer in result.layers
        if layer not in other.layers
    }


def _signed(number: Number) -> str:
    return str(number) if number.value < 0 else f"+{number}"


def interval(number: Number) -> str:
    """The interval of a change as text."""
    if not math.isfinite(number.error):
        return "–"
    low, high = number.interval
    return f"{low:+{number.format_spec}} to {high:+{number.format_spec}}"
