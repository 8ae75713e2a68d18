"""A picture of checks: fields above the changes that were measured."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .number import Number
from .plot import COLORMAP
from .sheet import SMALL, WIDTH, write
from .wording import measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Check(Protocol):
    """What is drawn: the part of a ``FieldCheck`` that its figure needs."""

    kinds: tuple[str, ...]
    info: dict[str, Any]

    @property
    def layers(self) -> list[str]: ...

    def map(self, layer: str, kind: str) -> np.ndarray: ...

    def numbers(self, layer: str) -> dict[str, Number]: ...


ROWS = {
    "field": "field: mass of\n|∂y/∂x|",
    "live": "field without\nsilent layers'\nsurrogates",
    "predicted": "predicted:\n|⟨∂y/∂x, Δx⟩|",
    "change": "measured:\n|Δy|",
}
COLUMNS = 8


def draw_checks(checks: Mapping[str, Check], path: str | os.PathLike | None = None) -> "Figure":
    """Draw a column for each model and layer, a row for each kind of map; each map linear, over its own maximum.

    Args:
        checks: label of the model -> its check.
        path: file to write the figure to, if any.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    entries = [(label, check, layer) for label, check in checks.items() for layer in check.layers]
    kinds = [kind for kind in ROWS if any(kind in check.kinds for check in checks.values())]
    columns = min(len(entries), COLUMNS)
    blocks = -(-len(entries) // columns)
    side = min((WIDTH - 1.3) / columns, 1.6)  # inches of a panel
    figure = Figure(figsize=(WIDTH, ((side + 0.1) * len(kinds) + 0.6) * blocks + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(blocks * len(kinds), columns, squeeze=False)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_box_aspect(1)
    for i, (label, check, layer) in enumerate(entries):
        column = axes[i // columns * len(kinds) :, i % columns]
        for ax, kind in zip(column, kinds, strict=False):
            if kind not in check.kinds:
                ax.text(0.5, 0.5, "none\nleft out", ha="center", va="center", fontsize=SMALL, transform=ax.transAxes)
                ax.spines[:].set_visible(False)
                continue
            values = check.map(layer, kind)
            if values.any():
                ax.imshow(values / values.max(), cmap=COLORMAP, vmin=0, vmax=1)
            else:
                ax.text(0.5, 0.5, "no change", ha="center", va="center", fontsize=SMALL, transform=ax.transAxes)
        title = [*label.split(", "), layer]
        if "change" in check.kinds:
            title.append(measured(check.numbers(layer)["rank"]))
        column[0].set_title("\n".join(filter(None, title)), fontsize=SMALL)
    for row in range(blocks * len(kinds)):
        axes[row, 0].set_ylabel(ROWS[kinds[row % len(kinds)]], fontsize=SMALL)
    for ax in axes[-len(kinds) :, (len(entries) - 1) % columns + 1 :].flat:
        ax.set_axis_off()
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), COLORMAP), ax=axes, shrink=0.5, aspect=30)
    bar.set_label("over the map's maximum, linear", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    notes = [*dict.fromkeys(map(_note, checks.values())), "above: rank correlation of field and measured changes"]
    figure.supxlabel("\n".join(notes), fontsize=SMALL)
    if path is not None:
        write(figure, path)
    return figure


def _note(check: Check) -> str:
    """What was done to how many inputs."""
    info = check.info
    rows, columns = info["cells"]
    changes = {"mean": "occluded by the mean", "other": "taken from another input", "flip": "with one spike flipped"}
    how = changes.get(str(info["by"]), f"with noise of {info['by']} standard deviations")
    parts = [f"{info['num_inputs']} inputs of {'×'.join(map(str, info['input_shape']))}"]
    parts += [f"{rows}×{columns} patches {how}"] if "change" in check.kinds else []
    parts += [f"{info['weights']} weights"] if info.get("weights") == "random" else []
    parts += [f"BatchNorm statistics of {info['calibrated']['inputs']} inputs"] if info.get("calibrated") else []
    return ", ".join(parts)
