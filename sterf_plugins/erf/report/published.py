"""Maps as the papers of their protocols show them: on a log scale, over their maximum, and so on."""

import textwrap
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from ..figures.plot import COLORMAP, PIXELS, mark_cells, pixel_axes
from ..figures.sheet import SMALL, TITLE, WIDTH, Sheet, shortened
from ..figures.wording import layer_label, provenance
from ..protocols import PROTOCOLS, protocol_of
from ..result import ERFResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OURS = PROTOCOLS["st-erf"]  # whose maps other figures show


def draw_published(results: Mapping[str, ERFResult], page: float = WIDTH) -> "Figure | None":
    """A panel for each layer that follows another protocol than ours, with what was done to its map; ``None`` without one.

    Args:
        results: label of the model -> result.
        page: width of the page in inches.
    """
    panels = [
        (name, result, layer, protocol)
        for name, result in results.items()
        for layer in result.spatial
        if (protocol := protocol_of(result.info, layer)) not in (None, _OURS)
    ]
    if not panels:
        return None
    shown = {name: results[name] for name, *_ in panels}
    groups = {name: sum(panel[0] == name for panel in panels) for name in shown}
    aspect = max(result.spatial[layer].shape[0] / result.spatial[layer].shape[1] for _, result, layer, _ in panels)
    sheet = Sheet(
        groups, [PIXELS, *provenance(shown, "spatial")], min(aspect, 3.0), 3, 4, bar=False, ticks=0.45, page=page
    )
    for ax, (_, result, layer, protocol) in zip(chain(*sheet.panels.values()), panels, strict=True):
        assert protocol is not None
        field = result.published_map(layer)
        image = ax.imshow(field, cmap=COLORMAP)
        pixel_axes(ax, *field.shape)
        mark_cells(ax, result, layer)
        ends = np.linspace(field.min(), field.max(), 3)
        bar = sheet.figure.colorbar(image, ax=ax, location="bottom", aspect=16, pad=0.02, ticks=ends)
        bar.ax.set_xticklabels([f"{value:.2g}" for value in ends])
        bar.ax.tick_params(labelsize=SMALL)
        name, shown_as = (
            shortened(layer_label(result, layer), sheet.letters),
            textwrap.fill(f"{protocol.title}: {protocol.shown}", sheet.letters),
        )
        ax.set_title(f"{name}\n{shown_as}", fontsize=TITLE)
    return sheet.figure
