"""Whether a sum that is to be differentiated depends on the input at all; if not, its gradient is rounding noise.

Behind a normalisation over channels, places or both, sums over these are constant. A map of several places shows that by itself
(``selection.sum_is_constant``). That of a single place does not, nor does a sum over all places; these are compared with what
they are for another input. No gradient is asked for, and two forward passes of the first batch serve all layers.
"""

import math
from collections.abc import Collection

import torch
from torch import Tensor

from ..undisturbed import preserved_random_state
from .batches import Batch, Key
from .starts import Passes, Start, maps_by_name

_CONSTANT = 1e-4  # of what the same numbers change with random signs, below which a sum does not depend on the input
_DRAWS = 4  # of random signs


def look_for_constant_sums(passes: Passes, inputs: Batch, starts: dict[str, Start]) -> dict[str, str]:
    """Mark those outputs of a first batch whose sum is constant, and take out those of which no sum is any better.

    Args:
        passes: what all forward passes have in common.
        inputs: the batch.
        starts: where its backward passes start. The facts of outputs are changed, and outputs are taken out.

    Returns:
        Why outputs have no field, by name.
    """
    asked = [name for name, start in starts.items() if _over_all_places(passes, start)]
    if not asked:
        return {}
    with torch.no_grad():
        before, after = (_maps(passes, batch, asked) for batch in (inputs, _resampled(inputs)))
    failed = {}
    for name in asked:
        if before[name].shape != after[name].shape:
            continue
        change = (after[name] - before[name]).double()
        if _is_constant(change.flatten(3), 3):
            failed[name] = (
                f"layer {name!r}: the sum of each channel over all positions is constant, as behind a normalisation over "
                f"them, so that its gradient is rounding noise; choose one position, or another layer."
            )
            del starts[name]
        elif not starts[name].facts.constant and _is_constant(change.flatten(2), 2):
            starts[name].facts.constant = True
    return failed


def _over_all_places(passes: Passes, start: Start) -> bool:
    """Whether what is differentiated is a sum over all places of a map, or the map has one place."""
    return "all" in start.places or start.total is not None or math.prod(start.facts.size) == 1


def _maps(passes: Passes, inputs: Batch, names: Collection[str]) -> dict[str, Tensor]:
    """The maps (T, B, C, h, w) of some outputs; random masks are the same for each batch."""
    with preserved_random_state():
        torch.manual_seed(0)
        return maps_by_name(passes, inputs, names)


def _resampled(inputs: Batch) -> Batch:
    """The inputs, with pixels drawn from each of them with replacement: other means, and no value that they do not have."""

    def drawn(key: Key, x: Tensor) -> Tensor:
        if key not in inputs.axes:
            return x
        axes = inputs.axes[key]
        dims = 3 if "D" in axes.letters else 2
        ordered = axes.ordered(x)
        pixels = ordered.flatten(-dims)
        count = pixels.shape[-1]
        chosen = torch.randint(count, (count,), generator=torch.Generator().manual_seed(0)).to(x.device)
        return axes.restored(pixels[..., chosen].view(ordered.shape))

    return inputs.apply(drawn)


def _is_constant(change: Tensor, first: int) -> bool:
    """Whether the sums of a change over its axes from ``first`` on are much smaller than those with random signs."""
    axes = tuple(range(first, change.ndim))
    generator = torch.Generator().manual_seed(0)
    shape = change.shape[first:]
    if shape.numel() == 1:
        return False
    scale = 0.0
    for _ in range(_DRAWS):
        signs = torch.randint(0, 2, shape, generator=generator).to(change) * 2 - 1
        scale += float((change * signs).sum(axes).square().mean()) / _DRAWS
    return math.sqrt(float(change.sum(axes).square().mean())) < _CONSTANT * math.sqrt(scale)
