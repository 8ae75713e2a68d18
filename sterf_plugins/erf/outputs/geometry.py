"""What is known before the output of a layer is read: of a forward pass, and of the model that it runs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

Grid = tuple[int, ...]  # rows and columns, behind slices or frames if there are any


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
        """Number of frames of videos, or of slices of volumes; ``None`` for images and signals."""
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

    def has_aspect(self, size: Grid) -> bool:
        """Whether (h, w) has about the aspect of an input, or is a single place, as behind global pooling."""
        aspects = [one[-1] / one[-2] for one in self.sizes]
        return tuple(size) == (1, 1) or any(0.5 < size[0] / size[1] * aspect < 2 for aspect in aspects)

    def resembles(self, size: Grid) -> bool:
        """Whether a map (h, w) has a size that is expected, or about the aspect of an input."""
        return tuple(size) in self.grids() or self.has_aspect(size)

    def may_be_map(self, size: Grid) -> bool:
        """Whether (h, w) has the aspect of an input, or rows and columns of likely maps, as where one axis alone is pooled."""
        rows, columns = ({1, *numbers} for numbers in zip(*self.grids(), strict=True))
        return self.has_aspect(size) or (size[0] in rows and size[1] in columns)


def by(size: Iterable[int]) -> str:
    """A size as text, such as 224x224."""
    return "x".join(map(str, size))


def pair(value: Any) -> Grid | None:
    """An attribute of a module that is a number or a pair of them, as a pair; ``None`` if it is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(n, int) for n in value):
        return (value[0], value[1])
    return None


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
    """Number of class and register tokens by the first module that tells; ``None`` if none does.

    timm's models have ``num_prefix_tokens``, and those of Hugging Face a ``config.num_register_tokens`` beside a class token.
    """
    for module in model.modules():
        value = getattr(module, "num_prefix_tokens", None)
        if isinstance(value, int):
            return value
        registers = getattr(getattr(module, "config", None), "num_register_tokens", None)
        if isinstance(registers, int):
            return registers + 1
    return None
