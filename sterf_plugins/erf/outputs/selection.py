"""Where in a layer's output the gradient starts, positions and channels; and the checks of the user's choices."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from ...checks import one_of

PROJECTIONS = 8  # random projections of the channels where their sum is constant
_CONSTANT = 1e-3  # below this share of the channels' own variation, a sum is constant but for rounding and leftovers

# Operations, by what autograd calls them, that only move numbers, or put maps of several steps together.
_MOVES = (
    "Alias", "Cat", "Clone", "Expand", "Flip", "Index", "IndexSelect", "Permute", "ReshapeAlias", "Roll", "Select", "Slice",
    "Split", "Squeeze", "Stack", "ToCopy", "Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View",
)  # fmt: skip

Place = tuple[float, ...]  # row and column of one position, behind the slice or frame in a volume or video
Position = str | Place | Sequence[Place]  # what users may give

_ALLOWED = "'center', 'all', (row, col) as ints or as fractions in [0, 1], (frame, row, col), or a list of such tuples"


CHOICES: dict[str, tuple] = {  # options of ``compute_erf`` that are one of a few words
    "time": ("sum", "each"),
    "aggregate": ("mean", "median"),
    "normalize": (None, "max", "sum"),
    "target": ("module", "block"),
    "calibrate": ("auto", True, False),
}


def check_choices(**options: object) -> None:
    """Raise ``ValueError`` if one of these options, by their names in ``CHOICES``, is none of the words for it."""
    for name, value in options.items():
        one_of(name, value, CHOICES[name])


def check_position(position: Position) -> list[str | Place]:
    """Check a position and return it as a list of places, in which "all" and "center" stay names.

    Raises:
        ValueError: it is no position; the message lists what is allowed.
    """
    if isinstance(position, str) and position in ("center", "all"):
        return [position]
    single = _is_place(position)
    places: Any = [position] if single else position
    if isinstance(places, str) or not isinstance(places, Sequence) or not places or not all(map(_is_place, places)):
        raise ValueError(f"`position` is {position!r}; allowed: {_ALLOWED}.")
    return [tuple(p) for p in places]


def _is_place(value) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) in (2, 3)
        and all(isinstance(v, int) or (isinstance(v, float) and 0 <= v <= 1) for v in value)
        and not any(isinstance(v, bool) for v in value)
    )


def cell(name: str, place: str | Place, size: tuple[int, ...]) -> tuple[int, ...] | None:
    """Row and column of a place in a map, behind its slice in a volume; ``None`` for "all".

    Args:
        name: the layer's name, for the message.
        place: "all", "center", or a row and a column, as ints or as fractions in [0, 1].
        size: (h, w) of the map, or (d, h, w).

    Raises:
        ValueError: the place is outside the map, or has another number of axes.
    """
    if place == "all":
        return None
    if place == "center":
        return tuple(n // 2 for n in size)
    assert not isinstance(place, str)
    shape = "x".join(map(str, size))
    if len(place) != len(size):
        raise ValueError(
            f"`position` is {place!r}, and the output of layer {name!r} is {shape}; give {len(size)} numbers."
        )
    at = tuple(p if isinstance(p, int) else min(int(p * n), n - 1) for p, n in zip(place, size, strict=True))
    if not all(0 <= p < n for p, n in zip(at, size, strict=True)):
        raise ValueError(f"`position` is {place!r}, outside the {shape} output of layer {name!r}.")
    return at


def select(name: str, y: Tensor, place: str | Place) -> Tensor:
    """The values (T, B, C) of a map (T, B, C, h, w) at one place, or their sum over all positions for "all".

    The result never shares memory with ``y``, so that a later in-place operation of the model does not reach it.
    """
    at = cell(name, place, tuple(y.shape[3:]))
    return y.sum(tuple(range(3, y.ndim))) if at is None else y[(slice(None),) * 3 + at].clone()


def check_calls(calls: str | int) -> str | int:
    """``calls`` if it is "all", "first", "last" or an index; else ``ValueError``."""
    if calls in ("all", "first", "last") or (isinstance(calls, int) and not isinstance(calls, bool)):
        return calls
    raise ValueError(f"`calls` is {calls!r}; allowed: 'all', 'first', 'last', or the index of a call, such as 0 or -1.")


def chosen_calls(name: str, calls: str | int, count: int) -> list[int]:
    """Which of the ``count`` calls of a layer are meant.

    Raises:
        ValueError: there is no such call.
    """
    if calls == "all":
        return list(range(count))
    index = {"first": 0, "last": -1}.get(str(calls), calls)
    assert isinstance(index, int)
    if not -count <= index < count:
        times = "once" if count == 1 else f"{count} times"
        raise ValueError(
            f"layer {name!r} is called {times}, and `calls` is {calls}; calls are counted from 0: {-count} to {count - 1} are "
            f"allowed."
        )
    return [index % count]


def check_channels(channels: str | int) -> str | int:
    """``channels`` if it is "auto", "sum", "relu", "per-channel" or a number of random projections.

    Raises:
        ValueError: it is anything else.
    """
    if channels in ("auto", "sum", "relu", "per-channel") or (
        isinstance(channels, int) and not isinstance(channels, bool) and channels > 0
    ):
        return channels
    raise ValueError(
        f"`channels` is {channels!r}; allowed: 'auto', 'sum', 'relu', 'per-channel', or an int >= 1 for that many random "
        f"projections."
    )


def channel_vectors(channels: str | int, y: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """Weights of the channels of ``y`` (T, B, C), one vector per field to compute, and how the fields are joined.

    "sum": a vector of ones. "per-channel": unit vectors, whose fields are summed, so that without cancellation between
    channels the result is that of "sum". An int K: K vectors of random signs, whose fields are averaged.

    Returns:
        The vectors (number of fields, C), and the factor that each of their fields is multiplied by before the sum.
    """
    count = y.shape[2]
    if channels == "sum":
        return torch.ones(1, count, dtype=y.dtype, device=y.device), 1.0
    if channels == "per-channel":
        return torch.eye(count, dtype=y.dtype, device=y.device), 1.0
    signs = torch.randint(0, 2, (int(channels), count), generator=generator) * 2 - 1
    return signs.to(y), 1 / int(channels)


def sum_is_constant(y: Tensor, module: nn.Module) -> bool:
    """Whether the sum over the channels of a layer's output is constant, as behind a normalisation over channels.

    Its gradient is then rounding noise. What a LayerNorm gives counts as one whatever its weights, also as the output of a
    stage that ends with one: the sum of its normalised channels is constant, and with trained weights it is what the
    weights leave of them. Of any other output, the sum's variation over inputs and positions is compared with that of a
    sum with random signs.

    Args:
        y: the output as a map (T, B, C, h, w).
        module: the module that gave it.
    """
    if y.shape[2] == 1:
        return False
    if isinstance(module, nn.LayerNorm) or type(module).__name__.startswith("LayerNorm"):
        return True
    if _layer_normed(y.grad_fn, y.shape[2]):
        return True
    values = y.detach().double().flatten(3)
    return _cancels(values, (2,)) or (len(y) > 1 and _cancels(values, (0, 2)))


def steps_cancel(y: Tensor) -> bool:
    """Whether each channel's sum over the time steps of a map (T, B, C, h, w) is constant, as behind a softmax over time."""
    return len(y) > 1 and _cancels(y.detach().double().flatten(3), (0,))


def _cancels(values: Tensor, axes: tuple[int, ...]) -> bool:
    """Whether the sum of values over some axes varies much less over inputs and places, (1, 3), than that with random signs."""
    shape = [n if i in axes else 1 for i, n in enumerate(values.shape)]
    signs = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    over = (1, 3) if 0 in axes else (0, 1, 3)
    plain, signed = (
        float(v.sum(axes, keepdim=True).std(over, correction=0).square().mean())
        for v in (values, values * signs.to(values))
    )
    return plain < _CONSTANT**2 * signed


def _layer_normed(node: Node | None, channels: int) -> bool:
    """Whether a tensor is by its graph what a LayerNorm over so many channels gave, in any order of axes, shifted or not."""
    if node is None:
        return False
    operation = node.name().partition("Backward")[0]
    if operation == "NativeLayerNorm":
        return math.prod(node._saved_normalized_shape) == channels  # type: ignore[attr-defined]
    before = [
        n for n, _ in node.next_functions if n is not None
    ]  # the others do not depend on the input: class tokens, positions
    moves = operation in _MOVES or (operation in ("Add", "Sub") and len(before) == 1)
    return moves and bool(before) and all(_layer_normed(n, channels) for n in before)
