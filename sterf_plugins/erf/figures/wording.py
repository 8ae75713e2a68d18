"""How a result is put into words beside its figures: numbers with their errors, and what was computed of what."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..numbers.number import ROUNDING, Number, has_error, significant
from ..outputs.selection import cell
from ..protocols import note, protocol_of


class Described(Protocol):
    """What says how it was computed."""

    info: dict[str, Any]


class Fields(Described, Protocol):
    """What is drawn and told: the part of an ``ERFResult`` that figures need."""

    layers: list[str]
    spatial: dict[str, np.ndarray]
    temporal: dict[str, np.ndarray]
    frames: dict[str, np.ndarray]
    spatial_error: dict[str, np.ndarray]
    temporal_error: dict[str, np.ndarray]
    frames_error: dict[str, np.ndarray]

    @property
    def notes(self) -> list[str]: ...

    def numbers(self, layer: str) -> dict[str, Number]: ...

    def doubtful(self, layer: str) -> bool: ...


Results = Mapping[str, Fields]

QUANTITIES = {  # what is drawn, by ``reduce`` of ``compute_erf``
    "abs": "|∂y/∂x|",
    "signed": "|mean of ∂y/∂x|",
    "square": "(∂y/∂x)²",
    "relu": "max(∂y/∂x, 0)",
    "mean-relu": "max(mean of ∂y/∂x, 0)",
}
KINDS = {"spatial": "maps", "temporal": "curves over lags", "frames": "curves over frames"}  # whose errors are told


def digits(value: float, error: float = math.nan) -> str:
    """A number as text, with as many digits as its standard error leaves significant.

    Args:
        value: the number; three significant digits are shown if it has no error.
        error: its standard error, shown with one significant digit, or with two if the first is a 1.
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if not has_error(value, error):
        return significant(value, 3)
    first, exponent = f"{error:.0e}".split("e")
    places = -int(exponent) + (first == "1")
    if value:  # a number that is not zero never shows zeros alone
        places = max(places, -math.floor(math.log10(abs(value))))
    if places > 6:
        return f"{value:.2e} ± {error:.0e}"
    return f"{value:.{max(places, 0)}f} ± {error:.{max(places, 0)}f}"


def measured(number: Number) -> str:
    """A number of a result with its standard error, as text."""
    return digits(number.value, number.error)


def stride(result: Fields, layer: str) -> int | None:
    """Pixels of the input from one place of a layer's output to the next; ``None`` where they are not known or not whole.

    It is the smallest power of two that gives as many places, or else their ratio. There is none from an entry of the inputs
    that the layer does not follow, such as a tracker's template.
    """
    field, size = result.spatial.get(layer), result.info.get("map_size", {}).get(layer)
    if field is None or size is None or max(size[-2:]) == 1 or layer in result.info.get("without_target", []):
        return None
    pairs = [(n, m) for n, m in zip(field.shape, size[-2:], strict=True) if n > 1]  # a signal has one row
    for step in (*(2**k for k in range(7)), max(1, pairs[0][0] // pairs[0][1])):
        if all(m in (n // step, -(-n // step)) for n, m in pairs):
            return step
    return None


def where(result: Fields, layer: str) -> str:
    """The stage that a layer's output is of, if it is an output of a backbone, and its stride; empty if none is known."""
    stage, step = result.info.get("stages", {}).get(layer), stride(result, layer)
    return ", ".join([f"stage {stage}"] * (stage is not None) + [f"stride {step}"] * (step is not None))


def layer_label(result: Fields, layer: str) -> str:
    """A layer's name for readers: ``backbone stage 1, stride 4`` instead of ``backbone[0]``, or ``layer1, stride 4``.

    A † stands behind the names of those whose field cannot be trusted.
    """
    label = _label(result, layer)
    return f"{label} †" if result.doubtful(layer) else label


def _label(result: Fields, layer: str) -> str:
    if layer in result.info.get("stages", {}):
        return re.sub(r"\[\d+\]", f" {where(result, layer)}", layer, count=1)
    return ", ".join(filter(None, [layer, where(result, layer)]))


def named(result: Fields, layer: str) -> str:
    """The name by which programs find a layer, with its stage and stride: ``backbone[0] (stage 1, stride 4)``."""
    place = where(result, layer)
    return f"{layer} ({place})" if place else layer


def common_labels(results: Results, names: Iterable[str]) -> dict[str, str]:
    """Name -> label of layers of several results, without a †; the plain name where its labels differ."""
    said = {name: {_label(r, name) for r in results.values() if name in r.layers} for name in names}
    return {name: labels.pop() if len(labels) == 1 else name for name, labels in said.items()}


def quantity(result: Fields) -> str:
    """What a spatial field is the mean of, as a formula; of a video or volume, also that it is a sum over frames."""
    formula = QUANTITIES.get(str(result.info.get("reduce", "abs")), "the field")
    return f"{formula}, summed over frames," if result.frames else formula


def weights(result: Described) -> str:
    """Where the model's weights come from."""
    info = result.info
    if info.get("weights") == "random":
        return "random weights"
    source = info.get("weights") or (Path(info["checkpoint"]).name if info.get("checkpoint") else None)
    if source:
        return f"trained weights ({source})"
    return f"weights at step {info['step']} of the training" if "step" in info else "weights as given"


def inputs(result: Described) -> str:
    """How many inputs of which kind and shape there were."""
    info = result.info
    count, source = info.get("num_inputs", "?"), str(info.get("images", ""))
    kind = {"": "input", "noise": "noise input", "val": "validation image", "photographs": "photograph"}.get(source)
    plural = "" if count == 1 else "s"
    named = info.get("inputs") or {"": info.get("input_shape") or []}  # models with several inputs have named ones
    shapes = [f"{name} {'×'.join(map(str, shape))}".strip() for name, shape in named.items()]
    size = f" of {', '.join(shapes)}" if shapes[0] else ""
    return f"{count} {kind}{plural}{size}" if kind else f"{count} image{plural} of {Path(source).name}{size}"


def definition(result: Fields) -> str:
    """The protocol of another paper, or this package's definition with the options that were chosen."""
    info = result.info
    place = info.get("position", "center")
    where = place if isinstance(place, str) else ", ".join(f"({', '.join(map(str, at))})" for at in place)
    own = f"{_averaged(result)}, target {where}"
    return note(info) or (f"protocol st-erf: {own}" if info.get("protocol") else own)


def _averaged(result: Described) -> str:
    """The average over inputs that a field is, as a formula."""
    mean, taken = result.info.get("aggregate", "mean"), str(result.info.get("reduce", "abs"))
    of = {"signed": "|{} of ∂y/∂x over the inputs|", "mean-relu": "max({} of ∂y/∂x over the inputs, 0)"}
    return of.get(taken, f"{{}} of {QUANTITIES.get(taken, 'the field')} over the inputs").format(mean)


def other_notes(result: Fields) -> list[str]:
    """The notes of a result that are neither about its weights nor about its protocol."""
    return [line for line in result.notes if line not in ("random weights", note(result.info))]


def relative_errors(result: Fields, kind: str) -> list[float]:
    """Norm of the standard error over that of the field, of each layer; NaN where it is unknown."""
    errors = getattr(result, f"{kind}_error")
    norms = {layer: np.linalg.norm(field.astype(np.float64)) for layer, field in getattr(result, kind).items()}
    return [float(np.linalg.norm(errors.get(layer, math.nan)) / norm) for layer, norm in norms.items() if norm > 0]


def error_text(*values: float, of: str = "maps") -> str:
    """The smallest and the largest of some relative errors as text, whose spaces before "%" do not break."""
    known = sorted(v if v > ROUNDING else 0.0 for v in values if math.isfinite(v))
    if not known:
        return "one input, no standard error"
    shown = list(dict.fromkeys(f"{float(f'{100 * v:.2g}'):g}\N{NO-BREAK SPACE}%" for v in (known[0], known[-1])))
    return f"relative error of the {of} {' to '.join(shown)}"


def errors_told(results: Iterable[Fields], kinds: Iterable[str] = KINDS) -> str:
    """The relative errors of all fields of these kinds, as text."""
    results = list(results)
    found = {kind: [error for result in results for error in relative_errors(result, kind)] for kind in kinds}
    return "; ".join(dict.fromkeys(error_text(*errors, of=KINDS[kind]) for kind, errors in found.items() if errors))


def facts(result: Fields) -> dict[str, str]:
    """What a reader has to know of a result, by name."""
    notes = other_notes(result)
    return {
        "weights": "; ".join([weights(result), *(n for n in notes if "statistics" in n)]),
        "inputs": inputs(result),
        "protocol": "; ".join([definition(result), *(n for n in notes if "statistics" not in n)]),
        "relative error": errors_told([result]),
    }


def provenance(results: Results, *kinds: str) -> list[str]:
    """The facts of several results: a line of what they share, then what differs, with the names of the results.

    Args:
        results: label of the model -> result.
        *kinds: the fields whose relative errors are told; all unless given.
    """
    parts = {name: [weights(r), inputs(r), definition(r), *other_notes(r)] for name, r in results.items()}
    return told(parts, errors_told(results.values(), kinds or KINDS))


def told(facts: Mapping[str, Iterable[str]], errors: str) -> list[str]:
    """A line of the facts that all names share, with the relative errors, then what differs, with the names.

    A single name stands before its facts.
    """
    said: dict[str, list[str]] = {}
    for name, parts in facts.items():
        for part in dict.fromkeys(parts):
            said.setdefault(part, []).append(name)
    shared = [part for part, names in said.items() if len(names) == len(facts)]
    own = [f"{', '.join(names)}: {part}" for part, names in said.items() if len(names) < len(facts)]
    only = f"{next(iter(facts))}: " if len(facts) == 1 and any(facts) else ""
    return [only + "; ".join([*shared, errors]), *own]


def target_cells(result: Fields, layer: str) -> list[tuple[float, float, float, float]]:
    """Top, bottom, left and right edge, in pixels of the input, of each target's cell of a layer; none for "all".

    There is none either in the map of an entry of the inputs that the layer does not follow, such as a tracker's template.

    The cells of a layer divide the image as its output has rows and columns. A strided convolution may look at the corner
    of its cell instead of its middle.
    """
    field: Any = result.spatial.get(layer)
    size, position = result.info.get("map_size", {}).get(layer), result.info.get("position", "center")
    if field is None or size is None or position == "all" or layer in result.info.get("without_target", []):
        return []
    places: list[Any] = [position] if isinstance(position, str) else [tuple(p) for p in position]
    protocol = protocol_of(result.info, layer)
    if protocol is not None:
        places = protocol.places(places, layer in result.info.get("tokens", []))
    cells = [cell(layer, place, tuple(size)) for place in places]
    rows, columns = (n / m for n, m in zip(field.shape, size[-2:], strict=True))
    return [
        (at[-2] * rows - 0.5, (at[-2] + 1) * rows - 0.5, at[-1] * columns - 0.5, (at[-1] + 1) * columns - 0.5)
        for at in cells
        if at is not None
    ]
