"""Inputs of trackers for ``tools/erf.py``: pairs of a template and a search region."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..events import Events, gtp
from ..events.recording import Recording
from ..tracking.crops import SEARCH_FACTOR, TEMPLATE_FACTOR, square_crop
from ..tracking.fields import CELL, highest_cell
from ..tracking.sequences import Sequence
from .loading import Loaded

RATE = 0.4  # random events of a pixel in an image


def region_sizes(loaded: Loaded) -> tuple[int, int]:
    """Sides of template and search region in a config's test."""
    dataset = (loaded.config.get("test_dataloader") or {}).get("dataset", {})
    return dataset.get("template_size", 128), dataset.get("search_size", 256)


def tracker_inputs(source: str, loaded: Loaded, count: int, seed: int, peak: bool = False) -> list[dict[str, Tensor]]:
    """Batches of one pair each, as ``compute_erf`` takes them with ``tracking.fields.field_options``.

    Args:
        source: "noise" for images of random events; "val" for the data set of the config's test, or the folder of another one
            in the same layout. There, the search region lies around the labelled box, so that the object is in its middle.
        loaded: the tracker.
        count: number of pairs, or fewer if there are not so many.
        seed: seed of the random events.
        peak: add the cell of the highest score.

    Raises:
        ValueError: the data set cannot be read, or has no box with an area.
    """
    network: Any = loaded.model.network
    sides = region_sizes(loaded)
    if source == "noise":
        rng = np.random.default_rng(seed)
        pairs = [[_random_image(rng, side, network.T) for side in sides] for _ in range(count)]
    else:
        pairs = [_crops(*found, sides) for found in _labelled(source, loaded, count)]
    device = next(network.parameters()).device
    batches = [dict(template=_tensor(a).to(device), search=_tensor(b).to(device)) for a, b in pairs]
    return [batch | {CELL: highest_cell(network, **batch)} for batch in batches] if peak else batches


def _random_image(rng: np.random.Generator, side: int, T: int) -> np.ndarray:
    """The fourth event image of random events, uint8 (T, side, side, 3)."""
    times = np.arange(5) * 1000
    number = int(4 * RATE * side**2)
    t, *rest = (np.sort(rng.integers(0, 4000, number)), *(rng.integers(0, n, number) for n in (side, side, 2)))
    events = Events.of(t, *rest)
    recording = Recording(Path("random events"), (side, side), lambda: iter([events]))
    return np.stack([image.pixels for image in gtp(recording, times, T) if image.interval == 3])


def _labelled(source: str, loaded: Loaded, count: int) -> list[tuple[Sequence, int, int]]:
    """Sequences, their first images with a box, and later ones, evenly spread over the data set."""
    from mmengine.registry import DATASETS

    from ..openmmlab.runtime.dataset_images import spread

    other = {} if source == "val" else dict(data_root=source)
    dataset = DATASETS.build(dict(loaded.config.test_dataloader.dataset, **other))
    frames = [(s, np.flatnonzero(s.valid)) for s in dataset.sequences]
    found = [(s, int(valid[0]), int(later)) for s, valid in frames for later in valid[1:]]
    if not found:
        raise ValueError(f"--images {source}: no sequence has two images with a box.")
    return [found[i] for i in spread(count, found)]


def _crops(sequence: Sequence, first: int, later: int, sides: tuple[int, int]) -> list[np.ndarray]:
    """Template and search region, uint8 (T, side, side, 3)."""
    crops = [
        square_crop(sequence.image(frame), sequence.boxes[frame], factor, side).pixels
        for frame, factor, side in zip((first, later), (TEMPLATE_FACTOR, SEARCH_FACTOR), sides, strict=True)
    ]
    return [pixels if pixels.ndim == 4 else pixels[None] for pixels in crops]


def _tensor(pixels: np.ndarray) -> Tensor:
    """Floats 0 to 255, (1, 3, side, side), or (T, 1, 3, side, side) of several steps."""
    x = torch.from_numpy(pixels).float().movedim(-1, 1).unsqueeze(1)
    return x if len(x) > 1 else x[0]
