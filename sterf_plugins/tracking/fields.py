"""Receptive fields of SDTrack: what ``compute_erf`` must know to start from the same place in every layer."""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Several
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .crops import SEARCH_FACTOR, TEMPLATE_FACTOR, square_crop
from .sd_track import STRIDE, SDTrack, as_input
from .sequences import Sequence

# The stages, and the score before the sigmoid and before the mean over time steps.
LAYERS = (
    *(f"backbone.stages.{i}" for i in range(3)),
    *(f"backbone.stages.{i}.blocks" for i in (3, 4)),
    "head.branches.score",
)
CELL = "cell"  # entry of a batch: (B, 2), row and column in the score map


def field_options(network: SDTrack, template_size: int, search_size: int) -> dict[str, Any]:
    """Arguments of ``compute_erf(network, dict(template=…, search=…), …)`` that make each layer a map of the search region.

    The first stages' maps are of the whole canvas, and the last stages' are tokens, of which the search region's are read row
    by row; so a ``position`` means the same place of the search region in all of them. If a batch has the entry ``CELL``, the
    maps have one pixel, which lies at that cell of the score map, for each input another one.

    Args:
        network: the tracker.
        template_size: side of the template in pixels.
        search_size: side of the search region in pixels.
    """
    z, s = template_size // STRIDE, search_size // STRIDE
    cells: Tensor | None = None

    def forward(network: SDTrack, batch: Mapping[str, Any]) -> Any:
        nonlocal cells
        cells = batch.get(CELL)
        return network(batch["template"], batch["search"])

    def in_time(x: Tensor) -> Tensor:
        """The map of the search region, or its pixel at the cell, with the time axis first if there is one."""
        if cells is not None:
            row, column = ((cells + 0.5) * x.shape[-1] / s).long().repeat(network.T, 1).T
            x = x[torch.arange(len(x), device=x.device), :, row, column, None, None]
        return x.unflatten(0, (network.T, -1)) if network.T > 1 else x

    def of_canvas(x: Tensor) -> Tensor:
        side = x.shape[-1] * s // (s + z)
        return in_time(x[..., :side, :side])

    def of_tokens(x: Tensor) -> Tensor:
        return in_time(x.flatten(2)[..., z * z : z * z + s * s].unflatten(2, (s, s)))

    layout: dict[str, Callable[[Tensor], Tensor]] = {
        "backbone.stages.[012]*": of_canvas,
        "backbone.stages.3.downsample*": of_canvas,
        "backbone.stages.[34].blocks*": of_tokens,
        "head.*": in_time,
    }
    return dict(forward=forward, layout=layout, wrt=("template", "search"), target_in="search")


@torch.no_grad()
def highest_cell(network: SDTrack, template: Tensor, search: Tensor) -> Tensor:
    """Row and column (B, 2) of the highest score, by which the tracker decides where the object is."""
    score = network(template, search).score
    cell = score.flatten(1).argmax(1)
    return torch.stack([cell.div(score.shape[-1], rounding_mode="floor"), cell % score.shape[-1]], 1)


def labelled_pairs(sequences: Several[Sequence], count: int, sizes: tuple[int, int]) -> list[dict[str, Tensor]]:
    """Pairs of a template and a later search region around labelled boxes, so that the object is in the middle of both.

    Args:
        sequences: where they are from, evenly spread.
        count: number of pairs, or fewer if there are not so many.
        sizes: sides of template and search region in pixels.

    Returns:
        dict(template (1, 3, Z, Z), search (1, 3, S, S)), of several time steps (T, 1, 3, ., .); values 0 to 255.

    Raises:
        ValueError: no sequence has two images with a box; an image cannot be read.
    """
    frames = [(sequence, np.flatnonzero(sequence.valid)) for sequence in sequences]
    found = [(sequence, int(valid[0]), int(later)) for sequence, valid in frames for later in valid[1:]]
    if not found:
        raise ValueError(f"none of {len(sequences)} sequences has two images with a box.")
    count = min(count, len(found))
    chosen = [found[i * len(found) // count] for i in range(count)]
    return [
        dict(
            template=as_input(square_crop(s.image(first), s.boxes[first], TEMPLATE_FACTOR, sizes[0]).pixels),
            search=as_input(square_crop(s.image(later), s.boxes[later], SEARCH_FACTOR, sizes[1]).pixels),
        )
        for s, first, later in chosen
    ]
