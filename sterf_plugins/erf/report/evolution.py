"""How fields change during a training: a picture with a row for each step, and an animation."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...checks import as_path
from ...files import replacing
from ..figures.plot import draw_maps
from ..figures.sheet import pixels, write
from ..result import ERFResult

_FRAME_DURATION = 600  # milliseconds
_ROWS = 12  # of the picture, at most


def write_evolution(results: Mapping[int, ERFResult], folder: str | os.PathLike) -> np.ndarray:
    """Write ``evolution.png``, ``evolution.pdf`` and ``evolution.gif`` of the maps at each step.

    Args:
        results: training step -> result, in ascending order, at least one. The picture has at most twelve of them, the
            first, the last and others evenly between; results with other layers than the last one are left out.
        folder: folder to write to; it is made if it does not exist.

    Returns:
        The picture, (H, W, 3) uint8 RGB.
    """
    from PIL import Image

    folder = as_path("folder", folder)
    layers = list(results.values())[-1].layers
    alike = {f"step {step}": result for step, result in results.items() if result.layers == layers}
    figure = draw_maps(rows(alike))
    for suffix in ("png", "pdf"):
        write(figure, folder / f"evolution.{suffix}")
    pictures = [pixels(draw_maps({"": r}, notes=[f"{label}."]), 100) for label, r in alike.items()]
    height = max(map(len, pictures))  # notes may take more lines at one step than at another
    frames = [
        Image.fromarray(np.pad(picture, ((0, height - len(picture)), (0, 0), (0, 0)), constant_values=255))
        for picture in pictures
    ]
    animated: dict[str, Any] = dict(save_all=True, duration=_FRAME_DURATION, loop=0)
    with replacing(folder / "evolution.gif") as partial:
        frames[0].save(partial, append_images=frames[1:], **animated)
    return pixels(figure, 100)


def rows(results: Mapping[str, ERFResult]) -> dict[str, ERFResult]:
    """At most twelve of the results, the first, the last and others evenly between.

    The names of the rows say the steps, so that one line at the foot of the picture is about the weights of all.
    """
    count = min(_ROWS, len(results))
    chosen = {round(i * (len(results) - 1) / max(count - 1, 1)) for i in range(count)}
    shown = {label: result for i, (label, result) in enumerate(results.items()) if i in chosen}
    return {label: replace(r, info=r.info | (dict(step="n") if "step" in r.info else {})) for label, r in shown.items()}
