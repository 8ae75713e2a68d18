"""Turn the output of a layer, whatever its layout, into one time-first map (T, B, C, h, w).

Grids of tokens are inferred from the input size and the strides that the model can have, never from a square root.
Where two answers fit, an error says which argument decides. Maps of signals have one row; those of videos and volumes are
in ``volumes.py``.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Size, Tensor, nn

from .evidence import Evidence, axis_orders, layout_of
from .geometry import Geometry, Grid
from .windows import Windows, join_windows

LAYOUTS = ("BCHW", "BHWC", "BCDHW", "BDHWC", "BNC", "BCN", "NBC", "BC")
Layout = str | Callable[[Tensor], Tensor] | None  # one of LAYOUTS, or what makes (B, C, H, W) of an output


def to_map(
    name: str,
    y: Tensor,
    module: nn.Module,
    geometry: Geometry,
    evidence: Evidence,
    *,
    windows: Windows | None = None,
    grid: Grid | None = None,
    layout: Layout = None,
) -> tuple[Tensor, bool, bool]:
    """A layer's output as (T, B, C, h, w), whether it came with a time axis, and whether its tokens' order is a guess.

    Args:
        name: the layer's name, for messages.
        y: (B, C, h, w), (B, h, w, C), (B, N, C), (B, C, N), (B, C), (B,), any of them with a time axis (T, B, ...),
            flattened time (T*B, ...), or windows (T*B*windows, tokens, C).
        module: the module that returned it; its type may tell which axis is the channels'.
        geometry: what is known about the forward pass.
        evidence: what is known about other modules of the model.
        windows: the windows that the layer works in, or ``None`` if it works in none.
        grid: (h, w) of the map, or ``None`` to infer it.
        layout: one of ``LAYOUTS`` (without the time axis), a function that makes (B, C, h, w) or (T, B, C, h, w) of the
            output, or ``None`` to infer it.

    Raises:
        ValueError: the layout is unclear; the message says which argument decides it.
    """
    said = layout is not None
    if callable(layout):
        y, layout, windows = layout(y), "BCHW", None
    elif isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        y, layout = _of_sequence(name, y, module, layout, geometry)
    if layout == "NBC":
        y, layout = y.transpose(0, 1), "BNC"
    timed, y = _split_time(name, y, geometry, windows)
    if windows is not None and y.ndim == 4 and y.shape[2] == windows.size[0] * windows.size[1]:
        return join_windows(name, y, geometry, windows, grid), timed, False
    if y.shape[1] != geometry.batch:
        raise ValueError(
            f"layer {name!r} gives {tuple(y.shape[1:])} for a batch of {geometry.batch}; its first axes are neither "
            f"(B, ...) nor (T, B, ...). Name another layer, such as the block around it."
        )
    rest = y.shape[2:]
    if layout is None:
        layout = _guess(name, rest, module, geometry, grid, evidence)
        if layout == "BCHW" and _weighs_tokens(y[:1, :1].detach()):
            raise ValueError(
                f"layer {name!r} gives {tuple(rest)} per input, the weights of an attention, whose rows sum to 1, and no map; name "
                f"the attention around it."
            )
    expected = {"BCHW": 3, "BHWC": 3, "BNC": 2, "BCN": 2, "BC": 1}.get(layout)
    if len(rest) == 0 and layout == "BC":
        y = y[..., None]
    elif len(rest) != expected:
        raise ValueError(f"layer {name!r} gives {tuple(rest)} per input, which is not `layout` {layout!r}.")
    if layout == "BC":
        return y[..., None, None], timed, False
    if layout == "BCHW":
        return y, timed, False
    if layout == "BHWC":
        return y.movedim(-1, 2), timed, False
    if layout == "BCN":
        y = y.transpose(-1, -2)
    inferred = grid is None and not (geometry.signal and said)
    h, w = grid or token_grid(name, y.shape[2], y.shape[3], geometry, evidence)
    prefix = y.shape[2] - h * w
    if prefix < 0:
        raise ValueError(f"layer {name!r} has {y.shape[2]} tokens, fewer than the {h}x{w} of `grid`.")
    return y[:, :, prefix:].unflatten(2, (h, w)).movedim(-1, 2), timed, inferred


def _of_sequence(
    name: str, y: Tensor, module: nn.RNNBase | nn.MultiheadAttention, layout: str | None, geometry: Geometry
) -> tuple[Tensor, str | None]:
    """An output of a recurrent layer or of an attention, and its layout, which ``batch_first`` tells of the first output.

    The others of a recurrent layer are the last states of its layers, (layers, B, C), which have no places.
    """
    if name.partition("[")[2] == "0]":
        told = "BNC" if module.batch_first else "NBC"
        return y, told if layout is None and geometry.steps is None else layout
    if isinstance(module, nn.MultiheadAttention):
        return y, layout
    if len(y) > 1:
        raise ValueError(
            f"layer {name!r} gives the last states of {len(y)} layers or directions, which have no places; what the layer gives at "
            f"each place is {name.partition('[')[0]}[0]."
        )
    return y[0], "BC"


def _split_time(name: str, y: Tensor, geometry: Geometry, windows: Windows | None) -> tuple[bool, Tensor]:
    """Whether there is a time axis, and (T, B or B*windows, ...)."""
    batch, steps = geometry.batch, geometry.steps
    if y.ndim == 0:
        raise ValueError(f"layer {name!r} gives a single number for the whole batch; a value per input is needed.")
    leads = y.ndim >= 2 and y.shape[1] == batch  # as (T, B, ...) does, or (B, C, ...) with C = B
    if steps is not None:
        # One input's (T * B, 1, h, w) looks like tokens (T, B, N, C).
        one_channel = batch == 1 and y.ndim == 4 and (steps == 1 or (y.shape[2], y.shape[3]) in geometry.grids())
        if leads and y.shape[0] == steps and not one_channel:
            return True, y
        if y.shape[0] == steps * batch:
            return True, y.unflatten(0, (steps, batch))
        if windows is not None and steps > 1 and y.shape[0] % (steps * batch) == 0:
            return True, y.unflatten(0, (steps, -1))
    elif leads and (y.ndim == 5 or y.shape[0] != batch):
        tokens = y.ndim == 3 and bool(_fitting(y.shape[0], geometry, geometry.grids()))
        if tokens or y.shape[0] == batch > 1 or (y.ndim < 5 and y.shape[0] % batch == 0):
            readings = "(T, B, ...) or (B, T, ...)" if y.ndim == 5 else "(T, B, ...) or (T*B, ...)"
            readings += ", or tokens (N, B, C), for which pass layout='NBC'" if tokens else ""
            raise ValueError(
                f"layer {name!r} gives {tuple(y.shape)} for a batch of {batch}, which may be {readings}; pass `inputs` with "
                f"their time axis, (T, N, C, H, W), or another `batch_size`."
            )
        return True, y
    elif windows is None and y.shape[0] != batch and y.shape[0] % batch == 0:
        count = y.shape[0] // batch
        raise ValueError(
            f"layer {name!r} gives {tuple(y.shape)} for a batch of {batch}: {count} time steps, windows, tokens, images or "
            f"proposals (RoIs) in the batch axis? If it is time, set the model's attribute T = {count}; otherwise name the block "
            f"around it, or pass as `layout` a function that makes (B, C, h, w) of its output."
        )
    return False, y[None]


def _guess(name: str, rest: Size, module: nn.Module, geometry: Geometry, grid: Grid | None, evidence: Evidence) -> str:
    """The layout of an output whose axes behind (T, B) are ``rest``."""
    grids = {grid: 0} if grid else geometry.grids()
    if len(rest) <= 1:
        return "BC"
    if len(rest) == 2:
        grids = grids if grid else {(1, 1): 1, **grids}  # class tokens may be kept apart from the others
        return _guess_of_tokens(name, rest, module, geometry, grids, evidence)
    if len(rest) == 3:
        return _guess_of_map(name, rest, module, geometry, grids, evidence)
    raise ValueError(
        f"layer {name!r} gives {tuple(rest)} per input; (C, H, W), (H, W, C), (N, C), (C, N) or (C,) are understood."
    )


def _guess_of_map(
    name: str, rest: Size, module: nn.Module, geometry: Geometry, grids: Mapping[Grid, int], evidence: Evidence
) -> str:
    """Whether the channels of a map are its first axis or its last: "BCHW" or "BHWC"."""
    known = layout_of(module)
    if known == "BCHW":
        return known
    fitting = ("BHWC",) if known else axis_orders(rest, grids)
    if len(fitting) == 2:
        likely = evidence.layout(name.partition("[")[0], module, rest, grids)
        if likely is not None:
            return likely
        raise ValueError(
            f"layer {name!r} gives {tuple(rest)} per input, which fits (C, H, W) and (H, W, C); pass "
            f"layout='BCHW' or layout='BHWC'."
        )
    layout, size = ("BHWC", rest[:2]) if fitting == ("BHWC",) else ("BCHW", rest[1:])
    if tuple(size) not in grids and (not geometry.has_aspect(size) or evidence.heads(rest)):
        raise ValueError(
            f"layer {name!r} gives {tuple(rest)} per input, which is no map of a {geometry} input; pass "
            f"layout={layout!r} if it is, or name the block around it."
        )
    return layout


def _guess_of_tokens(
    name: str, rest: Size, module: nn.Module, geometry: Geometry, grids: Mapping[Grid, int], evidence: Evidence
) -> str:
    """Whether the channels of tokens are the last axis or the first: "BNC" or "BCN"."""
    known = layout_of(module)
    if known != "BCHW" and _fitting(rest[0], geometry, grids) and evidence.across_tokens(rest[0]):
        raise ValueError(
            f"layer {name!r} gives {tuple(rest)} per input, and the first axis may be that of the channels, as in a layer that "
            f"mixes tokens; pass layout='BCN' if so, layout='BNC' if it is that of the tokens, or name the block around it."
        )
    if known is not None:
        return "BCN" if known == "BCHW" else "BNC"
    if geometry.signal:
        layout = evidence.token_layout(rest)
        if layout is None:
            raise ValueError(
                f"layer {name!r} gives {tuple(rest)} per signal; pass layout='BCN' if channels come first, or 'BNC'."
            )
        return layout
    if evidence.without_channels(rest, name.partition("[")[0]):
        raise ValueError(
            f"layer {name!r} gives {tuple(rest)} per input, rows and columns of a map without an axis of channels; pass "
            f"layout={{{name.partition('[')[0]!r}: lambda y: y[:, None]}}, or name a layer in it."
        )
    likely = evidence.token_layout(rest, name.partition("[")[0])
    if likely is not None:
        return likely
    tokens_first, tokens_last = (bool(_fitting(n, geometry, grids)) for n in rest)
    if not (tokens_first and tokens_last):
        return "BCN" if tokens_last else "BNC"
    likely = evidence.token_layout(rest)
    if likely is None:
        raise ValueError(
            f"layer {name!r} gives {tuple(rest)} per input, which fits (N, C) and (C, N); pass layout='BNC' or "
            f"layout='BCN'."
        )
    return likely


def _weighs_tokens(y: Tensor) -> bool:
    """Whether the values (..., queries, keys) are none below zero, and sum to 1 over the keys, as behind a softmax."""
    if y.shape[-1] == 1 or y.min() < 0:
        return False
    sums = y.sum(-1)
    return torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def prefix_counts(geometry: Geometry) -> tuple[int, ...]:
    """Numbers of tokens before those of the patches, the likeliest first: none, a class token, a distillation token too."""
    return (0, 1, 2) if geometry.prefix is None else (geometry.prefix, 0)


def _fitting(tokens: int, geometry: Geometry, grids: Mapping[Grid, int]) -> dict[Grid, tuple[int, int]]:
    """Grids that so many tokens can be, with how unlikely each is: its rank in ``grids``, then that of its prefix."""
    likely = prefix_counts(geometry)
    return {
        grid: (rank, likely.index(tokens - grid[0] * grid[1]))
        for grid, rank in grids.items()
        if tokens - grid[0] * grid[1] in likely
    }


def token_grid(name: str, tokens: int, channels: int, geometry: Geometry, evidence: Evidence) -> Grid:
    """The likeliest grid of so many tokens; an error if there is none, or more than one. A single token is one place."""
    if tokens == 1:
        return 1, 1
    if geometry.signal:
        return 1, tokens - _before_samples(tokens, geometry, evidence)
    fitting = _fitting(tokens, geometry, geometry.grids())
    if geometry.prefix is None:  # 5 or 6 tokens are rather queries or groups than a map of 2x2 behind class tokens
        fitting = {g: r for g, r in fitting.items() if r[1] == 0 or g[0] * g[1] > 4 or g in evidence.grids()}
    if not fitting:
        fitting = _fitting(tokens, geometry, dict.fromkeys(evidence.grids(), 0))
    if not fitting and geometry.prefix is None and len(geometry.sizes) == 1:  # registers, but no queries of a decoder
        before, learnt = {g: tokens - g[0] * g[1] for g in evidence.grids()}, evidence.prefixes(channels)
        fitting = {g: (0, count) for g, count in before.items() if count in learnt}
    if not fitting:
        other = "layout='BCN' if these are the channels, " if _fitting(channels, geometry, geometry.grids()) else ""
        raise ValueError(
            f"layer {name!r} has {tokens} tokens, which fit no grid of a {geometry} input at strides "
            f"{', '.join(map(str, geometry.strides))}; pass {other}grid=(rows, columns), or a function as `layout` if they belong "
            f"to several maps."
        )
    likeliest = [g for g, rank in fitting.items() if rank == min(fitting.values())]
    if len(likeliest) > 1:
        choices = ", ".join(f"{g[0]}x{g[1]}" for g in sorted(likeliest))
        raise ValueError(f"layer {name!r} has {tokens} tokens, which may be {choices}; pass grid=(rows, columns).")
    return likeliest[0]


def _before_samples(tokens: int, geometry: Geometry, evidence: Evidence) -> int:
    """How many class and register tokens are in front of those of a signal: by what the model says, or its convolutions give."""
    if geometry.prefix is not None:
        return geometry.prefix
    lengths = evidence.lengths()
    widths = {width for shape in evidence.shapes.values() if len(shape) == 3 for width in shape[1:]}
    learnt = {n for width in widths for n in evidence.prefixes(width) if tokens - n in lengths}
    return min(learnt) if learnt and tokens not in lengths else 0
