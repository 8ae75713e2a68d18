"""Curves over depth, image size and frequency. Figures are made without pyplot, so no global state is touched."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .frequency import FrequencyResponse, spatial_response, temporal_response
from .result import ERFResult
from .sweep import Size, sweep_rows
from .theoretical_field import theory_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "os^Dv<>pPX*h"  # with the line's style they tell lines apart without colours


def _figure(rows: int, columns: int) -> tuple["Figure", Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.8 * columns, 3.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _look(i: int) -> dict[str, Any]:
    """How the line of the i-th layer looks."""
    return dict(color=f"C{i % 10}", marker=_MARKERS[i % len(_MARKERS)], ms=4, lw=1)


def _finish(ax: Any, title: str, xlabel: str, ylabel: str) -> None:
    ax.set_title(title, fontsize=9)
    ax.set_xlabel(xlabel, fontsize=8)
    ax.set_ylabel(ylabel, fontsize=8)
    ax.tick_params(labelsize=7, which="both")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=6)


def draw_growth(results: Mapping[str, ERFResult]) -> "Figure":
    """Theoretical and effective fields over depth: a panel per model, a point per layer, in pixels of a square's side.

    The effective side is the root of the 90 % area, with its standard error. What reaches beyond the image is drawn at
    the size that it has; what grows with the image, as an arrow at the upper edge.

    Args:
        results: label of the model -> result to which ``add_theory`` has added theoretical fields.
    """
    figure, axes = _figure(1, len(results))
    for ax, (label, result) in zip(axes[0], results.items(), strict=True):
        fields = theory_of(result)
        names = list(fields)
        x = np.arange(len(names))
        h, w = result.info["input_shape"][-2:]
        areas = [result.numbers(name)["area_90"] for name in names]
        sides = np.sqrt([a.value * h * w for a in areas])
        errors = [a.error * h * w / (2 * s) for a, s in zip(areas, sides, strict=True)]
        theory = np.array([np.sqrt(f.size[0] * f.size[1]) for f in fields.values()])
        top = 1.6 * max(h, w, *theory[np.isfinite(theory)])
        ax.plot(x, np.where(np.isfinite(theory), theory, np.nan), "k--s", ms=4, lw=1, label="theoretical")
        endless = np.flatnonzero(~np.isfinite(theory))
        if endless.size:
            ax.plot(x[endless], np.full(endless.size, top), "k^", ms=6, label="theoretical: whole image, however large")
        ax.errorbar(
            x, sides, errors, color="C0", marker="o", ms=4, lw=1, capsize=2, label="effective, 90 % of the mass"
        )
        ax.axhline(np.sqrt(h * w), color="0.5", lw=1, ls=":", label=f"image, {h}×{w}")
        ax.set_yscale("log")
        ax.set_ylim(top=top * 1.1)
        ax.set_xticks(x, names, rotation=30, ha="right")
        _finish(ax, label, "layer", "side of the field [px]")
    return figure


def draw_sweep(sweeps: Mapping[str, Mapping[Size, ERFResult]]) -> "Figure":
    """90 % area and r90 in pixels over image size: a row per model, a line per layer, with standard errors.

    Where ``add_theory`` has added theoretical fields to a result, dashed lines are their area, and half of their longer side.

    Args:
        sweeps: label of the model -> size -> result, as from ``sweep_sizes``.
    """
    figure, axes = _figure(len(sweeps), 2)
    for (areas, radii), (label, sweep) in zip(axes, sweeps.items(), strict=True):
        theory = next((fields for fields in map(theory_of, sweep.values()) if fields), {})
        rows = sweep_rows(sweep)
        sides = sorted({np.sqrt(row["height"] * row["width"]) for row in rows})
        for i, layer in enumerate(dict.fromkeys(row["layer"] for row in rows)):
            mine = [row for row in rows if row["layer"] == layer]
            x = [np.sqrt(row["height"] * row["width"]) for row in mine]
            field = theory.get(layer)
            for ax, name, limit in (
                (areas, "area_90_pixels", field.size[0] * field.size[1] if field else np.inf),
                (radii, "r90", field.side / 2 if field else np.inf),
            ):
                values, errors = ([row[key] for row in mine] for key in (name, f"{name}_error"))
                ax.errorbar(x, values, errors, capsize=2, label=layer, **_look(i))
                if np.isfinite(limit):
                    ax.plot(sides, [limit] * len(sides), color=f"C{i % 10}", ls="--", lw=0.9)
        areas.plot(sides, np.square(sides), color="0.5", ls=":", lw=1, label="whole image")
        radii.plot(sides, np.divide(sides, 2), color="0.5", ls=":", lw=1, label="half of the image's side")
        note = " (dashed: theoretical)" if theory else ""
        for ax, name in ((areas, f"90 % area [px²]{note}"), (radii, f"r90 [px]{note}")):
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_xticks(sides, [f"{side:.0f}" for side in sides])
            ax.minorticks_off()
            _finish(ax, label, "side of the image [px]", name)
    return figure


def draw_responses(results: Mapping[str, ERFResult]) -> "Figure":
    """Gain and phase over frequency: a row per model, columns for time and space, a line per layer.

    Gains are divided by each layer's largest; bands are standard errors. Each legend names the cutoff, where the gain has
    fallen to 1/√2 of its peak.

    Args:
        results: label of the model -> result with ``reduce="signed"``.
    """
    kinds = [k for k in ("temporal", "spatial") if any(getattr(r, k) for r in results.values())]
    figure, axes = _figure(len(results), 2 * len(kinds))
    for row, (label, result) in zip(axes, results.items(), strict=True):
        for column, kind in enumerate(kinds):
            gain_axes, phase_axes = row[2 * column : 2 * column + 2]
            unit = "cycles/step" if kind == "temporal" else "cycles/px"
            respond = temporal_response if kind == "temporal" else spatial_response
            for i, layer in enumerate(name for name in result.layers if name in getattr(result, kind)):
                draw_response(gain_axes, phase_axes, respond(result, layer), layer, unit, i)
            _finish(gain_axes, f"{label}: {kind} gain", f"frequency [{unit}]", "gain / its maximum")
            _finish(phase_axes, f"{label}: {kind} phase", f"frequency [{unit}]", "phase [rad]")
    return figure


def draw_response(gain_axes: Any, phase_axes: Any, response: FrequencyResponse, label: str, unit: str, i: int) -> None:
    """Add the i-th line to a panel of gains and one of phases."""
    top = response.gain.max()
    some = response.frequencies > 0
    f, gain, error = response.frequencies[some], response.gain[some] / top, response.gain_error[some] / top
    look = _look(i) | dict(markevery=(i, max(1, len(f) // 8)))
    value, deviation = response.cutoff.value, response.cutoff.error
    shown = "none" if not np.isfinite(value) else f"{value:.3f}" + (f" ± {deviation:.1g}" if deviation > 0 else "")
    gain_axes.loglog(f, gain, label=f"{label}: cutoff {shown} {unit}", **look)
    gain_axes.fill_between(f, np.maximum(gain - error, 1e-12), gain + error, color=look["color"], alpha=0.2, lw=0)
    gain_axes.set_ylim(max(1e-3, 0.5 * float(gain.min())), 1.3)
    phase_axes.semilogx(f, response.phase[some], label=label, **look)
