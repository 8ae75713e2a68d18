"""What other modules of a model tell about the order of the axes of an output: by their types, and by the shapes they gave."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Size, nn

from ...checks import has_statistics
from .geometry import Geometry, Grid, pair

_MOST_PREFIX = 16  # class, distillation and register tokens that a model may have without saying so

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_POOLINGS = tuple(
    getattr(nn, f"{kind}Pool{dims}d")
    for dims in (1, 2, 3)
    for kind in ("Avg", "Max", "LP", "AdaptiveAvg", "AdaptiveMax")
)
# Not their subclasses where axes are asked for: timm's LayerNorm2d has channels first.
_NORMS = (nn.LayerNorm, nn.RMSNorm)


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
        fitting = {axis_orders(shape[-3:], grids) for shape in kin if len(shape) > 3}
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

    def lengths(self) -> set[int]:
        """Numbers of samples of the signals that convolutions gave."""
        return {shape[-1] for n, shape in self.shapes.items() if isinstance(self.model.get_submodule(n), nn.Conv1d)}

    def _normed(self) -> list[Size]:
        """Shapes of the tokens that norms over channels gave, (B, N, C) or (N, B, C)."""
        norms = [n for n in self.shapes if isinstance(self.model.get_submodule(n), _NORMS)]
        return [self.shapes[n] for n in norms if len(self.shapes[n]) == 3]

    def normed(self) -> set[int]:
        """Numbers of tokens that norms over channels gave."""
        return {count for shape in self._normed() for count in shape[:2]}

    def disputed(self, name: str) -> bool:
        """Whether modules whose types tell opposite orders of axes gave outputs of the same shape as a module."""
        same = [n for n, shape in self.shapes.items() if shape == self.shapes.get(name)]
        return len({layout_of(self.model.get_submodule(n)) for n in same} - {None}) > 1

    def matrix(self, size: tuple[int, ...]) -> bool:
        """Whether a map of this size (..., h, w) may be a matrix over as many tokens as a module gave, such as an attention's."""
        as_many = [n for n, shape in self.shapes.items() if len(shape) == 3 and shape[1] == size[-1]]
        return size[-2] == size[-1] and any(layout_of(self.model.get_submodule(n)) != "BCHW" for n in as_many)

    def heads(self, rest: Size) -> bool:
        """Whether three axes may be the heads, the tokens and the channels of each head of tokens (N, C) that a module gave."""
        heads, tokens, channels = rest
        return any(
            len(s) == 3 and s[1] == tokens and s[2] in (heads * channels * n for n in (1, 2, 3))
            for s in self.shapes.values()
        )

    def across_tokens(self, count: int) -> bool:
        """Whether so many are the channels of tokens (N, C) that norms gave, and no number of tokens that any of them saw."""
        normed = self._normed()
        return any(s[2] == count for s in normed) and not any(0 <= s[1] - count <= _MOST_PREFIX for s in normed)

    def padded(self, name: str, size: tuple[int, ...]) -> bool:
        """Whether a map of this size is a window that the module around it has padded, whose own maps are smaller.

        Args:
            name: the layer's name; the module around it has its ``window_size``, a number or a pair.
            size: (h, w) of the layer's output.
        """
        parts = name.split(".")
        for around in (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)):
            if pair(getattr(self.model.get_submodule(around), "window_size", None)) == size:
                inside = [n for n, shape in self.shapes.items() if n.startswith(f"{around}.") and len(shape) == 4]
                known = [(self.shapes[n], layout_of(self.model.get_submodule(n))) for n in inside]
                batch = min((shape[0] for shape, _ in known), default=0)  # more are windows of a map
                maps = [s[2:] if layout == "BCHW" else s[1:3] for s, layout in known if layout and s[0] == batch]
                return any(h <= size[0] and w <= size[1] and (h, w) != size for h, w in maps)
        return False

    def resembling(self, name: str, module: nn.Module, geometry: Geometry) -> bool:
        """Whether a module's maps look like those of an input, and so do those of its class, unless its type tells the axes.

        Windows (windows, tokens, C) or patches (C, pixels of a patch, patches) look like that in some stages alone.
        """
        known = layout_of(module)
        kin = [name] if known else [n for n, m in self.model.named_modules() if type(m) is type(module)]
        shapes = [self.shapes[n] for n in kin if len(self.shapes.get(n, ())) > 3]
        return all(geometry.resembles(s[-2:]) or (known is None and geometry.resembles(s[-3:-1])) for s in shapes)

    def prefixes(self, channels: int) -> set[int]:
        """Numbers of class and register tokens that the model's learnt tokens (..., n, channels) can make together."""
        owners = (m for m in self.model.modules() if not isinstance(m, nn.Linear))
        shapes = [p.shape for m in owners for p in m.parameters(recurse=False) if p.ndim > 1]
        learnt = [s[:-1].numel() for s in shapes if s[-1] == channels]
        sums = {0}
        for count in (n for n in learnt if n <= _MOST_PREFIX):
            sums |= {n + count for n in sums if n + count <= _MOST_PREFIX}
        return sums - {0}

    def without_channels(self, rest: Size, inside: str) -> bool:
        """Whether (B, *rest) is a map (B, H, W), by a layer in a module whose maps (B, C, H, W) have this size."""
        names = [n for n, shape in self.shapes.items() if f"{n}.".startswith(f"{inside}.") and len(shape) == 4]
        return any(self.shapes[n][-2:] == rest and layout_of(self.model.get_submodule(n)) == "BCHW" for n in names)

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


def axis_orders(rest: Size, grids: Mapping[Grid, int]) -> tuple[str, ...]:
    """Which orders of axes three numbers may be in, if two of them are rows and columns of one of the grids."""
    c, h, w = rest
    return tuple(layout for layout, grid in (("BCHW", (h, w)), ("BHWC", (c, h))) if grid in grids)


def layout_of(module: nn.Module) -> str | None:
    """The order of axes that a module's type tells; ``None`` for most."""
    if isinstance(module, (*_CONVOLUTIONS, *_POOLINGS, nn.GroupNorm, nn.Upsample)) or has_statistics(module):
        return "BCHW"
    return "BHWC" if isinstance(module, nn.Linear) or type(module) in _NORMS else None
