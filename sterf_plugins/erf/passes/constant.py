"""Whether a sum that is to be differentiated depends on the input at all; if not, its gradient is rounding noise.

Behind a normalisation over channels, places or both, sums over these are constant. A map of several places shows that by itself
(``selection.sum_is_constant``). That of a single place does not, nor does a sum over all places; these are compared with what
they are for another input. No gradient is asked for, and two forward passes of the first batch serve all layers. Where next to
nothing changes, as in maps that are constant in each channel, two more in another precision tell a small change from rounding.
"""

import math
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from ...undisturbed import preserved_random_state
from ..inputs.batches import Batch, Key
from .preparation import device_of, dtype_of, in_type
from .starts import Facts, Passes, Settings, maps_by_name

_CONSTANT = 1e-4  # of what the same numbers change with random signs, below which a sum does not depend on the input
_DRAWS = 4  # how often random signs are drawn
_HARDLY = 1e-4  # what changes by less, beside 1 and its own size, may change by rounding alone
_ROUNDING = 1e-3  # of a change, what is left of it in float64 if it is rounding


def look_for_constant_sums(
    passes: Passes, inputs: Batch, outputs: dict[str, Facts]
) -> tuple[dict[str, Facts], dict[str, str]]:
    """What is known of the outputs of a first batch once it is tried whether their sums over channels are constant.

    Args:
        passes: what all forward passes have in common.
        inputs: the batch.
        outputs: what is known of the outputs, by name.

    Returns:
        What is known of those that have a field; and why others, of which no sum is any better, have none.
    """
    asked = [name for name, fact in outputs.items() if _over_all_places(passes.settings, fact)]
    if not asked:
        return outputs, {}
    known, failed = dict(outputs), {}
    with torch.no_grad():
        other = _resampled(inputs)
        before, changes = _changes(passes, inputs, other, asked)
        rounding = _rounding(passes, inputs, other, before, changes)
    for name, change in changes.items():
        if name in rounding:
            failed[name] = (
                f"layer {name!r}: its output is the same for another input, up to the rounding of its numbers, so that its "
                f"gradient is rounding noise; choose an earlier layer."
            )
        elif _is_constant(change.flatten(3), 3):
            failed[name] = (
                f"layer {name!r}: the sum of each channel over all positions is constant, as behind a normalisation over "
                f"them, so that its gradient is rounding noise; choose one position, or another layer."
            )
        elif not outputs[name].constant and _is_constant(change.flatten(2), 2):
            known[name] = replace(outputs[name], constant=True)
    return {name: fact for name, fact in known.items() if name not in failed}, failed


def _over_all_places(settings: Settings, fact: Facts) -> bool:
    """Whether what is differentiated is a sum over all places of a map, or the map has one place."""
    return "all" in settings.places_of(fact.tokens) or "temporal" in settings.kinds or math.prod(fact.size) == 1


def _changes(
    passes: Passes, inputs: Batch, other: Batch, names: Collection[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The maps of some outputs, and by how much those for other inputs differ, as far as they have the same shape."""
    before, after = (_maps(passes, batch, names) for batch in (inputs, other))
    same = [name for name in names if before[name].shape == after[name].shape]
    return before, {name: (after[name] - before[name]).double() for name in same}


def _rounding(
    passes: Passes, inputs: Batch, other: Batch, before: dict[str, Tensor], changes: dict[str, Tensor]
) -> set[str]:
    """Names of the outputs whose small changes are rounding: in float64 they are much smaller than in float32.

    A model that does not run in the other of these two types, as it makes tensors of its own, is not looked at.
    """
    names = [
        n for n, change in changes.items() if change.abs().max() < _HARDLY * max(1.0, float(before[n].abs().max()))
    ]
    if not names:
        return set()
    here = dtype_of(passes.model)
    there = torch.float32 if here is torch.float64 else torch.float64
    inputs, other = (batch.to(device_of(passes.model), there) for batch in (inputs, other))
    with in_type(passes.model, there, of=(here,)):
        try:
            _, again = _changes(passes, inputs, other, names)
        except (RuntimeError, ValueError, TypeError):
            return set()
    in_float32, in_float64 = (again, changes) if here is torch.float64 else (changes, again)
    return {n for n in again if in_float64[n].abs().max() < _ROUNDING * in_float32[n].abs().max()}


def _maps(passes: Passes, inputs: Batch, names: Collection[str]) -> dict[str, Tensor]:
    """The maps (T, B, C, h, w) of some outputs, or their positive parts; random masks are the same for each batch."""
    with preserved_random_state():
        torch.manual_seed(0)
        maps = maps_by_name(passes, inputs, names)
    return {name: y.relu() for name, y in maps.items()} if passes.settings.rectified else maps


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
