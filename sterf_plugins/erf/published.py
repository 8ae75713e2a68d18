"""Maps as the papers of their protocols show them: on a log scale, over their maximum, and so on."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .protocols import PROTOCOLS, protocol_of
from .result import ERFResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OURS = PROTOCOLS["st-erf"]  # whose maps other figures show


def draw_published(results: Mapping[str, ERFResult]) -> "Figure | None":
    """A panel for each layer that follows another protocol than ours, with what was done to its map; ``None`` without one.

    Args:
        results: label of the model -> result.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [
        (label, result, layer, protocol)
        for label, result in results.items()
        for layer in result.spatial
        if (protocol := protocol_of(result.info, layer)) not in (None, _OURS)
    ]
    if not panels:
        return None
    columns = min(len(panels), 5)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.7 * columns + 0.4, 2.9 * rows + 0.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, (label, result, layer, protocol) in zip(axes, panels, strict=False):
        assert protocol is not None
        image = ax.imshow(result.published_map(layer))
        figure.colorbar(image, ax=ax, fraction=0.046).ax.tick_params(labelsize=7)
        ax.tick_params(labelsize=7)
        ax.set_title(f"{label}\n{layer}\n{protocol.title}:\n{protocol.shown}", fontsize=8)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    return figure
