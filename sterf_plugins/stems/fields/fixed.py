"""Numbers that a module's arguments define, which are neither learned nor entries of its checkpoints."""

from typing import Any

import torch
from torch import Tensor

from ...functional.torch_kernels import default_device
from ...layers.described import Described


class FixedNumbers(Described):
    """A module with such numbers, which are buffers of it.

    PyTorch alone would leave them without values after ``to_empty`` and ``load_state_dict(assign=True)``, by which models
    made on the meta device get theirs, and would make float64 of numbers that have been rounded to float32. Here each
    buffer is made anew from its exact values.
    """

    def __init__(self):
        super().__init__()
        self._exact: dict[str, Tensor] = {}
        self.register_load_state_dict_pre_hook(_fill)

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


def _fill(module: FixedNumbers, state_dict: dict, prefix: str, local_metadata: dict, *_: Any) -> None:
    """Give values to buffers of the meta device, of which a checkpoint has none."""
    if local_metadata.get("assign_to_params_buffers"):
        for name, value in module._exact.items():
            if getattr(module, name).is_meta:
                setattr(module, name, in_default_precision(value))
