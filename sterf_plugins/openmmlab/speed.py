"""Options of the training tool that change how a model computes, and not what."""

from contextlib import AbstractContextManager

import torch
from torch import nn

from .. import neurons
from ..backbones.base import StagedBackbone
from ..functional import packed_spikes
from ..neurons import IntegerSpike


def speed_up(
    model: nn.Module,
    *,
    compiled: bool = False,
    channels_last: bool = False,
    memory_efficient: bool = False,
    fuse_norms: bool = False,
) -> None:
    """Apply ``--compile``, ``--channels-last``, ``--memory-efficient`` and ``--fuse-norms`` to a model.

    The model may be wrapped for DDP.

    Raises:
        ValueError: the model has nothing that an option could act on.
    """
    inner = getattr(model, "module", model)
    backbone = getattr(inner, "backbone", None)
    if (compiled or channels_last) and backbone is None:
        raise ValueError(
            f"--compile and --channels-last act on the model's backbone; {type(inner).__name__} has none. Leave them out."
        )
    if (memory_efficient or fuse_norms) and not any(isinstance(m, IntegerSpike) for m in inner.modules()):
        raise ValueError(
            "--memory-efficient and --fuse-norms act on integer spikes, which the model does not have; use --backbone "
            "sdtv3_… or leave them out."
        )
    if fuse_norms and compiled:
        raise ValueError("--compile fuses norms and spikes by itself; leave out --fuse-norms.")
    if fuse_norms:
        neurons.fuse_norms(inner)
    if memory_efficient:
        for module in inner.modules():
            if isinstance(module, StagedBackbone):
                module.memory_efficient = True
        inner.register_forward_pre_hook(_open_region)  # spiking necks and heads too
        inner.register_forward_hook(_close_region, always_call=True)
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


_regions: list[AbstractContextManager] = []


def _open_region(module: nn.Module, inputs: tuple) -> None:
    _regions.append(packed_spikes())
    _regions[-1].__enter__()


def _close_region(module: nn.Module, inputs: tuple, output: object) -> None:
    _regions.pop().__exit__(None, None, None)
