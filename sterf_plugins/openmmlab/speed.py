"""Options of the training tool that change how a model computes, and not what."""

import torch
from torch import nn

from ..backbones import SDTV3


def speed_up(model: nn.Module, compiled: bool, channels_last: bool, memory_efficient: bool) -> None:
    """Apply ``--compile``, ``--channels-last`` and ``--memory-efficient`` to a model, wrapped for DDP or not.

    Raises:
        ValueError: the model has nothing that an option could act on.
    """
    inner = getattr(model, "module", model)
    backbone = getattr(inner, "backbone", None)
    if (compiled or channels_last) and backbone is None:
        raise ValueError(
            f"--compile and --channels-last act on the model's backbone; {type(inner).__name__} has none. Leave them out."
        )
    if memory_efficient:
        packing = [m for m in inner.modules() if isinstance(m, SDTV3)]
        if not packing:
            raise ValueError(
                "--memory-efficient acts on SDT-V3, which the model does not have; use --backbone sdtv3_… or leave it out."
            )
        for module in packing:
            module.memory_efficient = True
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
