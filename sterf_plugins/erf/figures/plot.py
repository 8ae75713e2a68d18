"""Pictures of fields: maps, fields over an image, and spectra; ``curves.py`` draws lines."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..numbers.metrics import spectrum
from .curves import draw_frames, draw_lags, draw_profiles, draw_radial
from .sheet import SMALL, TITLE, WIDTH, Sheet, shortened, write
from .wording import Fields, Results, digits, layer_label, measured, provenance, quantity, target_cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure


COLORMAP = "viridis"
GREYS = [(i / 255,) * 3 for i in range(38, 256)]  # brightness of an image behind a field, from 0.15 to 1
TICKS = (0, 0.01, 0.1, 0.3, 1)  # of colour bars, as values before the cube root
_AREAS = "50 %, 90 %: smallest share of the pixels that holds so much of the mass, ± its standard error."
PIXELS = "Axes: pixels of the input. White cross: around the target's cell."


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


def cube_root(colours: Any = COLORMAP) -> Any:
    """Colours of values in [0, 1] by their cube root, as a ``ScalarMappable``; of a colormap, or a list of colours."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, PowerNorm

    return ScalarMappable(PowerNorm(1 / 3, 0, 1), ListedColormap(colours) if isinstance(colours, list) else colours)


def mark_target(ax: Any, top: float, bottom: float, left: float, right: float) -> None:
    """Four arms of a cross around a cell of the input, so that a small field inside stays visible."""
    from matplotlib.path import Path
    from matplotlib.patheffects import Normal, Stroke

    outline = [Stroke(linewidth=2.4, foreground="black"), Normal()]
    style = dict(markersize=20, color="white", markeredgewidth=1.1, path_effects=outline, gid="target")
    row, column = (top + bottom) / 2, (left + right) / 2
    for x, y, dx, dy in ((column, top, 0, 1), (column, bottom, 0, -1), (left, row, -1, 0), (right, row, 1, 0)):
        ax.plot(x, y, marker=Path([(0.55 * dx, 0.55 * dy), (dx, dy)]), **style)


def draw(result: Fields, path: str | os.PathLike | None = None, common: bool = False) -> "Figure":
    """Draw a panel per layer, titled with its name and its area ratios at 50 % and 90 % of the mass.

    Args:
        result: what to draw.
        path: file to write the figure to, if any: .png, .pdf or .svg.
        common: one brightness for all layers, that of their largest value; else each over its own maximum.
    """
    figure = draw_maps({"": result}, common)
    if path is not None:
        write(figure, path)
    return figure


def draw_maps(results: Results, common: bool = False, notes: list[str] | None = None, page: float = WIDTH) -> "Figure":
    """Rows of panels for each model, one per layer.

    Args:
        results: label of the model -> result.
        common: one brightness for all panels, that of their largest value; else each over its own maximum.
        notes: further lines for the foot of the figure.
        page: width of the page in inches.
    """
    names = dict.fromkeys(quantity(r) for r in results.values())
    of = " or ".join(names)
    largest = max((float(np.abs(f).max()) for r in results.values() for f in r.spatial.values()), default=1.0)
    over = f"over the largest of all panels, {digits(largest)}" if common else "over its maximum"
    bar = f"cube root of {of} {over} (numbers at the bar: before the root)"

    def paint(ax: Any, result: Fields, layer: str, letters: int) -> None:
        field = np.abs(result.spatial[layer]).astype(np.float64)
        top = largest if common else field.max()
        _show(ax, field / top if top > 0 else field, cube_root())
        mark_cells(ax, result, layer)
        numbers = result.numbers(layer)
        lines = [f"{n} %: {measured(numbers[f'area_{n}'])}" for n in (50, 90)]
        ax.set_title("\n".join([shortened(layer_label(result, layer), letters), *lines]), fontsize=TITLE)

    return _grid(results, paint, [*(notes or []), _AREAS, PIXELS], bar, page=page)


def draw_overlay(results: Results, image: np.ndarray, page: float = WIDTH) -> "Figure":
    """The fields over an image (H, W, 3) in [0, 1]: where a field is weak, the image is dark.

    A field of another size than the image is drawn without it.
    """
    of = " or ".join(dict.fromkeys(quantity(r) for r in results.values()))

    def paint(ax: Any, result: Fields, layer: str, letters: int) -> None:
        field = display_map(result.spatial[layer])
        if field.shape == image.shape[:2]:
            ax.imshow(np.clip(image * (0.15 + 0.85 * field[..., None]), 0, 1))
            pixel_axes(ax, *field.shape)
        else:
            _show(ax, field**3, cube_root(GREYS))
        mark_cells(ax, result, layer)
        ax.set_title(shortened(layer_label(result, layer), letters), fontsize=TITLE)

    bar = f"brightness of the image: cube root of {of} over its maximum (numbers at the bar: before the root)"
    return _grid(results, paint, [PIXELS], bar, lines=1, colours=cube_root(GREYS), page=page)


def draw_spectra(results: Results, page: float = WIDTH) -> "Figure":
    """Magnitude of each field's 2-d Fourier transform, zero frequency in the middle."""

    def paint(ax: Any, result: Fields, layer: str, letters: int) -> None:
        field = spectrum(result.spatial[layer])
        top = field.max()
        _show(ax, field / top if top > 0 else field, cube_root())
        for axis, n in ((ax.xaxis, field.shape[1]), (ax.yaxis, field.shape[0])):
            axis.set_ticks(*(([0, n // 2, n - 1], ["-½", "0", "½"]) if n > 2 else ([n // 2], ["0"])), fontsize=SMALL)
        ax.set_title(shortened(layer_label(result, layer), letters), fontsize=TITLE)

    bar = "cube root of the field's Fourier transform over its maximum (numbers at the bar: before the root)"
    return _grid(results, paint, ["Axes: cycles per pixel of the input."], bar, lines=1, page=page)


def _grid(
    results: Results,
    paint: Callable[[Any, Fields, str, int], None],
    notes: list[str],
    bar: str,
    lines: int = 3,
    colours: Any = None,
    page: float = WIDTH,
) -> "Figure":
    """Rows of panels for each model, one per layer with a spatial field, painted by ``paint(axes, result, layer, letters)``.

    Args:
        results: label of the model -> result.
        paint: draws a panel, whose title has room for so many letters.
        notes: lines for the foot of the figure, above what was computed of what.
        bar: label of the colour bar.
        lines: of a panel's title.
        colours: of the colour bar.
        page: width of the page in inches.
    """
    shapes = [f.shape for r in results.values() for f in r.spatial.values()]
    aspect = min(max([*(h / w for h, w in shapes), 0.2]), 3.0)  # a signal has one row
    layers = {name: [n for n in r.layers if n in r.spatial] for name, r in results.items()}
    groups = {name: len(names) for name, names in layers.items()}
    sheet = Sheet(groups, [" ".join(notes), *provenance(results, "spatial")], aspect, lines, page=page)
    for name, result in results.items():
        for ax, layer in zip(sheet.panels[name], layers[name], strict=True):
            paint(ax, result, layer, sheet.letters)
    sheet.outer_numbers()
    sheet.colour_bar(cube_root() if colours is None else colours, bar, TICKS)
    return sheet.figure


def _show(ax: Any, field: np.ndarray, colours: Any) -> None:
    """A map in [0, 1] in these colours, with its pixels along the axes."""
    ax.imshow(field, norm=colours.norm, cmap=colours.cmap, aspect="equal" if field.shape[0] > 1 else "auto")
    pixel_axes(ax, *field.shape)


def pixel_axes(ax: Any, height: int, width: int) -> None:
    """Numbers of the first, the middle and the last pixel along each axis."""
    for axis, n in ((ax.xaxis, width), (ax.yaxis, height)):
        axis.set_ticks([0, n // 2, n - 1] if n > 2 else range(n))
    if width > 2:  # the outer numbers end with the map, so that those of neighbours do not touch
        first, *_, last = ax.get_xticklabels()
        first.set_ha("left")
        last.set_ha("right")
    ax.tick_params(labelsize=SMALL, length=2, pad=1.5)


def mark_cells(ax: Any, result: Fields, layer: str) -> None:
    """A cross around the cell of each target of a layer."""
    for edges in target_cells(result, layer):
        mark_target(ax, *edges)


def draw_all(results: Results, image: np.ndarray | None = None, page: float = WIDTH) -> dict[str, "Figure"]:
    """All figures that these results allow, by name.

    Args:
        results: label of the model -> result.
        image: (H, W, 3) in [0, 1], for the fields over an image.
        page: width of the page in inches.
    """
    figures: dict[str, Figure] = {}
    spatial = {k: r for k, r in results.items() if r.spatial}
    if spatial:
        figures["maps"] = draw_maps(spatial, page=page)
        several = sum(len(r.spatial) for r in spatial.values()) > 1
        if several and not any(r.info.get("protocol") == "all" for r in spatial.values()):  # whose units are the same
            figures["scale"] = draw_maps(spatial, common=True, page=page)
        if image is not None:
            figures["overlay"] = draw_overlay(spatial, image, page)
        figures["profiles"] = draw_profiles(spatial, page)
        figures["radial"] = draw_radial(spatial, page)
        figures["spectra"] = draw_spectra(spatial, page)
    temporal = {k: r for k, r in results.items() if r.temporal}
    if temporal:
        figures["lags"] = draw_lags(temporal, page)
    framed = {k: r for k, r in results.items() if r.frames}
    if framed:
        figures["frames"] = draw_frames(framed, page)
    return figures
