"""One folder of results: numbers as CSV, figures as PNG and PDF, and a self-contained HTML page."""

import base64
import csv
import html
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from ..files import replacing
from .plot import draw_all, write
from .published import draw_published
from .result import ERFResult

CAPTIONS = {
    "maps": "Spatial fields. Titles: smallest share of the image that holds 50 % and 90 % of the mass.",
    "scale": "The same maps on one colour scale: cube root of each over the largest value of all.",
    "overlay": "The fields over the first image.",
    "profiles": "Row and column through the centre, with the sections of the fitted Gaussian (dashed).",
    "radial": "Mean over rings about the centre of mass.",
    "spectra": "Magnitude of the Fourier transform of the fields, zero frequency in the middle.",
    "published": "The maps as the papers of their protocols show them.",
    "lags": "Temporal fields: share of the mass at each lag, last output step.",
}
# What ``write_report`` writes at most.
REPORT_FILES = ("numbers.csv", "report.html", *(f"{name}.{suffix}" for name in CAPTIONS for suffix in ("png", "pdf")))


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
            f'<figure id="{name}"><h2>{name.capitalize()}</h2><img alt="{name}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(CAPTIONS[name])}</figcaption></figure>"
        )
    warned = [f"{label}: {line}" for label, result in results.items() for line in result.warnings]
    warnings = "".join(f'<p class="warning">{html.escape(line)}</p>' for line in warned)
    template = Template((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
    head, rows = _table(results)
    page = template.substitute(
        title=html.escape(title),
        warnings=warnings,
        head=head,
        rows=rows,
        figures="\n".join(pictures),
        settings=_settings(results),
    )
    return _write_text(folder / "report.html", page)


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


def _table(results: Mapping[str, ERFResult]) -> tuple[str, str]:
    """Head and body of the page's table, as HTML: a row per layer, a column per number."""
    entries = [(label, layer, result.numbers(layer)) for label, result in results.items() for layer in result.layers]
    keys = list(dict.fromkeys(key for _, _, numbers in entries for key in numbers))
    head = "".join(f'<th scope="col">{html.escape(key)}</th>' for key in ("model", "layer", *keys))
    rows = []
    for label, layer, numbers in entries:
        cells = [f'<td data-value="{html.escape(t, quote=True)}">{html.escape(t)}</td>' for t in (label, layer)]
        for key in keys:
            if key not in numbers:
                cells.append('<td data-value="-1">–</td>')
                continue
            value, error = numbers[key]
            shown = f" <small>± {error:.2g}</small>" if math.isfinite(error) else ""
            cells.append(f'<td data-value="{value!r}">{_short(value)}{shown}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return head, "\n".join(rows)


def _short(value: float) -> str:
    if not math.isfinite(value):
        return "∞" if math.isinf(value) else "–"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"


def _settings(results: Mapping[str, ERFResult]) -> str:
    """How each result was computed, as the entries of an HTML definition list."""
    items: dict[str, Any] = {}
    for label, result in results.items():
        settings = {k: v for k, v in result.info.items() if k not in ("map_size", "spike_layers", "spikes_before")}
        items[label] = ", ".join(f"{k} {json.dumps(v)}" for k, v in settings.items())
    return "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in items.items())
