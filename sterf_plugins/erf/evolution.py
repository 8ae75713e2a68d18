"""Fields over a training: a strip and an animation per layer."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replacing
from .plot import map_image, strip_image
from .result import ERFResult

_FRAME = 600  # ms


def write_evolution(results: Mapping[int, ERFResult], folder: str | os.PathLike) -> dict[str, np.ndarray]:
    """Write ``<layer>.strip.png`` and ``<layer>.gif`` of the maps at each step.

    Args:
        results: step -> result, in order; layers that only some of them have, or in another size, are left out there.
        folder: where to.

    Returns:
        The strips, (H, n * (W + 2), 3) uint8 RGB, by layer.
    """
    from PIL import Image

    folder = Path(folder)
    last = list(results.values())[-1]
    strips: dict[str, np.ndarray] = {}
    animated: dict[str, Any] = dict(save_all=True, duration=_FRAME, loop=0)
    for layer, field in last.spatial.items():
        fields = [
            r.spatial[layer] for r in results.values() if layer in r.spatial and r.spatial[layer].shape == field.shape
        ]
        strips[layer] = strip_image(fields)
        frames = [Image.fromarray(map_image(f)) for f in fields]
        name = layer.replace("/", "-")
        for path, image, options in (
            (folder / f"{name}.strip.png", Image.fromarray(strips[layer]), {}),
            (folder / f"{name}.gif", frames[0], animated | dict(append_images=frames[1:])),
        ):
            with replacing(path) as partial:
                image.save(partial, **options)
    return strips
