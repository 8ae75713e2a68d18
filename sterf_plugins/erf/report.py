"""One folder of results: numbers as CSV, figures as PNG and PDF, and a self-contained HTML page."""

import base64
import csv
import html
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from string import Template

import numpy as np

from ..files import replacing
from .number import Number
from .plot import draw_all
from .published import draw_published
from .result import ERFResult
from .sheet import write
from .wording import measured, provenance

CAPTIONS = {
    "maps": "Spatial fields, each over its own maximum.",
    "scale": "The same maps at one brightness: each over the largest value of all.",
    "overlay": "The fields over the first image.",
    "profiles": "Row and column through the centre, with the sections of the fitted Gaussian.",
    "radial": "Mean over rings about the centre of mass.",
    "spectra": "Magnitude of the Fourier transform of the fields, zero frequency in the middle.",
    "published": "The maps as the papers of their protocols show them.",
    "frames": "Share of the mass in each frame of a video, or slice of a volume.",
    "lags": "Temporal fields: share of the mass at each lag, last output step.",
}
# What ``write_report`` writes at most.
REPORT_FILES = ("numbers.csv", "report.html", *(f"{name}.{suffix}" for name in CAPTIONS for suffix in ("png", "pdf")))
# The number, with words around it, that alternative texts of figures give, if it is not an area.
ALTERNATIVES = {"lags": ("mean_lag", "mean lag", " steps"), "frames": ("mean_frame", "mean frame", "")}
MAIN = (
    "area_50",
    "area_90",
    "r90",
    "anisotropy",
    "mean_lag",
    "mean_frame",
    "silent_units",
)  # the columns of the page's first table
GROUPS = {  # the other tables: heading -> how the names of their numbers begin
    "Areas": ("area",),
    "Rectangles": ("rectangle",),
    "Radii and extents": ("r50", "r90", "rms", "row", "column"),
    "Shape": ("anisotropy", "entropy", "centre", "silent"),
    "Gaussian": ("sigma", "theta", "gaussian"),
    "Time": ("mean_lag", "half_life", "time_constant", "exponential"),
    "Frames": ("mean_frame", "frame"),
    "Mass by lag": ("lag_",),
    "Other": ("",),
}
COLUMNS = 6  # numbers in a table at most
# layer -> name -> number, by model
Numbers = list[tuple[str, str, dict[str, Number]]]


def write_report(
    results: Mapping[str, ERFResult], folder: str | os.PathLike, title: str, image: np.ndarray | None = None
) -> Path:
    """Write ``numbers.csv``, ``<figure>.png`` and ``.pdf`` and ``report.html`` into a folder.

    Args:
        results: label of the model -> result; at least one.
        folder: folder to write to; it is made if it does not exist.
        title: heading of the page.
        image: (H, W, 3) in [0, 1] of the input size, for the fields over an image.

    Returns:
        Path of the page.

    Raises:
        ValueError: there are no results.
    """
    if not results:
        raise ValueError("`results` is empty; give at least one result.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(results, folder / "numbers.csv")
    pictures = []
    figures = draw_all(results, image)
    published = draw_published(results)
    if published is not None:
        figures["published"] = published
    for name, figure in figures.items():
        path = write(figure, folder / f"{name}.png")
        write(figure, folder / f"{name}.pdf")
        data = base64.b64encode(path.read_bytes()).decode()
        pictures.append(
            f'<figure id="{name}"><h2>{name.capitalize()}</h2><div class="scroll"><img alt="{_escaped(_alt(name, results))}" '
            f'src="data:image/png;base64,{data}" style="width: {figure.get_figwidth():.1f}in"></div>'
            f"<figcaption>{html.escape(CAPTIONS[name])}</figcaption></figure>"
        )
    warned = [f"{label}: {line}" for label, result in results.items() for line in result.warnings]
    warnings = "".join(f'<p class="warning">{html.escape(line)}</p>' for line in warned)
    template = Template((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
    entries = [(label, layer, result.numbers(layer)) for label, result in results.items() for layer in result.layers]
    names = list(dict.fromkeys(key for *_, numbers in entries for key in numbers))
    page = template.substitute(
        title=html.escape(title),
        facts="".join(f"<li>{html.escape(line)}</li>" for line in provenance(results)),
        warnings=warnings,
        numbers=_table(entries, [name for name in MAIN if name in names]),
        more=_other_tables(entries, names),
        figures="\n".join(pictures),
        settings=_settings(results),
    )
    return _write_text(folder / "report.html", page)


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)


def _write_text(path: Path, text: str) -> Path:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def _write_csv(results: Mapping[str, ERFResult], path: Path) -> None:
    rows = [{"model": label, **row} for label, result in results.items() for row in result.rows()]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    _write_text(path, text.getvalue())


def _alt(name: str, results: Mapping[str, ERFResult]) -> str:
    """What a figure shows, for who does not see it: its subject, and the areas of each layer."""
    parts = []
    for label, result in results.items():
        key, words, unit = ALTERNATIVES.get(name, ("area_90", "90 % of the mass on", " of the pixels"))
        numbers = {layer: result.numbers(layer) for layer in result.layers}
        shown = ", ".join(f"{layer} {measured(n[key])}" for layer, n in numbers.items() if key in n)
        parts.append(f"{label}: {words} {shown}{unit}")
    return f"{CAPTIONS[name]} {'; '.join(parts)}."


def _other_tables(entries: Numbers, names: list[str]) -> str:
    """All numbers, in tables of a few columns each, as HTML."""
    left, tables = list(names), []
    for heading, beginnings in GROUPS.items():
        members = [name for name in left if name.startswith(beginnings)]
        left = [name for name in left if name not in members]
        for i in range(0, len(members), COLUMNS):
            tables.append(f"<h3>{heading}</h3>{_table(entries, members[i : i + COLUMNS])}")
    return "\n".join(tables)


def _table(entries: Numbers, names: list[str]) -> str:
    """An HTML table with a row per layer and a column per number."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ("model", "layer", *names))
    rows = []
    for label, layer, numbers in entries:
        cells = [f'<td data-value="{_escaped(text)}">{html.escape(text)}</td>' for text in (label, layer)]
        for name in names:
            if name not in numbers:
                cells.append('<td data-value="-1">–</td>')
                continue
            value, _, error = measured(numbers[name]).partition(" ± ")
            shown = f" <small>± {error}</small>" if error else ""
            cells.append(f'<td data-value="{numbers[name].value!r}">{value}{shown}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _settings(results: Mapping[str, ERFResult]) -> str:
    """All settings of each result, as the entries of an HTML definition list."""
    items = {}
    for label, result in results.items():
        settings = {k: v for k, v in result.info.items() if k not in ("map_size", "spike_layers", "spikes_before")}
        items[label] = ", ".join(f"{k} {json.dumps(v)}" for k, v in settings.items())
    return "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in items.items())
