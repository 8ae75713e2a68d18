"""Turn the output of a layer of a video or volume network, whatever its layout, into one map (1, B, C, d, h, w)."""

from dataclasses import replace

import torch
from torch import Size, Tensor, nn

from .evidence import Evidence, layout_of
from .geometry import Geometry, Grid, by
from .layouts import Layout, prefix_counts, to_map


def to_volume(
    name: str,
    y: Tensor,
    module: nn.Module,
    geometry: Geometry,
    evidence: Evidence,
    *,
    grid: Grid | None = None,
    layout: Layout = None,
) -> tuple[Tensor, bool]:
    """A layer's output as (1, B, C, d, h, w), and whether its tokens' order is a guess.

    Args:
        name: the layer's name, for messages.
        y: (B, C, d, h, w), (B, d, h, w, C), tokens (B, N, C) or (B, C, N), (B, C); (B, C, h, w) where slices have been
            joined; or slices in the batch, (B*d, ...).
        module: the module that returned it.
        geometry: what is known about the forward pass; its size is (D, H, W).
        evidence: what is known about other modules of the model.
        grid: (d, h, w) of the map, or ``None`` to infer it.
        layout: as in ``layouts.to_map``; a function makes (B, C, d, h, w) of the output.

    Raises:
        ValueError: the layout is unclear; the message says which argument decides it.
    """
    if callable(layout):
        y, layout = layout(y), "BCDHW"
    if layout == "NBC":
        y, layout = y.transpose(0, 1), "BNC"
    batch = geometry.batch
    if grid is not None and len(grid) != 3:
        raise ValueError(f"`grid` is {grid}; for inputs of {geometry} give (frames, rows, columns).")
    if y.ndim == 0 or y.shape[0] % batch:
        raise ValueError(f"layer {name!r} gives {tuple(y.shape)} for a batch of {batch}; name another layer.")
    if y.shape[0] != batch or y.ndim == 4:  # slices in the batch, or none any more
        slices = y.shape[0] // batch
        if slices not in {1, *_depths(geometry)}:
            raise ValueError(
                f"layer {name!r} gives {tuple(y.shape)} for a batch of {batch}, and {slices} is no number of slices of a "
                f"{geometry} input; name the block around it."
            )
        flat = replace(geometry, sizes=tuple(size[-2:] for size in geometry.sizes), batch=y.shape[0])
        flat_grid = None if grid is None else grid[1:]
        y, _, tokens = to_map(name, y, module, flat, evidence, grid=flat_grid, layout=layout)
        return y.unflatten(1, (batch, slices)).movedim(2, 3), tokens
    rest = y.shape[1:]
    layout = layout or _guess(name, rest, module, geometry)
    expected = {"BCDHW": 4, "BDHWC": 4, "BNC": 2, "BCN": 2, "BC": 1}.get(layout)
    if len(rest) != expected and (layout != "BC" or rest):
        raise ValueError(f"layer {name!r} gives {tuple(rest)} per input, which is not `layout` {layout!r}.")
    if layout == "BC":
        return y.reshape(1, batch, -1, 1, 1, 1), False
    if layout in ("BCDHW", "BDHWC"):
        return (y if layout == "BCDHW" else y.movedim(-1, 1))[None], False
    y = y.transpose(1, 2) if layout == "BNC" else y  # (B, C, N)
    found = grid or _token_grid(name, y.shape[2], geometry, evidence.model)
    prefix = y.shape[2] - found[0] * found[1] * found[2]
    if prefix < 0:
        raise ValueError(f"layer {name!r} has {y.shape[2]} tokens, fewer than the {by(found)} of `grid`.")
    return y[..., prefix:].unflatten(2, found)[None], grid is None


def _depths(geometry: Geometry) -> set[int]:
    """Numbers of slices or frames that a map may have."""
    frames = geometry.frames
    assert frames is not None
    return {n for k in range(7) for n in (-(-frames // 2**k), frames // 2**k) if n}


def _guess(name: str, rest: Size, module: nn.Module, geometry: Geometry) -> str:
    """The layout of an output whose axes behind the batch are ``rest``."""
    if len(rest) <= 1:
        return "BC"
    known = layout_of(module)
    if len(rest) == 2:
        return "BCN" if known == "BCHW" else "BNC"
    if len(rest) == 4:
        if known is not None:
            return "BCDHW" if known == "BCHW" else "BDHWC"
        grids = geometry.grids()
        first, last = (rest[2], rest[3]) in grids, (rest[1], rest[2]) in grids and rest[0] in _depths(geometry)
        if first and last:
            raise ValueError(
                f"layer {name!r} gives {tuple(rest)} per input, which fits (C, D, H, W) and (D, H, W, C); pass "
                f"layout='BCDHW' or layout='BDHWC'."
            )
        return "BDHWC" if last else "BCDHW"
    raise ValueError(
        f"layer {name!r} gives {tuple(rest)} per input; (C, D, H, W), (D, H, W, C), (N, C), (C, N) or (C,) are understood; "
        f"pass a function as `layout`."
    )


def _token_grid(name: str, tokens: int, geometry: Geometry, model: nn.Module) -> tuple[int, int, int]:
    """The likeliest grid of so many tokens: patches of the first convolution, merged over space before over slices.

    Raises:
        ValueError: none fits.
    """
    strides = [m.stride for m in model.modules() if isinstance(m, nn.Conv3d) and max(m.stride) > 1]
    patch = strides[0] if strides else (1, 1, 1)
    for over_slices in range(6):
        for prefix in prefix_counts(geometry):
            for over_space in range(7):
                factors = (2**over_slices, 2**over_space, 2**over_space)
                found = tuple(-(-n // (p * f)) for n, p, f in zip(geometry.sizes[0], patch, factors, strict=True))
                if torch.Size(found).numel() + prefix == tokens:
                    return found
    raise ValueError(
        f"layer {name!r} has {tokens} tokens, which fit no grid of a {geometry} input in patches of {by(patch)}; pass "
        f"grid=(frames, rows, columns)."
    )
