"""Pictures of receptive fields. Figures are made without pyplot, so no global state is touched."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..files import replacing
from .gaussian import fit_gaussian
from .lags import lag_mass
from .metrics import radial_profile, spectrum

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Fields(Protocol):
    """What is drawn: the part of an ``ERFResult`` that pictures need."""

    layers: list[str]
    spatial: dict[str, np.ndarray]
    temporal: dict[str, np.ndarray]

    @property
    def notes(self) -> list[str]: ...

    def area_ratio(self, layer: str, share: float = 0.5) -> float: ...

    def doubtful(self, layer: str) -> bool: ...


Results = Mapping[str, Fields]
_COLORMAP = "inferno"


def display_map(field: np.ndarray, top: float | None = None) -> np.ndarray:
    """Scale a map to [0, 1] for the eye: the cube root brings out the weak surround; numbers use the linear map.

    Of a signed map the absolute value is shown.

    Args:
        field: (H, W).
        top: the value that becomes 1; the map's own maximum unless given.
    """
    field = np.abs(field)
    top = field.max() if top is None else top
    return np.cbrt(np.minimum(field / top, 1)) if top > 0 else field


def map_image(field: np.ndarray) -> np.ndarray:
    """One map (H, W), scaled by ``display_map``, as an (H, W, 3) uint8 RGB picture."""
    from matplotlib import colormaps

    return (colormaps[_COLORMAP](display_map(field))[..., :3] * 255).round().astype(np.uint8)


def strip_image(fields: list[np.ndarray]) -> np.ndarray:
    """Maps (H, W) side by side, each scaled on its own, as an (H, n * (W + 2), 3) uint8 RGB picture."""
    pictures = [np.pad(map_image(field), ((0, 0), (0, 2), (0, 0)), constant_values=255) for field in fields]
    return np.concatenate(pictures, axis=1)


def _figure(rows: int, columns: int, width: float = 2.6, height: float = 2.8) -> tuple["Figure", Any]:
    """A figure and its axes (rows, columns), each ``width`` by ``height`` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns + 0.4, height * rows + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def write(figure: "Figure", path: str | os.PathLike) -> Path:
    """Write a figure, whole or not at all, and return the path; the path's suffix decides the format."""
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)
    return Path(path)


def draw(result: Fields, path: str | os.PathLike | None = None) -> "Figure":
    """Draw a panel per layer, titled with its name and its area ratios at 50 % and 90 % of the mass.

    Args:
        result: what to draw; layers without a spatial field have an empty panel.
        path: file to write the figure to, if any.
    """
    count = max(1, len(result.layers))
    columns = min(count, 5)
    figure, axes = _figure(-(-count // columns), columns)
    for ax, layer in zip(axes.flat, result.layers, strict=False):
        _panel(ax, result, layer)
    for ax in axes.flat[len(result.layers) :]:
        ax.set_axis_off()
    figure.supxlabel("\n".join(result.notes), fontsize=8)
    if path is not None:
        write(figure, path)
    return figure


def _panel(ax: Any, result: Fields, layer: str, top: float | None = None) -> None:
    """Draw one spatial field, over its own maximum or over ``top``, with its area ratios in the title."""
    if layer not in result.spatial:
        ax.set_axis_off()
        return
    area_50, area_90 = (result.area_ratio(layer, share) for share in (0.5, 0.9))
    mark = " †" if result.doubtful(layer) else ""
    title = f"{layer}{mark}\n50 %: {area_50:.3f}   90 %: {area_90:.3f}"
    _show(ax, display_map(result.spatial[layer], top), title, cmap=_COLORMAP, vmin=0, vmax=1)


def _grid(results: Results, paint: Callable[[Any, Fields, str], None], height: float = 2.8) -> tuple["Figure", Any]:
    """A row per model, a panel per layer, painted by ``paint(axes, result, layer)``."""
    columns = max(len(r.layers) for r in results.values())
    figure, axes = _figure(len(results), columns, height=height)
    for row, (name, result) in zip(axes, results.items(), strict=True):
        for i, ax in enumerate(row):
            if i < len(result.layers):
                paint(ax, result, result.layers[i])
            else:
                ax.set_axis_off()
        row[0].set_ylabel(name, fontsize=9)
    notes = dict.fromkeys(note for result in results.values() for note in result.notes)
    rows = {note: [name for name, result in results.items() if note in result.notes] for note in notes}
    everywhere = len(results)
    lines = [note if len(names) == everywhere else f"{', '.join(names)}: {note}" for note, names in rows.items()]
    figure.supxlabel("\n".join(lines), fontsize=8)
    return figure, axes


def _show(ax: Any, picture: np.ndarray, title: str, **options: Any) -> None:
    ax.imshow(picture, **options)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title, fontsize=8)


def draw_maps(results: Results, common: bool = False) -> "Figure":
    """A row per model, a column per layer; each map over its own maximum, or all over their ``common`` maximum."""
    tops = [float(np.abs(f).max()) for r in results.values() for f in r.spatial.values()]
    top = max(tops) if common else None
    return _grid(results, lambda ax, result, layer: _panel(ax, result, layer, top))[0]


def draw_overlay(results: Results, image: np.ndarray) -> "Figure":
    """The fields over an image (H, W, 3) in [0, 1]: where a field is weak, the image is dark.

    A field of another size than the image is drawn without it.
    """

    def paint(ax: Any, result: Fields, layer: str) -> None:
        field = display_map(result.spatial[layer])
        if field.shape == image.shape[:2]:
            _show(ax, np.clip(image * (0.15 + 0.85 * field[..., None]), 0, 1), layer)
        else:
            _show(ax, field, layer, cmap=_COLORMAP, vmin=0, vmax=1)

    return _grid(results, paint)[0]


def draw_profiles(results: Results) -> "Figure":
    """Centre row and column of each field, divided by the maximum, with the section of the fitted Gaussian."""

    def paint(ax: Any, result: Fields, layer: str) -> None:
        field = np.abs(result.spatial[layer]).astype(np.float64)
        field = field / field.max()
        fit = fit_gaussian(field)
        r, c = (min(max(round(v), 0), n - 1) for v, n in zip((fit.row, fit.column), field.shape, strict=True))
        for values, centre, sigma, color, label in (
            (field[r], fit.column, fit.sigma_x, "C0", "row"),
            (field[:, c], fit.row, fit.sigma_y, "C3", "column"),
        ):
            x = np.arange(len(values)) - centre
            ax.plot(x, values, color=color, lw=0.7, label=label)
            if sigma > 0:
                ax.plot(x, fit.amplitude * np.exp(-((x / sigma) ** 2) / 2), color=color, lw=1.2, ls="--")
        ax.set_title(f"{layer}\nσ {fit.sigma_x:.1f} × {fit.sigma_y:.1f} px, R² {fit.r2:.2f}", fontsize=8)
        ax.tick_params(labelsize=7)

    figure, axes = _grid(results, paint, height=2.2)
    axes[0, 0].legend(fontsize=7)
    return figure


def _lines(results: Results, kind: str, curve, xlabel: str, ylabel: str, log: bool) -> "Figure":
    """A panel per model, a line per layer: ``curve`` of the layer's field of this kind."""
    figure, axes = _figure(1, len(results), width=3.6, height=3.0)
    for ax, (name, result) in zip(axes[0], results.items(), strict=True):
        for i, layer in enumerate(result.layers):
            if layer in getattr(result, kind):
                values = curve(getattr(result, kind)[layer])
                ax.plot(
                    np.arange(len(values)),
                    values,
                    label=layer,
                    color=f"C{i % 10}",
                    marker="." if len(values) < 33 else None,
                )
        ax.set_title(name, fontsize=9)
        ax.set_xlabel(xlabel, fontsize=8)
        ax.tick_params(labelsize=7)
        if log:
            ax.set_yscale("log")
        ax.legend(fontsize=6)
    axes[0, 0].set_ylabel(ylabel, fontsize=8)
    return figure


def draw_radial(results: Results) -> "Figure":
    """Mean of each field over rings about its centre of mass, divided by the largest, on a logarithmic axis."""

    def curve(field: np.ndarray) -> np.ndarray:
        profile = radial_profile(np.abs(field))
        return np.maximum(profile / profile.max(), 1e-6)

    return _lines(results, "spatial", curve, "radius [px]", "mean over the ring / maximum", log=True)


def draw_lags(results: Results) -> "Figure":
    """Share of each temporal field's mass at each lag."""
    return _lines(results, "temporal", lag_mass, "lag [steps]", "share of the mass", log=False)


def draw_spectra(results: Results) -> "Figure":
    """Magnitude of each field's 2-d Fourier transform, zero frequency in the middle."""

    def paint(ax: Any, result: Fields, layer: str) -> None:
        _show(ax, display_map(spectrum(result.spatial[layer])), layer, cmap="viridis", vmin=0, vmax=1)

    return _grid(results, paint)[0]


def draw_all(results: Results, image: np.ndarray | None = None) -> dict[str, "Figure"]:
    """All figures that these results allow, by name.

    Args:
        results: label of the model -> result.
        image: (H, W, 3) in [0, 1], for the fields over an image.
    """
    figures: dict[str, Figure] = {}
    spatial = {k: r for k, r in results.items() if r.spatial}
    if spatial:
        figures["maps"] = draw_maps(spatial)
        if len(spatial) > 1:
            figures["scale"] = draw_maps(spatial, common=True)
        if image is not None:
            figures["overlay"] = draw_overlay(spatial, image)
        figures["profiles"] = draw_profiles(spatial)
        figures["radial"] = draw_radial(spatial)
        figures["spectra"] = draw_spectra(spatial)
    temporal = {k: r for k, r in results.items() if r.temporal}
    if temporal:
        figures["lags"] = draw_lags(temporal)
    return figures
