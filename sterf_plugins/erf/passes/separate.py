"""Whether a model keeps the inputs of a pass separate, since one backward pass gives the fields of all of them together."""

from dataclasses import replace

import torch
from torch import Tensor

from ...undisturbed import preserved_random_state, stateful
from ..inputs.batches import Batch
from .starts import Passes, Start, starts_of

# Share of the largest value by which rounding may change what an input gives alone and among others.
_CHANGE = 1e-4


def of_first_input(starts: dict[str, Start]) -> dict[str, Tensor]:
    """What is differentiated of the first input of a pass, by output, as one row of numbers each."""
    return {name: torch.cat([y[:, 0].flatten() for y in start.all]) for name, start in starts.items()}


def check_separate(passes: Passes, inputs: Batch, among_others: dict[str, Tensor]) -> None:
    """Refuse a model in whose outputs for one input the other inputs of the pass have a part.

    The first input goes through the model alone. Where it gives something else than among others, which may be a spike that
    rounding has flipped, gradients with respect to the others tell, which are exactly zero if these have no part in it.

    Args:
        passes: what all forward passes have in common.
        inputs: a batch of several inputs.
        among_others: what ``of_first_input`` gives of it.

    Raises:
        ValueError: the model mixes inputs.
    """
    passes = replace(passes, rates=None)  # spikes of this pass are not counted
    first = inputs.narrow(0, 1)
    if passes.geometry.steps is None and stateful(passes.model):
        first = Batch.joined([first, first])  # as in `fields_of`
    with preserved_random_state():
        try:
            alone = of_first_input(starts_of(passes, first)[1])
        except (RuntimeError, ValueError):
            alone = {}  # a model that takes no single input
        changed = [name for name, y in among_others.items() if name not in alone or _differ(y, alone[name])]
        if not changed:
            passes.seen.separate = True
            return
        leaves, starts, _ = starts_of(passes, inputs)
    found = of_first_input({name: starts[name] for name in changed if name in starts})
    weighted = [(y * torch.linspace(1, 2, len(y)).to(y)).sum() for y in found.values()]  # a plain sum may be constant
    if weighted:
        gradients = torch.autograd.grad(weighted, list(leaves.values()), allow_unused=True)
        others = slice(1, None) if inputs.steps is None else (slice(None), slice(1, None))
        if any(g is not None and g[others].any() for g in gradients):
            raise ValueError(
                f"the model mixes the inputs of a pass, as by a mean over the batch: what layer {changed[0]!r} gives for one "
                f"input depends on the others, so that the field of each would have parts of theirs; give batch_size=1."
            )
    passes.seen.separate = True


def _differ(a: Tensor, b: Tensor) -> bool:
    return a.shape != b.shape or bool((a - b).abs().max() > _CHANGE * a.abs().max())
