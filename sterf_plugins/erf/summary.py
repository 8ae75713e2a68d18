"""What ``print`` shows of a result, in at most ten lines."""

import math
from typing import Any

COLUMNS = {
    "area_50": "area 50 %",
    "area_90": "area 90 %",
    "r90": "r90, px",
    "anisotropy": "anisotropy",
    "mean_lag": "lag",
}
LAYERS = 6  # so many are shown


def summary(result: Any) -> str:
    """The main numbers of the first layers, and where the others are; at most ten lines.

    Args:
        result: an ``ERFResult``.
    """
    info = result.info
    shape = info.get("input_shape")
    head = f"{counted(len(result.layers), 'layer')}, {counted(info.get('num_inputs', '?'), 'input')}"
    head += f" of {'x'.join(map(str, shape))}" if isinstance(shape, list) else ""
    error = info.get("relative_error")
    known = isinstance(error, float) and math.isfinite(error)
    head += f", relative error of the fields at most {100 * error:.2g} %" if known else ""
    numbers = {layer: result.numbers(layer) for layer in result.layers[:LAYERS]}
    keys = [key for key in COLUMNS if any(key in n for n in numbers.values())]
    rows = [[layer, *(str(n.get(key, "")) for key in keys)] for layer, n in numbers.items()]
    table = [["layer", *(COLUMNS[key] for key in keys)], *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [head, *("  ".join(f"{t:<{w}}" for t, w in zip(row, widths, strict=True)).rstrip() for row in table)]
    if len(result.layers) > LAYERS:
        lines.append(f"... {len(result.layers) - LAYERS} more; numbers(layer) and rows() have all")
    if result.warnings:
        lines.append(f"{counted(len(result.warnings), 'warning')}: see .warnings")
    return "\n".join(lines)


def counted(count: int | str, noun: str) -> str:
    """A number of things, as text."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
