"""Windows of an attention: how a map was cut into them, and the map that they make together."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .geometry import Geometry, Grid, pair


@dataclass(frozen=True)
class Windows:
    """How a window attention cut its map.

    Attributes:
        size: (rows, columns) of a window.
        shift: rows and columns that the map was rolled by before it was cut.
        grid: (h, w) of the map; ``None`` if the model does not say.
        pad_first: whether the map was padded to whole windows before it was rolled, not after.
    """

    size: Grid
    shift: Grid
    grid: Grid | None
    pad_first: bool


def find_windows(ancestors: Iterable[nn.Module]) -> Windows | None:
    """The windows that a module works in; ``None`` if it is not inside a window attention.

    Args:
        ancestors: the module and those around it, from the inside outwards. The attention, or a part of it, has a
            ``window_size``; the module around it, which cuts the windows and joins them again, a ``shift_size``.
    """
    size = None
    for module in ancestors:
        if getattr(module, "shift_size", None) is not None:
            if size is None:
                return None  # the module cuts windows itself, or is beside the attention
            shift = pair(module.shift_size) or (0, 0)
            grid = pair(getattr(module, "input_resolution", None))
            return Windows(size, shift, grid, pad_first=not type(module).__module__.startswith("timm."))
        sizes = (pair(getattr(m, "window_size", None)) for m in module.modules())
        size = size or next(filter(None, sizes), None)
    return None


def join_windows(name: str, y: Tensor, geometry: Geometry, windows: Windows, grid: Grid | None) -> Tensor:
    """Join windows (T, B*windows, tokens, C) to the map (T, B, C, h, w), and undo the cyclic shift."""
    wh, ww = windows.size
    count = y.shape[1] // geometry.batch
    if y.shape[1] % geometry.batch or y.shape[2] != wh * ww:
        raise ValueError(
            f"layer {name!r} gives {tuple(y.shape[1:])}, which are no windows of {wh}x{ww} for a batch of "
            f"{geometry.batch}; name the block around it instead."
        )
    grid = grid or windows.grid or _window_grid(name, count, geometry, windows)
    h, w = grid
    rows, columns = -(-h // wh), -(-w // ww)
    if rows * columns != count:
        raise ValueError(f"layer {name!r} has {count} windows of {wh}x{ww}, not the {rows * columns} of a {h}x{w} map.")
    y = y.unflatten(2, (wh, ww)).unflatten(1, (geometry.batch, rows, columns))
    y = y.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)  # (T, B, C, rows * wh, columns * ww)
    if not windows.pad_first:
        y = y[..., :h, :w]
    y = torch.roll(y, windows.shift, dims=(-2, -1))
    return y[..., :h, :w]


def _window_grid(name: str, count: int, geometry: Geometry, windows: Windows) -> Grid:
    """The size of a map that was cut into ``count`` windows, without padding if there is one that fits so."""
    wh, ww = windows.size
    fitting = {g for g in geometry.grids() if -(-g[0] // wh) * -(-g[1] // ww) == count}
    unpadded = {g for g in fitting if g[0] % wh == 0 and g[1] % ww == 0}
    fitting = unpadded or fitting
    if len(fitting) != 1:
        choices = ", ".join(f"{a}x{b}" for a, b in sorted(fitting)) or "none"
        raise ValueError(
            f"layer {name!r} has {count} windows of {wh}x{ww}; maps that fit a {geometry} input: {choices}. "
            f"Pass grid=(rows, columns)."
        )
    return next(iter(fitting))
