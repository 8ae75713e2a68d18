"""Turn the output of a layer, whatever its layout, into one time-first map (T, B, C, h, w).

Grids of tokens are inferred from the input size and the strides that the model can have, never from a square root.
Where two answers fit, an error says which argument decides. Maps of signals have one row; those of videos and volumes are
in ``volumes.py``.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Size, Tensor, nn

from ..checks import has_statistics

LAYOUTS = ("BCHW", "BHWC", "BCDHW", "BDHWC", "BNC", "BCN", "NBC", "BC")
Grid = tuple[int, ...]  # rows and columns, behind slices or frames if there are any
Layout = str | Callable[[Tensor], Tensor] | None  # one of LAYOUTS, or what makes (B, C, H, W) of an output

_MOST_PREFIX = 16  # class, distillation and register tokens that a model may have without saying so

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)  # not their subclasses: timm's LayerNorm2d has channels first


@dataclass(frozen=True)
class Geometry:
    """What is known about a forward pass before its layers are seen.

    Attributes:
        sizes: (H, W) of each input that gets a map, or (D, H, W) of videos and volumes.
        batch: B, number of inputs in the pass.
        steps: T of the input, or of a model that makes its own time axis (an attribute ``T``), or ``None``.
        strides: strides that feature maps may have.
        prefix: number of class and register tokens before those of the patches; ``None`` if the model does not say.
    """

    sizes: tuple[tuple[int, ...], ...]
    batch: int
    steps: int | None
    strides: tuple[int, ...]
    prefix: int | None

    def __str__(self) -> str:
        return " and ".join(map(by, dict.fromkeys(self.sizes)))

    @property
    def frames(self) -> int | None:
        """D of videos and volumes."""
        return self.sizes[0][0] if len(self.sizes[0]) == 3 else None

    @property
    def signal(self) -> bool:
        """Whether the inputs have one row, as signals do."""
        return all(size[-2] == 1 for size in self.sizes)

    def grids(self) -> dict[Grid, int]:
        """Sizes (h, w) that a feature map may have, with 0 for those that divide an input evenly and 1 for others."""
        sizes, s = {(size[-2], size[-1]) for size in self.sizes}, self.strides
        rounded: dict[Grid, int] = {}
        for h, w in sizes:
            rounded |= {g: 1 for n in s for g in ((-(-h // n), -(-w // n)), (h // n, w // n)) if min(g) > 0}
        return rounded | {(h // n, w // n): 0 for h, w in sizes for n in s if h % n == 0 and w % n == 0}


def by(size: Iterable[int]) -> str:
    """A size as text, such as 224x224."""
    return "x".join(map(str, size))


@dataclass(frozen=True)
class Evidence:
    """What the other modules of a model say about the order of the axes of a map that fits twice.

    Attributes:
        model: the model.
        shapes: module -> shape of its output in a forward pass.
    """

    model: nn.Module
    shapes: Mapping[str, Size]

    def layout(self, name: str, module: nn.Module, rest: Size, grids: Mapping[Grid, int]) -> str | None:
        """One of "BCHW" and "BHWC", if maps of modules of the same class, or of the module's inside, fit this one alone.

        Args:
            name: the module's name in the model.
            module: the module.
            rest: the axes of its output behind those of time and batch.
            grids: as in ``Geometry.grids``.
        """
        kin = [self.shapes[n] for n, m in self.model.named_modules() if n in self.shapes and type(m) is type(module)]
        fitting = {_fits(shape[-3:], grids) for shape in kin if len(shape) > 3}
        found = [layouts[0] for layouts in fitting if len(layouts) == 1]
        if len(found) != 1:
            parts = [(f"{name}.{n}".strip("."), m) for n, m in module.named_modules()]
            inside = {layout_of(m) for n, m in parts if self.shapes.get(n, Size())[-3:] == rest}
            found = [layout for layout in inside if layout]
        return found[0] if len(found) == 1 else None

    def grids(self) -> set[Grid]:
        """Sizes (h, w) of the maps that convolutions gave, the first of which makes the tokens of most models."""
        maps = [
            n for n, shape in self.shapes.items() if isinstance(self.model.get_submodule(n), (nn.Conv2d, nn.Conv3d))
        ]
        return {(self.shapes[n][-2], self.shapes[n][-1]) for n in maps}

    def matrix(self, size: tuple[int, ...]) -> bool:
        """Whether a map of this size (..., h, w) may be a matrix over as many tokens as a module gave, such as an attention's."""
        return size[-2] == size[-1] and any(len(s) == 3 and s[1] == size[-1] for s in self.shapes.values())

    def prefixes(self, channels: int) -> set[int]:
        """Numbers of class and register tokens that the model's learnt tokens (..., n, channels) can make together."""
        owners = (m for m in self.model.modules() if not isinstance(m, nn.Linear))
        shapes = [p.shape for m in owners for p in m.parameters(recurse=False) if p.ndim > 1]
        learnt = [s[:-1].numel() for s in shapes if s[-1] == channels]
        sums = {0}
        for count in (n for n in learnt if n <= _MOST_PREFIX):
            sums |= {n + count for n in sums if n + count <= _MOST_PREFIX}
        return sums - {0}

    def token_layout(self, rest: Size, inside: str | None = None) -> str | None:
        """One of "BCN" and "BNC", if the types of modules whose outputs have this shape tell.

        Args:
            rest: the axes of the output behind that of the batch.
            inside: the module in which to look, among norms and convolutions alone, since a Linear may mix tokens; the
                whole model by default.
        """
        names = [n for n in self.shapes if inside is None or f"{n}.".startswith(f"{inside}.")]
        names = [n for n in names if self.shapes[n][-len(rest) :] == rest and len(self.shapes[n]) > len(rest)]
        modules = [self.model.get_submodule(n) for n in names]
        found = {layout_of(m) for m in modules if inside is None or type(m) is not nn.Linear} - {None}
        return None if len(found) != 1 else "BCN" if found == {"BCHW"} else "BNC"


def _fits(rest: Size, grids: Mapping[Grid, int]) -> tuple[str, ...]:
    """Which orders of axes three numbers may be in, if two of them are rows and columns of one of the grids."""
    c, h, w = rest
    return tuple(layout for layout, grid in (("BCHW", (h, w)), ("BHWC", (c, h))) if grid in grids)


def layout_of(module: nn.Module) -> str | None:
    """The order of axes that a module's type tells; ``None`` for most."""
    if isinstance(module, (*_CONVOLUTIONS, nn.GroupNorm)) or has_statistics(module):
        return "BCHW"
    return "BHWC" if type(module) in _CHANNELS_LAST else None


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


def possible_strides(model: nn.Module) -> tuple[int, ...]:
    """Strides that feature maps may have: powers of two, and those times each patch size and stride, up to 64."""
    patches: set[int] = set()
    for module in model.modules():
        for value in (getattr(module, "patch_size", None), getattr(module, "stride", None)):
            for n in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(n, int) and not isinstance(n, bool) and 1 < n <= 64:
                    patches.add(n)
    strides = {2**k for k in range(7)} | {p * 2**k for p in patches for k in range(6) if p * 2**k <= 64}
    return tuple(sorted(strides))


def prefix_tokens(model: nn.Module) -> int | None:
    """``num_prefix_tokens`` of a timm model or of its first module that has it; ``None`` if there is none."""
    for module in model.modules():
        value = getattr(module, "num_prefix_tokens", None)
        if isinstance(value, int):
            return value
    return None


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
            shift = _pair(module.shift_size) or (0, 0)
            grid = _pair(getattr(module, "input_resolution", None))
            return Windows(size, shift, grid, pad_first=not type(module).__module__.startswith("timm."))
        sizes = (_pair(getattr(m, "window_size", None)) for m in module.modules())
        size = size or next(filter(None, sizes), None)
    return None


def _pair(value) -> Grid | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(n, int) for n in value):
        return (value[0], value[1])
    return None


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
    if callable(layout):
        y, layout, windows = layout(y), "BCHW", None
    if layout == "NBC":
        y, layout = y.transpose(0, 1), "BNC"
    timed, y = _split_time(name, y, geometry, windows)
    if windows is not None and y.ndim == 4 and y.shape[2] == windows.size[0] * windows.size[1]:
        return _join_windows(name, y, geometry, windows, grid), timed, False
    if y.shape[1] != geometry.batch:
        raise ValueError(
            f"layer {name!r} gives {tuple(y.shape[1:])} for a batch of {geometry.batch}; its first axes are neither "
            f"(B, ...) nor (T, B, ...). Name another layer, such as the block around it."
        )
    rest = y.shape[2:]
    if layout is None:
        layout, grid = _guess(name, rest, module, geometry, grid, evidence)
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
    inferred = grid is None and not geometry.signal
    h, w = grid or token_grid(name, y.shape[2], y.shape[3], geometry, evidence)
    prefix = y.shape[2] - h * w
    if prefix < 0:
        raise ValueError(f"layer {name!r} has {y.shape[2]} tokens, fewer than the {h}x{w} of `grid`.")
    return y[:, :, prefix:].unflatten(2, (h, w)).movedim(-1, 2), timed, inferred


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
            f"layer {name!r} gives {tuple(y.shape)} for a batch of {batch}: {count} time steps, windows or tokens in the "
            f"batch axis? If it is time, set the model's attribute T = {count}; otherwise name the block around it."
        )
    return False, y[None]


def _guess(
    name: str, rest: Size, module: nn.Module, geometry: Geometry, grid: Grid | None, evidence: Evidence
) -> tuple[str, Grid | None]:
    """The layout of an output whose axes behind (T, B) are ``rest``, and the token grid if it is known."""
    grids = {grid: 0} if grid else geometry.grids()
    if len(rest) <= 1:
        return "BC", None
    known = layout_of(module)
    if len(rest) == 3:
        if known is not None:
            return known, None
        fitting = _fits(rest, grids)
        if fitting == ("BHWC",):
            return "BHWC", None
        if len(fitting) == 2:
            likely = evidence.layout(name.partition("[")[0], module, rest, grids)
            if likely is not None:
                return likely, None
            raise ValueError(
                f"layer {name!r} gives {tuple(rest)} per input, which fits (C, H, W) and (H, W, C); pass "
                f"layout='BCHW' or layout='BHWC'."
            )
        (h, w), ratios = (
            (rest[1], rest[2]),
            [width / height for height, width in (size[-2:] for size in geometry.sizes)],
        )
        if (h, w) not in grids and not any(0.5 < h / w * ratio < 2 for ratio in ratios):
            raise ValueError(
                f"layer {name!r} gives {tuple(rest)} per input, which is no map of a {geometry} input; pass "
                f"layout='BCHW' if it is, or name the block around it."
            )
        return "BCHW", None
    if len(rest) == 2:
        if known is not None:
            return ("BCN" if known == "BCHW" else "BNC"), grid
        if geometry.signal:
            layout = evidence.token_layout(rest)
            if layout is None:
                raise ValueError(
                    f"layer {name!r} gives {tuple(rest)} per signal; pass layout='BCN' if channels come first, or 'BNC'."
                )
            return layout, grid
        likely = evidence.token_layout(rest, name.partition("[")[0])
        if likely is not None:
            return likely, grid
        tokens_first, tokens_last = (bool(_fitting(n, geometry, grids)) for n in rest)
        if tokens_first and tokens_last:
            likely = evidence.token_layout(rest)
            if likely is None:
                raise ValueError(
                    f"layer {name!r} gives {tuple(rest)} per input, which fits (N, C) and (C, N); pass layout='BNC' or "
                    f"layout='BCN'."
                )
            return likely, grid
        return ("BCN" if tokens_last else "BNC"), grid
    raise ValueError(
        f"layer {name!r} gives {tuple(rest)} per input; (C, H, W), (H, W, C), (N, C), (C, N) or (C,) are understood."
    )


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
    """The likeliest grid of so many tokens; an error if there is none, or more than one."""
    if geometry.signal:
        return 1, tokens - (geometry.prefix or 0)
    fitting = _fitting(tokens, geometry, geometry.grids())
    if not fitting:
        fitting = _fitting(tokens, geometry, dict.fromkeys(evidence.grids(), 0))
    if not fitting and geometry.prefix is None and len(geometry.sizes) == 1:  # registers, but no queries of a decoder
        before, learnt = {g: tokens - g[0] * g[1] for g in evidence.grids()}, evidence.prefixes(channels)
        fitting = {g: (0, count) for g, count in before.items() if count in learnt}
    if not fitting:
        raise ValueError(
            f"layer {name!r} has {tokens} tokens, which fit no grid of a {geometry} input at strides "
            f"{', '.join(map(str, geometry.strides))}; pass grid=(rows, columns), or a function as `layout` if they belong to "
            f"several maps."
        )
    likeliest = [g for g, rank in fitting.items() if rank == min(fitting.values())]
    if len(likeliest) > 1:
        choices = ", ".join(f"{g[0]}x{g[1]}" for g in sorted(likeliest))
        raise ValueError(f"layer {name!r} has {tokens} tokens, which may be {choices}; pass grid=(rows, columns).")
    return likeliest[0]


def _join_windows(name: str, y: Tensor, geometry: Geometry, windows: Windows, grid: Grid | None) -> Tensor:
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
