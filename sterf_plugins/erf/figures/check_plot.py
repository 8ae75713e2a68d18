"""A picture of checks: fields above the changes that were measured."""

import os
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..numbers.number import Number
from ..protocols import PROTOCOLS
from ..summary import counted
from .plot import COLORMAP, mark_target, pixel_axes
from .sheet import SMALL, TITLE, WIDTH, Sheet, write
from .wording import error_text, inputs, measured, told, weights

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


KINDS = {
    "field": "mass of |∂y/∂x|",
    "predicted": "predicted: |⟨∂y/∂x, Δx⟩|",
    "change": "measured: |Δy|",
    "live": "field, silent ones left out",
}
RANKS = {"field": "rank", "predicted": "predicted_rank", "live": "live_rank"}  # number of the agreement with "change"


def draw_checks(checks: Mapping[str, Check], path: str | os.PathLike | None = None, page: float = WIDTH) -> "Figure":
    """Draw a row for each model and layer, with a panel for each kind of map; each map linear, over its own maximum.

    Args:
        checks: label of the model -> its check.
        path: file to write the figure to, if any.
        page: width of the page in inches.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    entries = {", ".join(filter(None, [k, layer])): (c, layer) for k, c in checks.items() for layer in c.layers}
    kinds = {name: [k for k in KINDS if k in check.kinds] for name, (check, _) in entries.items()}
    any_live = any("live" in found for found in kinds.values())
    notes = [
        "ρ: rank correlation with the measured changes, ± standard error. Axes: pixels of the input. White cross: around the "
        "target's patch.",
        *["Silent ones: spike layers that never fire; their surrogate gradients are left out."] * any_live,
        *told(
            {name: _facts(check) for name, check in checks.items()},
            error_text(*(e for check in checks.values() for e in _errors(check))),
        ),
    ]
    sheet = Sheet({name: len(found) for name, found in kinds.items()}, notes, 1.0, 2, 4, panel=1.5, page=page)
    colours: Any = ScalarMappable(Normalize(0, 1), COLORMAP)
    for name, (check, layer) in entries.items():
        numbers = check.numbers(layer) if "change" in check.kinds else {}
        for ax, kind in zip(sheet.panels[name], kinds[name], strict=True):
            _show(ax, check, check.map(layer, kind), colours)
            rank = numbers.get(RANKS.get(kind, ""))
            title = textwrap.fill(KINDS[kind], sheet.letters)
            ax.set_title(title + (f"\nρ {measured(rank)}" if rank is not None else ""), fontsize=TITLE)
    sheet.outer_numbers()
    sheet.colour_bar(colours, "each map over its maximum, linear", (0, 0.25, 0.5, 0.75, 1))
    if path is not None:
        write(sheet.figure, path)
    return sheet.figure


def _show(ax: Any, check: Check, values: np.ndarray, colours: Any) -> None:
    """A map of patches, at the size of the input, with the target if it is in the middle."""
    height, width = check.info["input_shape"][-2:]
    rows, columns = values.shape
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal" if height > 1 else "auto")
    pixel_axes(ax, height, width)
    if not values.any():
        ax.text(0.5, 0.5, "no change", ha="center", va="center", fontsize=SMALL, transform=ax.transAxes)
        return
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    ax.imshow(values / values.max(), norm=colours.norm, cmap=colours.cmap, extent=extent, aspect=ax.get_aspect())
    protocol = PROTOCOLS.get(check.info.get("protocol") or "")
    if check.info.get("position", "center") == "center" and not (protocol and protocol.upper_left):
        down, right = height / rows, width / columns
        top, left = rows // 2 * down - 0.5, columns // 2 * right - 0.5
        mark_target(ax, top, top + down, left, left + right)


def _facts(check: Check) -> list[str]:
    """Whose weights, what was done to how many inputs, and for which unit."""
    info = check.info
    rows, columns = info["cells"]
    changes = {"mean": "occluded by the mean", "other": "taken from another input", "flip": "with one spike flipped"}
    how = changes.get(str(info["by"]), f"with noise of {info['by']} standard deviations")
    parts = [weights(check)]
    calibrated = info.get("calibrated")
    parts += [f"BatchNorm statistics calibrated on {counted(calibrated['inputs'], 'input')}"] if calibrated else []
    parts.append(inputs(check))
    parts += [f"{rows}×{columns} patches {how}"] if "change" in check.kinds else []
    return [*parts, f"unit: target {info.get('position', 'center')}, channels {info.get('channels', 'auto')}"]


def _errors(check: Check) -> list[float]:
    """The relative error of each layer's maps."""
    return [_relative_error(maps) for maps in check.maps.values()]


def _relative_error(maps: np.ndarray) -> float:
    """Norm of the standard error over that of the mean of a layer's maps (N, kinds, rows, columns), of the worst kind."""
    error = maps.std(0, ddof=1) / len(maps) ** 0.5 if len(maps) > 1 else np.full(maps.shape[1:], np.nan)
    norms = [np.linalg.norm(value.reshape(len(value), -1), axis=1) for value in (error, maps.mean(0))]
    return float(np.max(norms[0][norms[1] > 0] / norms[1][norms[1] > 0], initial=0.0))
