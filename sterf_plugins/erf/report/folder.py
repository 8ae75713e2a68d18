"""One folder of results: numbers as CSV, figures as PNG and PDF, and a self-contained HTML page."""

import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from ...checks import as_path, one_of
from ...files import replacing, write_csv
from ..compare import Comparison
from ..field_checks.field_check import FieldCheck
from ..figures.check_plot import draw_checks
from ..figures.plot import draw_all
from ..figures.sheet import NARROW, WIDTH, embedded, pixels, write, write_picture
from ..figures.wording import layer_label, measured, provenance
from ..numbers.number import Number
from ..result import ERFResult
from ..sweep import Size, sweep_rows
from ..theory.field import theory_of
from .charts import UNITS, draw_growth, draw_responses, draw_sweep, responses
from .published import draw_published
from .tables import check_table, difference_table, frequency_table, number_table, sweep_table, theory_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    "theory": "Theoretical and effective fields by depth.",
    "sweep": "Fields by image size.",
    "frequency": "Gain and phase by frequency, of the signed fields.",
    "checks": "Fields beside the changes that were measured.",
}
VECTORS = ("pdf", "svg")  # formats of the figures beside PNG
# What ``write_report`` writes at most.
REPORT_FILES = (
    "numbers.csv",
    "sweep.csv",
    "report.html",
    *(f"{name}.{suffix}" for name in CAPTIONS for suffix in ("png", *VECTORS)),
)
# The number, with words around it, that alternative texts of figures give, if it is not an area.
ALTERNATIVES = {
    "lags": ("mean_lag", "mean lag", " steps"),
    "frames": ("mean_frame", "mean frame", ""),
    "theory": ("used_90", "90 % of the mass on", " of the theoretical field"),
}
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
    "Shape": ("anisotropy", "orientation", "entropy", "centre", "silent"),
    "Gaussian": ("sigma", "theta", "gaussian"),
    "Time": ("mean_lag", "half_life", "time_constant", "exponential"),
    "Frames": ("mean_frame", "frame"),
    "Theoretical field": ("theory", "used"),
    "Mass by lag": ("lag_",),
    "Other": ("",),
}
COLUMNS = 5  # numbers in a table at most


def write_report(
    results: Mapping[str, ERFResult],
    folder: str | os.PathLike,
    title: str,
    image: np.ndarray | None = None,
    *,
    sweeps: Mapping[str, Mapping[Size, ERFResult]] | None = None,
    frequency: bool = False,
    checks: Mapping[str, FieldCheck] | None = None,
    randomised: Sequence[Mapping[str, Any]] = (),
    difference: tuple[tuple[str, str], Comparison] | None = None,
    vector: str | None = "pdf",
) -> Path:
    """Write ``numbers.csv``, ``<figure>.png`` and ``.pdf`` and ``report.html`` into a folder.

    Where theoretical fields have been added to the results, they have a figure and a table, too.

    Args:
        results: label of the model -> result; at least one.
        folder: folder to write to; it is made if it does not exist.
        title: heading of the page.
        image: (H, W, 3) in [0, 1] of the input size, for the fields over an image.
        sweeps: label of the model -> image size -> result, as from ``sweep_sizes``; also written to ``sweep.csv``.
        frequency: show frequency responses; the results need ``reduce="signed"``.
        checks: label of the model -> its check by measured changes.
        randomised: rows of ``randomise_field``, with ``model`` and ``layer``.
        difference: the names of two results, and how they differ.
        vector: format of a second file of each figure, "pdf" or "svg"; ``None`` leaves it out.

    Returns:
        Path of the page.

    Raises:
        ValueError: there are no results, or ``vector`` is another format.
    """
    if vector is not None:
        one_of("vector", vector, VECTORS)
    if not results:
        raise ValueError("`results` is empty; give at least one result.")
    folder = as_path("folder", folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "numbers.csv", [{"model": label, **row} for label, r in results.items() for row in r.rows()])
    if sweeps:
        rows = [{"model": label, **row} for label, sweep in sweeps.items() for row in sweep_rows(sweep)]
        write_csv(folder / "sweep.csv", rows)
    tables = _tables(results, sweeps, frequency, checks, randomised, difference)
    figures = _figures(WIDTH, results, image, sweeps, frequency, checks)
    wide = any(figure.get_figwidth() > NARROW for figure in figures.values())
    narrow = _figures(NARROW, results, image, sweeps, frequency, checks) if wide else {}
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    names = list(dict.fromkeys(key for r in results.values() for layer in r.layers for key in r.numbers(layer)))
    page = template.substitute(
        title=html.escape(title),
        facts="".join(f"<li>{html.escape(line)}</li>" for line in provenance(results)),
        warnings=_warnings(results),
        numbers=number_table(results, [name for name in MAIN if name in names]),
        more=_other_tables(results, names),
        figures="\n".join(
            _section(
                name,
                figures.get(name),
                narrow.get(name),
                tables.get(name, ""),
                _alt(name, results, sweeps, checks) if name in figures else "",
                folder,
                vector,
            )
            for name in sorted(dict.fromkeys([*figures, *tables]), key=lambda name: name != "difference")
        ),
        settings=_settings(results),
    )
    path = folder / "report.html"
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _with_theory(results: Mapping[str, ERFResult]) -> dict[str, ERFResult]:
    """The results to which theoretical fields have been added."""
    return {label: result for label, result in results.items() if theory_of(result)}


def _tables(
    results: Mapping[str, ERFResult],
    sweeps: Mapping[str, Mapping[Size, ERFResult]] | None,
    frequency: bool,
    checks: Mapping[str, FieldCheck] | None,
    randomised: Sequence[Mapping[str, Any]],
    difference: tuple[tuple[str, str], Comparison] | None,
) -> dict[str, str]:
    """All tables that stand below figures, as HTML by the figure's name; the arguments are those of ``write_report``."""
    tables: dict[str, str] = {}
    if difference is not None:
        tables["difference"] = difference_table(*difference)
    if theory := _with_theory(results):
        tables["theory"] = theory_table(theory)
    if sweeps:
        tables["sweep"] = sweep_table(sweeps)
    if frequency:
        tables["frequency"] = frequency_table(results)
    if checks or randomised:
        tables["checks"] = _warnings(checks or {}) + check_table(checks or {}, randomised)
    return tables


def _figures(
    page: float,
    results: Mapping[str, ERFResult],
    image: np.ndarray | None,
    sweeps: Mapping[str, Mapping[Size, ERFResult]] | None,
    frequency: bool,
    checks: Mapping[str, FieldCheck] | None,
) -> dict[str, "Figure"]:
    """All figures for a page of this width, by name; the other arguments are those of ``write_report``."""
    figures = draw_all(results, image, page)
    if (published := draw_published(results, page)) is not None:
        figures["published"] = published
    if theory := _with_theory(results):
        figures["theory"] = draw_growth(theory, page)
    if sweeps:
        figures["sweep"] = draw_sweep(sweeps, page)
    if frequency:
        figures["frequency"] = draw_responses(results, page)
    if checks:
        figures["checks"] = draw_checks(checks, page=page)
    return figures


def _section(
    name: str,
    figure: "Figure | None",
    narrow: "Figure | None",
    table: str,
    alternative: str,
    folder: Path,
    vector: str | None,
) -> str:
    """A figure with its heading, caption and ``alternative`` text, which is also written as files, and a table below; as HTML.

    Telephones show the ``narrow`` form of it, if there is one.
    """
    heading = f"<h2>{name.capitalize()}</h2>"
    if figure is None:
        return f'<section id="{name}">{heading}{table}</section>'
    picture = pixels(figure)
    write_picture(picture, folder / f"{name}.png")
    if vector is not None:
        write(figure, folder / f"{name}.{vector}")
    source = ""
    if narrow is not None:
        source = f'<source media="(max-width: 860px)" srcset="{embedded(pixels(narrow))}">'
    return (
        f'<figure id="{name}">{heading}<picture>{source}<img alt="{_escaped(alternative)}" '
        f'src="{embedded(picture)}" style="width: {figure.get_figwidth():.1f}in"></picture>'
        f"<figcaption>{html.escape(CAPTIONS[name])}</figcaption></figure>{table}"
    )


def _warnings(of: Mapping[str, ERFResult] | Mapping[str, FieldCheck]) -> str:
    """The warnings of results or checks, as HTML."""
    lines = [f"{label}: {line}" for label, result in of.items() for line in result.warnings]
    return "".join(f'<p class="warning">{html.escape(line)}</p>' for line in lines)


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)


def _alt(
    name: str,
    results: Mapping[str, ERFResult],
    sweeps: Mapping[str, Mapping[Size, ERFResult]] | None,
    checks: Mapping[str, FieldCheck] | None,
) -> str:
    """What a figure shows, for who does not see it: its subject, and a number of each layer, which is an area in most of them."""
    key, words, unit = ALTERNATIVES.get(name, ("area_90", "90 % of the mass on", " of the pixels"))
    if name == "sweep" and sweeps:
        results = {f"{label}, {h}×{w} px": r for label, sweep in sweeps.items() for (h, w), r in sweep.items()}
    told: list[tuple[str, dict[str, Number], str]] = []
    if name == "checks" and checks:
        for label, check in checks.items():
            ranks = {layer: n["rank"] for layer in check.layers if "rank" in (n := check.numbers(layer))}
            told.append((f"{label}: rank correlation of field and changes", ranks, ""))
    elif name == "frequency":
        for label, result in results.items():
            for kind, found in responses(result).items():
                cutoffs = {layer_label(result, layer): response.cutoff for layer, response in found.items()}
                told.append((f"{label}: {kind} cutoff", cutoffs, f" {UNITS[kind]}"))
    else:
        for label, result in results.items():
            numbers = {layer_label(result, layer): result.numbers(layer) for layer in result.layers}
            told.append((f"{label}: {words}", {layer: n[key] for layer, n in numbers.items() if key in n}, unit))
    parts = [f"{head} {', '.join(f'{k}: {measured(n)}' for k, n in of.items())}{end}" for head, of, end in told if of]
    return f"{CAPTIONS[name]} {'; '.join(parts)}."


def _other_tables(results: Mapping[str, ERFResult], names: list[str]) -> str:
    """All numbers, in tables of a few columns each, as HTML."""
    remaining, tables = list(names), []
    for heading, beginnings in GROUPS.items():
        members = [name for name in remaining if name.startswith(beginnings)]
        remaining = [name for name in remaining if name not in members]
        for i in range(0, len(members), COLUMNS):
            tables.append(f"<h3>{heading}</h3>{number_table(results, members[i : i + COLUMNS])}")
    return "\n".join(tables)


def _settings(results: Mapping[str, ERFResult]) -> str:
    """All settings of each result, as the entries of an HTML definition list."""
    items = {}
    for label, result in results.items():
        settings = {k: v for k, v in result.info.items() if k not in ("map_size", "spike_layers", "spikes_before")}
        items[label] = ", ".join(f"{k} {json.dumps(v)}" for k, v in settings.items())
    return "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in items.items())
