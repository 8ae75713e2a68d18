"""Numbers that a module's arguments define, which are neither learned nor entries of its checkpoints."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ...functional.torch_kernels import default_device


class FixedNumbers(nn.Module):
    """A module with such numbers, which are buffers of it.

    PyTorch alone would leave them without values after ``to_empty`` and ``load_state_dict(assign=True)``, by which models
    made on the meta device get theirs, and would make float64 of numbers that have been rounded to float32. Here each
    buffer is made anew from its exact values. A state dict carries a description of the numbers as metadata, and loading
    one with another description warns. PyTorch keeps metadata in its files, but not where somebody copies the entries.
    """

    def __init__(self):
        super().__init__()
        self._exact: dict[str, Tensor] = {}
        self.register_state_dict_post_hook(_describe)
        self.register_load_state_dict_pre_hook(_compare)

    def fix(self, name: str, value: Tensor) -> None:
        """Register a buffer with these values, in the default precision and on the default device."""
        self._exact[name] = value
        self.register_buffer(name, in_default_precision(value), persistent=False)

    def description(self) -> dict[str, Any]:
        """What the numbers are and how they are used, in types that a checkpoint may hold."""
        return {name: value.tolist() for name, value in self._exact.items()}

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        for name, value in self._exact.items():
            setattr(self, name, value.to(getattr(self, name)))
        return self


def in_default_precision(value: Tensor) -> Tensor:
    """Values in PyTorch's default dtype, float32 at least, on the default device."""
    return value.to(default_device(), torch.promote_types(torch.get_default_dtype(), torch.float32))


def _describe(module: FixedNumbers, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    local_metadata["fixed"] = module.description()


def _compare(module: FixedNumbers, state_dict: dict, prefix: str, local_metadata: dict, *_: Any) -> None:
    """Warn of another description in a checkpoint, and give values to buffers of the meta device, of which it has none."""
    if local_metadata.get("assign_to_params_buffers"):
        for name, value in module._exact.items():
            if getattr(module, name).is_meta:
                setattr(module, name, in_default_precision(value))
    here = module.description()
    there = local_metadata.get("fixed", here)
    other = [name for name in here.keys() | there.keys() if not _alike(here.get(name), there.get(name))]
    if other:
        warnings.warn(
            f"the weights of {prefix.removesuffix('.') or 'the module'} were saved with other values of {', '.join(sorted(other))} "
            f"than this {type(module).__name__} has. They are arguments, which a checkpoint does not bring: the network is not "
            f"the one that was saved, unless you build it with the same.",
            stacklevel=2,
        )


def _alike(a: Any, b: Any) -> bool:
    """Whether two descriptions are the same up to rounding; a list and a tuple are."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_alike, a, b))
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) if isinstance(a, float) and isinstance(b, float) else a == b
