"""How fields change during a training, as a strip of pictures and an animation per layer."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replacing
from .plot import map_image, strip_image
from .result import ERFResult

_FRAME_DURATION = 600  # milliseconds


def write_evolution(results: Mapping[int, ERFResult], folder: str | os.PathLike) -> dict[str, np.ndarray]:
    """Write ``<layer>.strip.png`` and ``<layer>.gif`` of the maps at each step.

    Args:
        results: training step -> result, in ascending order, at least one. Pictures are made of the layers of the last
            result; a result that lacks a layer, or has its map in another size, is left out of that layer's pictures.
        folder: folder to write to; it is made if it does not exist.

    Returns:
        Layer name -> strip of its n maps, an (H, n * (W + 2), 3) uint8 RGB picture.
    """
    from PIL import Image

    folder = Path(folder)
    last = list(results.values())[-1]
    strips: dict[str, np.ndarray] = {}
    animated: dict[str, Any] = dict(save_all=True, duration=_FRAME_DURATION, loop=0)
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
