"""What a layer gave in one forward pass, as one map for each of its calls."""

from typing import Any

import torch
from torch import Tensor

from .capture import Output
from .evidence import Evidence
from .geometry import Geometry, by
from .layouts import to_map
from .selection import chosen_calls
from .volumes import to_volume


def maps_of(
    name: str, output: Output, geometry: Geometry, calls: str | int, evidence: Evidence, in_steps: bool
) -> dict[str, tuple[Tensor, bool]]:
    """By name, ``name`` or ``name#0``, ``name#1``, ... of several calls: (T, B, C, h, w), and whether its tokens' order is a guess.

    A model with a time axis may instead call its layers once, or several times, in each step of a loop.

    Args:
        name: the output's name.
        output: what the layer gave.
        geometry: what is known about the forward pass.
        calls: which calls are wanted, see ``selection.check_calls``.
        evidence: what is known about other modules of the model.
        in_steps: whether the model may loop over time although its number of steps is not known.

    Raises:
        ValueError: the layout is unclear, a map is empty, or there is no such call.
    """
    target = output.target
    maps: list[Tensor] = []
    timed = tokens = False
    for y in output.calls:
        options: dict[str, Any] = dict(grid=target.grid, layout=target.layout)
        if geometry.frames:
            y, tokens = to_volume(name, y, target.module, geometry, evidence, **options)
        else:
            y, timed, tokens = to_map(name, y, target.module, geometry, evidence, windows=target.windows, **options)
        if not y.numel():
            raise ValueError(
                f"layer {name!r} gives an empty {by(y.shape[3:])} map for inputs of {geometry}; use larger inputs."
            )
        size = tuple(y.shape[3:])
        if target.grid is None and target.layout is None and evidence.padded(target.name, size):
            raise ValueError(
                f"layer {name!r} gives a window of {by(size)} with padding, as the map is smaller than `window_size`; name the "
                f"block around it, or pass as `layout` a function that makes (B, C, h, w) of its output."
            )
        maps.append(y)
    count, steps = len(maps), geometry.steps
    if not timed and count > 1 and (count % steps == 0 if steps else in_steps):
        several = count // steps if steps else 1  # calls in each step
        maps = [torch.cat(maps[i::several]) for i in range(several)]
    chosen = chosen_calls(name, calls, len(maps))
    return {name if len(maps) == 1 else f"{name}#{i}": (maps[i], tokens) for i in chosen}
