"""A picture of checks: fields above the changes that were measured."""

import os
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .number import Number
from .plot import COLORMAP
from .sheet import SMALL, WIDTH, letters, shortened, write
from .wording import error_text, inputs, measured, weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Check(Protocol):
    """What is drawn: the part of a ``FieldCheck`` that its figure needs."""

    maps: dict[str, np.ndarray]
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
_PANEL = 0.87  # inches of a panel's side at least, for its title
_SIDES = 1.3  # inches beside the panels, for labels and the colour bar


def draw_checks(checks: Mapping[str, Check], path: str | os.PathLike | None = None, page: float = WIDTH) -> "Figure":
    """Draw a column for each model and layer, a row for each kind of map; each map linear, over its own maximum.

    Args:
        checks: label of the model -> its check.
        path: file to write the figure to, if any.
        page: width of the page in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    entries = [(label, check, layer) for label, check in checks.items() for layer in check.layers]
    kinds = [kind for kind in ROWS if any(kind in check.kinds for check in checks.values())]
    columns = min(len(entries), int((page - _SIDES) / _PANEL))
    blocks = -(-len(entries) // columns)
    side = min((page - _SIDES) / columns, 1.6)  # inches of a panel
    figure = Figure(figsize=(page, ((side + 0.1) * len(kinds) + 0.6) * blocks + 0.7), layout="constrained")
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
        title = [shortened(part, letters(side)) for part in [*label.split(", "), layer]]
        if "change" in check.kinds:
            title.append(f"ρ {measured(check.numbers(layer)['rank'])}")
        column[0].set_title("\n".join(filter(None, title)), fontsize=SMALL)
    for row in range(blocks * len(kinds)):
        axes[row, 0].set_ylabel(ROWS[kinds[row % len(kinds)]], fontsize=SMALL)
    for ax in axes[-len(kinds) :, (len(entries) - 1) % columns + 1 :].flat:
        ax.set_axis_off()
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), COLORMAP), ax=axes, shrink=0.5, aspect=30)
    bar.set_label("over the map's maximum, linear", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    facts = {name: _note(check) for name, check in checks.items()}
    notes = list(dict.fromkeys(facts.values()))
    notes = notes if len(notes) == 1 else [f"{name}: {fact}" for name, fact in facts.items()]
    notes.append("ρ: rank correlation of the field with the measured changes, ± standard error")
    lines = [textwrap.fill(note, letters(page)) for note in notes]
    figure.supxlabel("\n".join(lines), fontsize=SMALL, x=0.01, horizontalalignment="left")
    if path is not None:
        write(figure, path)
    return figure


def _note(check: Check) -> str:
    """Whose weights, what was done to how many inputs, for which unit, and how large the error is."""
    info = check.info
    rows, columns = info["cells"]
    changes = {"mean": "occluded by the mean", "other": "taken from another input", "flip": "with one spike flipped"}
    how = changes.get(str(info["by"]), f"with noise of {info['by']} standard deviations")
    parts = [weights(check)]
    parts += (
        [f"BatchNorm statistics calibrated on {info['calibrated']['inputs']} inputs"] if info.get("calibrated") else []
    )
    parts.append(inputs(check))
    parts += [f"{rows}×{columns} patches {how}"] if "change" in check.kinds else []
    parts.append(f"unit: target {info.get('position', 'center')}, channels {info.get('channels', 'auto')}")
    return "; ".join([*parts, error_text(*map(_relative_error, check.maps.values()))])


def _relative_error(maps: np.ndarray) -> float:
    """Norm of the standard error over that of the mean of a layer's maps (N, kinds, rows, columns), of the worst kind."""
    error = maps.std(0, ddof=1) / len(maps) ** 0.5 if len(maps) > 1 else np.full(maps.shape[1:], np.nan)
    norms = [np.linalg.norm(value.reshape(len(value), -1), axis=1) for value in (error, maps.mean(0))]
    return float(np.max(norms[0][norms[1] > 0] / norms[1][norms[1] > 0], initial=0.0))
