"""Autocast, on every device: PyTorch's own functions refuse tensors on the meta device."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def autocast_enabled(x: Tensor) -> bool:
    """Whether autocast chooses the precision of operations on ``x``."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def without_autocast(x: Tensor) -> AbstractContextManager:
    """A context in which operations on ``x`` keep their precision."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)
