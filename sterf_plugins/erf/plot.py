"""Pictures of receptive fields. Figures are made without pyplot, so no global state is touched."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .result import ERFResult


def display_map(field: np.ndarray) -> np.ndarray:
    """Scale a map to [0, 1] for the eye: the cube root brings out the weak surround; numbers use the linear map."""
    top = field.max()
    return np.cbrt(field / top) if top > 0 else field


def draw(result: "ERFResult", path: str | os.PathLike | None = None) -> "Figure":
    """One panel per layer, titled with its name and its area ratios at 50 % and 90 % of the mass."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = max(1, len(result.layers))
    columns = min(count, 5)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.6 * columns, 2.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for i, layer in enumerate(result.layers):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(display_map(result.spatial[layer]), cmap="inferno", vmin=0, vmax=1)
        half, most = (result.area_ratio(layer, share) for share in (0.5, 0.9))
        axes.set_title(f"{layer}\n50 %: {half:.3f}   90 %: {most:.3f}", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    if path is not None:
        path = Path(path)
        partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        figure.savefig(partial, dpi=120)
        os.replace(partial, path)
    return figure


def map_image(field: np.ndarray) -> np.ndarray:
    """One map as an (H, W, 3) uint8 RGB picture."""
    from matplotlib import colormaps

    return (colormaps["inferno"](display_map(field))[..., :3] * 255).round().astype(np.uint8)
