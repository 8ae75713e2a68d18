"""Arguments that change what a network gives, and that no entry of its checkpoints tells."""

import math
import reprlib
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn


class Described(nn.Module):
    """A module with such arguments.

    A state dict carries their description as metadata, and loading one with another description warns. PyTorch keeps metadata in
    its files, but not where somebody copies the entries.
    """

    def __init__(self):
        super().__init__()
        self.register_state_dict_post_hook(_describe)
        self.register_load_state_dict_pre_hook(_compare)

    def description(self) -> dict[str, Any]:
        """The arguments by name, in types that a checkpoint may hold; none unless a subclass differs."""
        return {}


def _describe(module: Described, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    local_metadata["description"] = module.description()


def _compare(module: Described, state_dict: dict, prefix: str, local_metadata: dict, *_: Any) -> None:
    """Warn of another description in a checkpoint; Python shows equal warnings of many layers once."""
    here = module.description()
    there = local_metadata.get("description", here)
    other = [name for name in {**there, **here} if not _alike(here.get(name), there.get(name))]
    if other:
        warnings.warn(
            f"weights that were saved with {_told(there, other)} are loaded into a model with {_told(here, other)} "
            f"({type(module).__name__}). These are arguments, which a checkpoint does not bring: the network is not the one that "
            f"was saved, unless you build it with the same.",
            stacklevel=2,
        )


def metadata_of(state: Mapping) -> Mapping[str, dict[str, Any]]:
    """What a state dict says of its modules besides their entries, by name; nothing of other mappings."""
    return getattr(state, "_metadata", {})


def with_metadata(entries: Any, metadata: Mapping[str, dict[str, Any]]) -> OrderedDict[str, Any]:
    """A state dict of entries, in a mapping or in pairs, that says this of its modules."""
    state: Any = OrderedDict(entries)
    state._metadata = OrderedDict(metadata)
    return state


def compare(model: nn.Module, state: Mapping) -> None:
    """Warn of what the metadata of a state dict says of the model's modules, where entries were loaded without it."""
    metadata = metadata_of(state)
    for name, module in model.named_modules():
        if isinstance(module, Described):
            _compare(module, {}, name, metadata.get(name, {}))


def _told(description: dict[str, Any], names: list[str]) -> str:
    told = [f"{name}={reprlib.repr(description[name])}" for name in names if name in description]
    return ", ".join(told) or "none of it"


def _alike(a: Any, b: Any) -> bool:
    """Whether two descriptions are the same up to rounding; a list and a tuple are."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_alike, a, b))
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) if isinstance(a, float) and isinstance(b, float) else a == b
