"""Triton kernels of ``norm_fire``: rows are pixels, columns are channels, as in channels-last memory.

Sums are taken per program and added up by PyTorch: the same numbers in every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = triton.knobs.runtime.interpret  # then the kernels run anywhere, slowly
TILES = 8  # tiles of rows that one program walks over where it sums


@triton.jit
def _statistics(X, MEAN, SQUARES, rows, C, TILES: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr):
    """Mean, and sum of squared distances from it, of a program's rows."""
    block = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    first = block * BR * TILES
    shift = tl.load(X + first.to(tl.int64) * C + c, mask=c < C, other=0.0).to(ACC)  # keeps the squares small
    total = tl.zeros((BC,), dtype=ACC)
    squares = tl.zeros((BC,), dtype=ACC)
    for tile in range(TILES):
        r = first + tile * BR + tl.arange(0, BR)
        inside = (r < rows)[:, None] & (c < C)[None, :]
        x = tl.load(X + r.to(tl.int64)[:, None] * C + c[None, :], mask=inside, other=0.0).to(ACC)
        x = tl.where(inside, x - shift[None, :], 0.0)
        total += tl.sum(x, axis=0)
        squares += tl.sum(x * x, axis=0)
    count = tl.minimum(rows - first, BR * TILES).to(ACC)
    tl.store(MEAN + block * C + c, shift + total / count, mask=c < C)
    tl.store(SQUARES + block * C + c, squares - total * total / count, mask=c < C)


@triton.jit
def _normalised(X, MEAN, INVSTD, WEIGHT, BIAS, r, c, rows, C, ACC: tl.constexpr):
    """(x - mean) / std, the norm's output, and where they are."""
    inside = (r < rows)[:, None] & (c < C)[None, :]
    where = r.to(tl.int64)[:, None] * C + c[None, :]
    x = tl.load(X + where, mask=inside, other=0.0).to(ACC)
    mean = tl.load(MEAN + c, mask=c < C, other=0.0).to(ACC)
    invstd = tl.load(INVSTD + c, mask=c < C, other=0.0).to(ACC)
    weight = tl.load(WEIGHT + c, mask=c < C, other=0.0).to(ACC)
    bias = tl.load(BIAS + c, mask=c < C, other=0.0).to(ACC)
    unit = (x - mean[None, :]) * invstd[None, :]
    return unit, unit * weight[None, :] + bias[None, :], where, inside


@triton.jit
def _fire(
    X, MEAN, INVSTD, WEIGHT, BIAS, Y, COUNTS, rows, C, LEVELS: tl.constexpr, SCALE: tl.constexpr, MAGIC: tl.constexpr,
    KEEP_COUNTS: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * BR + tl.arange(0, BR)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    _, y, where, inside = _normalised(X, MEAN, INVSTD, WEIGHT, BIAS, r, c, rows, C, ACC)
    y = tl.clamp(y, 0.0, LEVELS, propagate_nan=tl.PropagateNan.ALL)
    count = (y + MAGIC) - MAGIC  # a number so large that adding it rounds, half to even
    tl.store(Y + where, (count * SCALE).to(Y.dtype.element_ty), mask=inside)
    if KEEP_COUNTS:
        tl.store(COUNTS + where, count.to(tl.uint8), mask=inside)


@triton.jit
def _gradient(G, y, where, inside, LEVELS: tl.constexpr, SCALE: tl.constexpr, ACC: tl.constexpr):
    """Gradient of the norm's output."""
    g = tl.load(G + where, mask=inside, other=0.0).to(ACC)
    return tl.where(inside & (y >= 0.0) & (y <= LEVELS), g * SCALE, 0.0)


@triton.jit
def _sums(
    G, X, MEAN, INVSTD, WEIGHT, BIAS, SUM, PRODUCT, rows, C, LEVELS: tl.constexpr, SCALE: tl.constexpr,
    TILES: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sums over a program's rows of the gradient, and of its product with the normalised input."""
    block = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    total = tl.zeros((BC,), dtype=ACC)
    product = tl.zeros((BC,), dtype=ACC)
    for tile in range(TILES):
        r = (block * TILES + tile) * BR + tl.arange(0, BR)
        unit, y, where, inside = _normalised(X, MEAN, INVSTD, WEIGHT, BIAS, r, c, rows, C, ACC)
        g = _gradient(G, y, where, inside, LEVELS, SCALE, ACC)
        total += tl.sum(g, axis=0)
        product += tl.sum(g * unit, axis=0)
    tl.store(SUM + block * C + c, total, mask=c < C)
    tl.store(PRODUCT + block * C + c, product, mask=c < C)


@triton.jit
def _input_gradient(
    G, X, MEAN, INVSTD, WEIGHT, BIAS, SUM, PRODUCT, OUT, rows, C, LEVELS: tl.constexpr, SCALE: tl.constexpr,
    TRAINING: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * BR + tl.arange(0, BR)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    unit, y, where, inside = _normalised(X, MEAN, INVSTD, WEIGHT, BIAS, r, c, rows, C, ACC)
    g = _gradient(G, y, where, inside, LEVELS, SCALE, ACC)
    if TRAINING:
        mean = tl.load(SUM + c, mask=c < C, other=0.0).to(ACC) / rows
        product = tl.load(PRODUCT + c, mask=c < C, other=0.0).to(ACC) / rows
        g = g - mean[None, :] - unit * product[None, :]
    scale = tl.load(INVSTD + c, mask=c < C, other=0.0).to(ACC) * tl.load(WEIGHT + c, mask=c < C, other=0.0).to(ACC)
    tl.store(OUT + where, (g * scale[None, :]).to(OUT.dtype.element_ty), mask=inside)


def _blocks(x: Tensor) -> tuple[int, int, dict]:
    """Rows, columns, and the settings of the kernels for an input (B, C, H, W) in channels-last memory."""
    columns = x.shape[1]
    wide = min(128, triton.next_power_of_2(columns))
    accumulator = tl.float64 if x.dtype == torch.float64 else tl.float32
    return x.numel() // columns, columns, dict(BR=max(4096 // wide, 1), BC=wide, ACC=accumulator)


def _grid(rows: int, columns: int, block: dict, tiles: int = 1) -> tuple[int, int]:
    return triton.cdiv(rows, block["BR"] * tiles), triton.cdiv(columns, block["BC"])


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, (C,), in float32 or more."""
    rows, columns, block = _blocks(x)
    grid = _grid(rows, columns, block, TILES)
    means, squares = torch.empty((2, grid[0], columns), dtype=_wide(x), device=x.device)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _statistics[grid](x, means, squares, rows, columns, TILES=TILES, **block)
    counts = torch.full((grid[0], 1), block["BR"] * TILES, dtype=means.dtype, device=x.device)
    counts[-1] = rows - (grid[0] - 1) * block["BR"] * TILES
    mean = (means * counts).sum(0) / rows
    return mean, (squares.sum(0) + ((means - mean).square() * counts).sum(0)) / rows


def fire(
    x: Tensor, moments: tuple[Tensor, Tensor], affine: tuple[Tensor, Tensor], levels: int, norm: float, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """Spikes, and their counts as bytes if they are to be kept."""
    rows, columns, block = _blocks(x)
    y = torch.empty_like(x)
    counts = torch.empty_like(x, dtype=torch.uint8) if keep else None
    magic = 1.5 * 2.0 ** (52 if x.dtype == torch.float64 else 23)
    options = dict(LEVELS=levels, SCALE=1 / norm, MAGIC=magic, KEEP_COUNTS=keep)
    where = y if counts is None else counts
    with torch.cuda.device_of(x):
        _fire[_grid(rows, columns, block)](x, *moments, *affine, y, where, rows, columns, **options, **block)
    return y, counts


def gradients(
    grad: Tensor,
    x: Tensor,
    moments: tuple[Tensor, Tensor],
    affine: tuple[Tensor, Tensor],
    levels: int,
    norm: float,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, the norm's weight and its bias; ``grad`` in the memory order of ``x``."""
    rows, columns, block = _blocks(x)
    grid = _grid(rows, columns, block, TILES)
    sums, products = torch.empty((2, grid[0], columns), dtype=_wide(x), device=x.device)
    options = dict(LEVELS=levels, SCALE=1 / norm)
    with torch.cuda.device_of(x):
        _sums[grid](grad, x, *moments, *affine, sums, products, rows, columns, TILES=TILES, **options, **block)
        total, product = sums.sum(0), products.sum(0)
        out = torch.empty_like(x)
        arguments = (grad, x, *moments, *affine, total, product, out, rows, columns)
        _input_gradient[_grid(rows, columns, block)](*arguments, TRAINING=training, **options, **block)
    return out, product, total
