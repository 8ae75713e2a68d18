"""Lines of fields: sections with their Gaussians, means over rings, and the mass at each lag."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..numbers.gaussian import fit_gaussian
from ..numbers.lags import lag_mass
from ..numbers.metrics import radial_profile
from .sheet import SMALL, TITLE, WIDTH, Sheet, shortened, styles
from .wording import Fields, Results, common_labels, layer_label, measured, provenance, quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FLOOR = 1e-6  # of a profile's maximum; below it there is rounding in float32


def draw_profiles(results: Results, page: float = WIDTH) -> "Figure":
    """Centre row and column of each field, divided by the maximum, with the section of the fitted Gaussian."""
    from matplotlib.lines import Line2D

    layers = {name: [n for n in r.layers if n in r.spatial] for name, r in results.items()}
    of = " or ".join(dict.fromkeys(quantity(r) for r in results.values()))
    notes = [
        f"Across: pixels of the input. Up: {of} over its maximum. σ x, σ y: widths of the Gaussian along its axes nearer to the "
        f"horizontal and the vertical, ± standard error. R²: share of the map's variance that it explains."
    ]
    groups = {name: len(names) for name, names in layers.items()}
    sheet = Sheet(groups, notes + provenance(results, "spatial"), 0.8, 4, bar=False, page=page)
    rows = max(field.shape[0] for result in results.values() for field in result.spatial.values())
    shown = list(_SECTIONS)[: min(rows, 2)]  # a signal has no columns
    for name, result in results.items():
        for ax, layer in zip(sheet.panels[name], layers[name], strict=True):
            _sections(ax, result, layer, shown)
            numbers = result.numbers(layer)
            widths = {axis: numbers[f"sigma_{axis}"] for axis in "xy"[: len(shown)]}
            lines = [f"σ {axis}: {measured(n)}{' px' * math.isfinite(n.value)}" for axis, n in widths.items()]
            lines.append(f"R²: {measured(numbers['gaussian_r2'])}")
            ax.set_title("\n".join([shortened(layer_label(result, layer), sheet.letters), *lines]), fontsize=TITLE)
    sheet.outer_numbers()
    handles = [Line2D([], [], **_SECTIONS[name], label=name) for name in shown]
    handles += [Line2D([], [], **_GAUSSIANS[name], label=f"Gaussian, {name}") for name in shown]
    sheet.legend(handles)
    return sheet.figure


# Blue and orange of Okabe and Ito, which differ in grey, too.
_SECTIONS: dict[str, dict[str, Any]] = {
    "centre row": dict(color="#0072B2", linewidth=0.9),
    "centre column": dict(color="#E69F00", linewidth=0.9),
}
_GAUSSIANS: dict[str, dict[str, Any]] = {
    "centre row": dict(color="#00314d", linewidth=1.3, linestyle="--"),
    "centre column": dict(color="#7a5500", linewidth=1.3, linestyle=":"),
}


def _sections(ax: Any, result: Fields, layer: str, shown: list[str]) -> None:
    """Those of the centre row and column of a field that are shown, and the Gaussian's there."""
    field = np.abs(result.spatial[layer]).astype(np.float64)
    field = field / field.max()
    fit = fit_gaussian(field)
    # Through the Gaussian's centre, or the centre of mass where it has none in the map.
    masses = field.sum(1), field.sum(0)
    mean = [mass @ np.arange(len(mass)) / mass.sum() for mass in masses]
    inside = all(-0.5 <= v < n - 0.5 for v, n in zip((fit.row, fit.column), field.shape, strict=True))
    r, c = map(round, (fit.row, fit.column) if inside else mean)
    curves = ((field[r], fit.column, fit.sigma_x), (field[:, c], fit.row, fit.sigma_y))
    for name, (values, centre, sigma) in zip(shown, curves, strict=False):
        x = np.arange(len(values))
        ax.plot(x, values, **_SECTIONS[name])
        if sigma > 0:
            ax.plot(x, fit.amplitude * np.exp(-(((x - centre) / sigma) ** 2) / 2), **_GAUSSIANS[name])
    longer = max(field.shape)
    ax.set(xlim=(-0.5, longer - 0.5), ylim=(0, 1.05), xticks=[0, longer // 2, longer - 1], yticks=[0, 0.5, 1])
    ax.tick_params(labelsize=SMALL, length=2, pad=1.5)


def draw_radial(results: Results, page: float = WIDTH) -> "Figure":
    """Mean of each field over rings about its centre of mass, divided by the largest, on a logarithmic axis."""

    def curve(result: Fields, layer: str) -> tuple[np.ndarray, np.ndarray | None]:
        field = np.abs(result.spatial[layer])
        profile = radial_profile(field)
        error = result.spatial_error.get(layer)
        return profile, None if error is None else radial_profile(field, error)

    notes = [
        "Across: distance from the centre of mass in pixels of the input. Up: mean over the ring, over the largest such "
        "mean. Band: ± the mean standard error of the ring's pixels, which is at least that of their mean."
    ]
    return _lines(results, "spatial", curve, notes, page=page)


def draw_lags(results: Results, page: float = WIDTH) -> "Figure":
    """Share of each temporal field's mass at each lag, on a logarithmic axis: an exponential decay is a straight line."""

    def curve(result: Fields, layer: str) -> tuple[np.ndarray, np.ndarray]:
        shares, numbers = lag_mass(result.temporal[layer]), result.numbers(layer)
        return shares, np.array([numbers[f"lag_{i}"].error for i in range(len(shares))])

    notes = ["Across: lag in time steps. Up: share of the mass at this lag. Band: ± standard error."]
    return _lines(results, "temporal", curve, notes, scale=False, page=page)


def draw_frames(results: Results, page: float = WIDTH) -> "Figure":
    """Share of each field's mass in each frame of a video or slice of a volume."""

    def curve(result: Fields, layer: str) -> tuple[np.ndarray, np.ndarray | None]:
        field, error = result.frames[layer], result.frames_error.get(layer)
        return lag_mass(field), None if error is None else error / np.abs(field).sum()

    notes = [
        "Across: frame, or slice, counted from 0. Up: share of the mass in it. Band: ± standard error of this mass."
    ]
    return _lines(results, "frames", curve, notes, scale=False, page=page)


def _lines(results: Results, kind: str, curve, notes: list[str], scale: bool = True, page: float = WIDTH) -> "Figure":
    """A panel per model, a line per layer, on logarithmic axes that all panels share.

    Args:
        results: label of the model -> result.
        kind: the kind of field.
        curve: values of a layer, and their standard errors.
        notes: lines for the foot of the figure.
        scale: divide by the largest value.
        page: width of the page in inches.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator, NullFormatter

    names = list(dict.fromkeys(n for r in results.values() for n in r.layers if n in getattr(r, kind)))
    style = dict(zip(names, styles(len(names)), strict=True))
    labels = common_labels(results, names)
    panel = 4.5 if len(results) == 1 else 2.5
    drawn: dict[str, dict[str, tuple[np.ndarray, np.ndarray | None]]] = {}
    for name, result in results.items():
        for layer in (n for n in result.layers if n in getattr(result, kind)):
            values, error = curve(result, layer)
            top = values.max() if scale else 1.0
            shown = np.where(values > FLOOR * top, values / top, np.nan)
            drawn.setdefault(name, {})[layer] = shown, None if error is None else error / top
    each = np.concatenate([values for lines in drawn.values() for values, _ in lines.values()])
    bottom = 10 ** np.floor(np.log10(min(1.0, np.nanmin(each)))) / 2
    if np.isnan(each).any() and bottom >= FLOOR:
        notes = [f"{notes[0]} Not drawn: what is below {FLOOR:g}."]
    sheet = Sheet({"": len(results)}, notes + provenance(results, kind), 0.8, 1, 4, False, 0.2, panel, page)
    for ax, (name, result) in zip(sheet.panels[""], results.items(), strict=True):
        for layer, (values, error) in drawn[name].items():
            x = np.arange(len(values))
            ax.plot(x, values, markevery=max(1, len(values) // 12), **style[layer])
            if error is not None and np.isfinite(error).all():
                low = np.maximum(values - error, FLOOR / 10)
                ax.fill_between(x, low, values + error, color=style[layer]["color"], alpha=0.25, linewidth=0)
        ax.set_yscale("log")
        ax.yaxis.set_minor_formatter(NullFormatter())  # which writes long numbers within one decade
        ax.grid(alpha=0.25, linewidth=0.5)
        ax.tick_params(labelsize=SMALL, length=2, pad=1.5)
        ax.set_xlim(-0.02 * len(x), 1.02 * len(x) - 1)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        dagger = " †" if any(map(result.doubtful, result.layers)) else ""
        ax.set_title(shortened(name, sheet.letters - len(dagger)) + dagger, fontsize=TITLE)
    handles: list[Any] = [Line2D([], [], **style[name], label=labels[name]) for name in names]
    if bottom < FLOOR:
        handles.append(Patch(facecolor="0.85", hatch="////", edgecolor="0.6", label=f"below {FLOOR:g}: not drawn"))
    for ax in sheet.panels[""]:
        ax.set_ylim(bottom, 1.6)
        if bottom < FLOOR:
            ax.axhspan(bottom, FLOOR, facecolor="0.85", hatch="////", edgecolor="0.6", linewidth=0, gid="floor")
    sheet.legend(handles)
    return sheet.figure
