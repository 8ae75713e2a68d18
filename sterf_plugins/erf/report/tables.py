"""The tables of a report, as HTML: a column's head sorts its rows."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..compare import MAIN, Comparison, interval
from ..field_checks.field_check import FieldCheck
from ..figures.wording import digits, layer_label, measured, named
from ..numbers.number import Number
from ..result import ERFResult
from ..sweep import Size, sweep_rows
from ..theory.field import advice, theory_of
from .charts import UNITS, responses

_LONG = 14  # letters of a word that may be broken anywhere, so that a table fits its page
_CHECKED = ("rank", "common_mass", "predicted_rank", "gain", "unchanged", "reliability")


def html_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table whose cells are ``str``, numbers, ``Number``, or ``None`` for a dash; a column of one model is left out.

    Telephones show the name of the model above that of the layer, which is in the next column.
    """
    rows = list(rows)
    if head[0] == "model" and len({row[0] for row in rows}) == 1:
        head, rows = head[1:], [row[1:] for row in rows]
    texts = {name for i, name in enumerate(head) if any(isinstance(row[i], str) for row in rows)}
    classes = {name: ' class="text"' for name in texts} | {"model": ' class="text model"'}
    heads = "".join(
        f'<th scope="col"{classes.get(name, "")}>{html.escape(name).replace("_", "_<wbr>")}</th>' for name in head
    )
    body = "\n".join(f"<tr>{_cells(row, head[0] == 'model')}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _cells(row: Sequence[Any], models: bool) -> str:
    """The cells of a row, the first of which is the model's name if there are several models."""
    if not models:
        return "".join(map(_cell, row))
    name = html.escape(row[0], quote=True)
    return (
        f'<td class="{_text(row[0])} model" data-value="{name}">{name}</td>'
        + _cell(row[1], row[0])
        + "".join(map(_cell, row[2:]))
    )


def _text(*texts: str) -> str:
    """The class of a cell with these texts: words that are not long stay whole."""
    return "text long" if any(len(word) > _LONG for text in texts for word in text.split()) else "text"


def _cell(value: str | float | Number | None, model: str = "") -> str:
    if isinstance(value, str):
        above = f' data-model="{html.escape(model, quote=True)}"' if model else ""
        shown = html.escape(value, quote=True)
        return f'<td class="{_text(value, model)}"{above} data-value="{shown}">{shown}</td>'
    number = float("nan") if value is None else value.value if isinstance(value, Number) else float(value)
    shown, _, error = (measured(value) if isinstance(value, Number) else digits(number)).partition(" ± ")
    error = f" <small>± {error}</small>" if error else ""
    # As JavaScript writes numbers; a dash comes before all others.
    key = "-Infinity" if math.isnan(number) else repr(number).replace("inf", "Infinity")
    return f'<td data-value="{key}">{shown}{error}</td>'


def number_table(results: Mapping[str, ERFResult], names: Sequence[str]) -> str:
    """A row per layer, a column per number."""
    rows = [
        [label, layer_label(result, layer), *(result.numbers(layer).get(name) for name in names)]
        for label, result in results.items()
        for layer in result.layers
    ]
    return html_table(["model", "layer", *names], rows)


def difference_table(names: tuple[str, str], comparison: Comparison) -> str:
    """The main numbers of two results, how they differ, and what is to be said of the comparison."""
    rows = [[d.layer, d.name, d.a, d.b, interval(d.change), d.verdict] for d in comparison if d.name in MAIN]
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in comparison.notes)
    head = ["layer", "number", *names, "95 % interval of the change", f"{names[1]} is"]
    return f"{html_table(head, rows)}<ul>{notes}</ul>"


def theory_table(results: Mapping[str, ERFResult]) -> str:
    """The theoretical field of each layer, what of it is used, and the advice that follows."""
    head = [
        "model",
        "layer",
        "theoretical field, px",
        "stride",
        "padding",
        "share of the image",
        "of that, holds 90 % of the mass",
    ]
    rows: list[list[Any]] = []
    lines = []
    for label, result in results.items():
        fields = theory_of(result)
        for layer, field in fields.items():
            padding = field.padding[0] if field.padding[0] == field.padding[0] else None  # not where it is NaN
            used = result.numbers(layer).get("used_90")
            rows.append([label, layer_label(result, layer), str(field), field.stride[0], padding, field.area, used])
        found = {named(result, layer): field for layer, field in fields.items()}
        height, width = result.info["input_shape"][-2:]
        lines += [f"<li>{html.escape(f'{label}: {line}')}</li>" for line in advice(found, (height, width))]
    return f"{html_table(head, rows)}<ul>{''.join(lines)}</ul>"


def sweep_table(sweeps: Mapping[str, Mapping[Size, ERFResult]]) -> str:
    """The 90 % area and radius of each layer at each image size."""
    rows = []
    for label, sweep in sweeps.items():
        for row in sweep_rows(sweep):
            numbers = [Number(row[key], row[f"{key}_error"]) for key in ("area_90", "area_90_pixels", "r90")]
            shown = layer_label(sweep[row["height"], row["width"]], row["layer"])
            rows.append([label, shown, f"{row['height']}×{row['width']}", *numbers])
    return html_table(["model", "layer", "image", "90 % area, share", "90 % area, px²", "r90, px"], rows)


def frequency_table(results: Mapping[str, ERFResult]) -> str:
    """The cutoff of each layer in time and in space, and where its gain is largest."""
    rows = [
        [
            label,
            layer_label(result, layer),
            kind,
            response.cutoff,
            float(response.frequencies[response.gain.argmax()]),
            UNITS[kind],
        ]
        for label, result in results.items()
        for kind, of_layers in responses(result).items()
        for layer, response in of_layers.items()
    ]
    return html_table(["model", "layer", "in", "cutoff", "largest gain at", "unit"], rows)


def check_table(checks: Mapping[str, FieldCheck], randomised: Sequence[Mapping[str, Any]]) -> str:
    """How far fields agree with measured changes, and with those of randomised weights."""
    rows = [
        [label, layer, *(check.numbers(layer).get(name) for name in _CHECKED)]
        for label, check in checks.items()
        for layer in check.layers
    ]
    tables = html_table(["model", "layer", *_CHECKED], rows) if rows else ""
    if randomised:
        shuffled = [
            [row["model"], row["layer"], row["randomised"], row["down_to"] or "–"]
            + [Number(row[key], row[f"{key}_error"]) for key in ("rank", "common_mass")]
            for row in randomised
        ]
        head = ["model", "layer", "layers with shuffled weights", "down to", "rank", "common_mass"]
        tables += f"<h3>Weights randomised from the top</h3>{html_table(head, shuffled)}"
    return tables
