"""Curves over depth, image size and frequency."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..figures.sheet import SMALL, TITLE, WIDTH, Sheet, logarithmic, shortened, styles
from ..figures.wording import common_labels, measured, provenance, where
from ..frequency import FrequencyResponse, spatial_response, temporal_response
from ..result import ERFResult
from ..sweep import Size, sweep_rows
from ..theory.field import theory_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_THEORY: dict[str, Any] = dict(linestyle=(0, (1, 1.2)), linewidth=1.1)
_IMAGE: dict[str, Any] = dict(color="0.72", linewidth=2.5, zorder=0)
UNITS = {"temporal": "cycles/step", "spatial": "cycles/px"}


def _finish(ax: Any, title: str, letters: int) -> None:
    ax.set_title(textwrap.fill(title, letters), fontsize=TITLE)
    ax.grid(alpha=0.25, linewidth=0.5)
    ax.tick_params(labelsize=SMALL, length=2, pad=1.5, which="both")


def draw_growth(results: Mapping[str, ERFResult], page: float = WIDTH) -> "Figure":
    """Theoretical and effective fields over depth: a panel per model, a point per layer, in pixels of a square's side.

    The effective side is the root of the 90 % area, with its standard error. What reaches beyond the image is drawn at
    the size that it has; what grows with the image, as an arrow at the upper edge.

    Args:
        results: label of the model -> result to which ``add_theory`` has added theoretical fields.
        page: width of the page in inches.
    """
    from matplotlib.lines import Line2D

    theoretical: dict[str, Any] = dict(color="black", marker="s", markersize=4, linewidth=1, linestyle="--")
    effective: dict[str, Any] = dict(color="#0072B2", marker="o", markersize=4, linewidth=1)
    endless_mark: dict[str, Any] = dict(color="black", marker="^", markersize=6, linestyle="none")
    notes = [
        "Across: layers in order of execution. Up: side in pixels of a square with the field's area. Effective: the smallest "
        "area that holds 90 % of the mass, ± standard error."
    ]
    sheet = Sheet({"": len(results)}, notes + provenance(results, "spatial"), 0.8, 1, 3, False, 0.8, 4.5, page)
    some_endless = False
    for ax, (name, result) in zip(sheet.panels[""], results.items(), strict=True):
        fields = theory_of(result)
        x = np.arange(len(fields))
        h, w = result.info["input_shape"][-2:]
        areas = [result.numbers(layer)["area_90"] for layer in fields]
        sides = np.sqrt([a.value * h * w for a in areas])
        errors = [a.error * h * w / (2 * s) for a, s in zip(areas, sides, strict=True)]
        theory = np.array([np.sqrt(f.size[0] * f.size[1]) for f in fields.values()])
        top = 1.6 * max(h, w, *theory[np.isfinite(theory)])
        ax.axhline(np.sqrt(h * w), **_IMAGE)
        ax.plot(x, np.where(np.isfinite(theory), theory, np.nan), **theoretical)
        endless = np.flatnonzero(~np.isfinite(theory))
        some_endless |= endless.size > 0
        ax.plot(x[endless], np.full(endless.size, top), **endless_mark)
        ax.errorbar(x, sides, errors, capsize=2, **effective)
        logarithmic(ax.yaxis)
        ax.set_ylim(top=top * 1.15)
        ticks = [where(result, layer) if layer in result.info.get("stages", {}) else layer for layer in fields]
        ax.set_xticks(x, [shortened(tick, 20) for tick in ticks], rotation=30, ha="right", rotation_mode="anchor")
        _finish(ax, f"{name}, images of {h}×{w}", sheet.letters)
    handles = [
        Line2D([], [], label="theoretical", **theoretical),
        *[Line2D([], [], label="theoretical: whole image, however large", **endless_mark)] * some_endless,
        Line2D([], [], label="effective, 90 % of the mass", **effective),
        Line2D([], [], label="side of the image", **_IMAGE),
    ]
    sheet.legend(handles)
    return sheet.figure


def draw_sweep(sweeps: Mapping[str, Mapping[Size, ERFResult]], page: float = WIDTH) -> "Figure":
    """90 % area and r90 in pixels over image size: a row per model, a line per layer, with standard errors.

    Where ``add_theory`` has added theoretical fields to a result, dotted lines are their area, and half of their longer side.

    Args:
        sweeps: label of the model -> size -> result, as from ``sweep_sizes``.
        page: width of the page in inches.
    """
    from matplotlib.lines import Line2D

    largest = {name: list(sweep.values())[-1] for name, sweep in sweeps.items()}
    found = [result for sweep in sweeps.values() for result in reversed(list(sweep.values()))]
    layers = list(dict.fromkeys(layer for result in found for layer in result.layers))
    look = dict(zip(layers, styles(len(layers)), strict=True))
    labels = common_labels(largest, layers)
    notes = [
        "Across: side of the image in pixels. Up: area that holds 90 % of the mass, and radius that holds 90 %; bars: ± standard "
        "error. Below: of the largest images."
    ]
    groups = dict.fromkeys(sweeps, 2)
    sheet = Sheet(groups, notes + provenance(largest, "spatial"), 0.65, 1, 2, False, 0.25, 4.0, page)
    for name, sweep in sweeps.items():
        theory = next((fields for fields in map(theory_of, sweep.values()) if fields), {})
        table = sweep_rows(sweep)
        sides = sorted({np.sqrt(row["height"] * row["width"]) for row in table})
        for layer in dict.fromkeys(row["layer"] for row in table):
            mine = [row for row in table if row["layer"] == layer]
            x = [np.sqrt(row["height"] * row["width"]) for row in mine]
            field = theory.get(layer)
            for ax, key, limit in zip(
                sheet.panels[name],
                ("area_90_pixels", "r90"),
                (field.size[0] * field.size[1], field.side / 2) if field else (np.inf, np.inf),
                strict=True,
            ):
                values, errors = ([row[k] for row in mine] for k in (key, f"{key}_error"))
                ax.errorbar(x, values, errors, capsize=2, **look[layer])
                if np.isfinite(limit):
                    ax.plot(sides, [limit] * len(sides), color=look[layer]["color"], **_THEORY)
        for ax, image, title in zip(
            sheet.panels[name],
            (np.square(sides), np.divide(sides, 2)),
            ("90 % area [px²]", "r90 [px]"),
            strict=True,
        ):
            ax.plot(sides, image, **_IMAGE)
            logarithmic(ax.xaxis, sides)
            logarithmic(ax.yaxis)
            _finish(ax, title if len(sweeps) > 1 else f"{name}: {title}", sheet.letters)
    handles = [Line2D([], [], **style, label=labels[layer]) for layer, style in look.items()]
    if any(theory_of(result) for result in largest.values()):
        handles.append(Line2D([], [], color="black", **_THEORY, label="theoretical: area, half of the longer side"))
    handles.append(Line2D([], [], **_IMAGE, label="image: area, half of its side"))
    sheet.legend(handles)
    return sheet.figure


def responses(result: ERFResult) -> dict[str, dict[str, FrequencyResponse]]:
    """Kind ("temporal", "spatial") -> layer -> frequency response, of a result with ``reduce="signed"``."""
    respond = dict(temporal=temporal_response, spatial=spatial_response)
    return {
        kind: {layer: function(result, layer) for layer in result.layers if layer in getattr(result, kind)}
        for kind, function in respond.items()
        if getattr(result, kind)
    }


def draw_responses(results: Mapping[str, ERFResult], page: float = WIDTH) -> "Figure":
    """Gain and phase over frequency: a row per model, or two for time and space, a line per layer.

    Gains are divided by each layer's largest; bands are standard errors. The panels of gains name the cutoffs, where the
    gain has fallen to 1/√2 of its peak.

    Args:
        results: label of the model -> result with ``reduce="signed"``.
        page: width of the page in inches.
    """
    from matplotlib.lines import Line2D

    layers = list(dict.fromkeys(layer for result in results.values() for layer in result.layers))
    look = dict(zip(layers, styles(len(layers)), strict=True))
    labels = common_labels(results, layers)
    found = {name: responses(result) for name, result in results.items()}
    notes = [
        "Across: frequency. Gain: over its maximum, band: ± standard error; grey line: 1/√2, where the cutoff is. Phase: in "
        "radians, negative where the output comes later."
    ]
    groups = {name: 2 * len(kinds) for name, kinds in found.items()}
    sheet = Sheet(groups, notes + provenance(results), 0.65, 1, 2, False, 0.25, 4.0, page)
    for name, kinds in found.items():
        panels = iter(sheet.panels[name])
        for kind, of_layers in kinds.items():
            gains, phases = next(panels), next(panels)
            for layer, response in of_layers.items():
                draw_response(gains, phases, response, look[layer])
            gains.legend(fontsize=SMALL, title=f"cutoff [{UNITS[kind]}]", title_fontsize=SMALL, loc="lower left")
            whose = f"{name}: " if len(results) == 1 and name else ""
            _finish(gains, f"{whose}{kind} gain by frequency [{UNITS[kind]}]", sheet.letters)
            _finish(phases, f"{whose}{kind} phase [rad] by frequency [{UNITS[kind]}]", sheet.letters)
    sheet.legend([Line2D([], [], **style, label=labels[layer]) for layer, style in look.items()])
    return sheet.figure


def draw_response(gain_axes: Any, phase_axes: Any, response: FrequencyResponse, look: Mapping[str, Any]) -> None:
    """Add a line of this look to a panel of gains, with its cutoff as the label, and to one of phases."""
    top = response.gain.max()
    some = response.frequencies > 0
    f, gain, error = response.frequencies[some], response.gain[some] / top, response.gain_error[some] / top
    style = dict(look, markevery=0.12)
    cutoff = measured(response.cutoff) if np.isfinite(response.cutoff.value) else "none"
    gain_axes.plot(f, gain, label=cutoff, **style)
    gain_axes.fill_between(f, np.maximum(gain - error, 1e-12), gain + error, color=look["color"], alpha=0.2, lw=0)
    gain_axes.axhline(1 / np.sqrt(2), color="0.72", linewidth=0.8, zorder=0)
    logarithmic(gain_axes.xaxis)
    logarithmic(gain_axes.yaxis)
    lowest = min(float(np.nanmin(line.get_ydata())) for line in gain_axes.lines)
    gain_axes.set_ylim(max(1e-3, 0.5 * lowest), 1.3)
    phase = response.phase[some]
    if (np.abs(np.diff(phase)) > 2).any():  # the sign changes, which says nothing of whole turns
        phase = np.angle(np.exp(1j * phase))
        phase[np.isclose(phase, -np.pi)] = np.pi
        phase[1:][np.abs(np.diff(phase)) > 2] = np.nan  # no line leads over it
    phase_axes.plot(f, phase, **style)
    logarithmic(phase_axes.xaxis)
