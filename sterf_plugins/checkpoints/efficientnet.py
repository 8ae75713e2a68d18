"""Checkpoints of the package EfficientNet-PyTorch and of its EfficientNet-Lite, for timm's models."""

from collections.abc import Iterable
from typing import Any


def with_timm_names(state: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The entries of such a checkpoint under timm's names; any other checkpoint as it is.

    Both networks register the same layers in the same order, but timm's blocks are numbered within stages.

    Args:
        state: a state dict.
        names: the names of the entries of timm's model, in its order.
    """
    names = list(names)
    if "_conv_stem.weight" not in state or len(state) != len(names):
        return state
    return dict(zip(names, state.values(), strict=True))
