"""Options of the training tool that change how a model computes, and not what."""

from typing import Any

import torch
from torch import nn

from ...backbones.base import save_memory


def speed_up(
    model: nn.Module, *, compiled: bool = False, channels_last: bool = False, memory_efficient: bool = False
) -> None:
    """Apply ``--compile``, ``--channels-last`` and ``--memory-efficient`` to a model, which may be wrapped for DDP.

    Raises:
        ValueError: the model has nothing that an option could act on.
    """
    inner: Any = getattr(model, "module", model)
    backbone: Any = getattr(inner, "backbone", getattr(inner, "network", None))  # a tracker compiles as one
    if (compiled or channels_last) and backbone is None:
        raise ValueError(
            f"--compile and --channels-last act on the model's backbone; {type(inner).__name__} has none. Leave them out."
        )
    if memory_efficient and not save_memory(inner):
        raise ValueError(
            "--memory-efficient acts on a backbone of this package, which the model does not have; use --backbone "
            "sdtv3_… or leave it out. Stock backbones have with_cp=True."
        )
    if channels_last:
        inner.to(memory_format=torch.channels_last)
        backbone.register_forward_pre_hook(_to_channels_last)
    if compiled:
        backbone.compile()


def _to_channels_last(module: nn.Module, inputs: tuple) -> tuple:
    return tuple(
        x.contiguous(memory_format=torch.channels_last) if isinstance(x, torch.Tensor) and x.ndim == 4 else x
        for x in inputs
    )
