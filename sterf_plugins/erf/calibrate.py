"""Statistics for the normalisation layers of untrained models.

A random network with the initial statistics (mean 0, variance 1) lets its signal grow or die with depth, and a spiking
one falls silent: its receptive field would be that of the initialisation's scale.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_module, has_statistics
from ..undisturbed import reset_states

CALIBRATION = 8  # inputs whose statistics the BatchNorms of untrained models get


def tracking_norms(model: nn.Module) -> list[Any]:
    """The BatchNorms of a model that keep running statistics; those of a script cannot be set."""
    norms = [m for m in model.modules() if has_statistics(m) and getattr(m, "running_mean", None) is not None]
    return [m for m in norms if not isinstance(m, torch.jit.ScriptModule)]


def initial_norms(model: nn.Module) -> list[Any]:
    """The BatchNorms of a model whose running statistics are still the initial ones (mean 0, variance 1)."""
    norms = [m for m in tracking_norms(model) if not m.running_mean.is_meta]  # those of "meta" have no values
    return [m for m in norms if not m.running_mean.any() and bool(torch.all(m.running_var == 1))]


def norms_to_calibrate(model: nn.Module, choice: bool | str) -> list[Any]:
    """The BatchNorms that ``calibrate`` of ``compute_erf`` is about: "auto", ``True`` or ``False``."""
    if choice == "auto":
        return initial_norms(model)
    return tracking_norms(model) if choice else []


def uncalibrated(model: nn.Module) -> bool:
    """Whether a model has BatchNorms and all of them still have their initial statistics."""
    norms = tracking_norms(model)
    return bool(norms) and len(initial_norms(model)) == len(norms)


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> nn.Module:
    """Set the running statistics of all BatchNorms to those of these images; this changes the model.

    One forward pass is enough, because in it each BatchNorm normalises by the statistics of these very images.

    Args:
        model: any module; it is left in eval mode.
        images: (N, C, H, W) or (T, N, C, H, W), N >= 2.

    Returns:
        The same model.

    Raises:
        ValueError: there are fewer than two images, or they hold NaN or infinite values.
        TypeError: the model is no module, or the images are no tensor.
    """
    check_module("model", model)
    if not isinstance(images, Tensor):
        raise TypeError(f"`images` is a {type(images).__name__}; it must be a tensor (N, C, H, W) or (T, N, C, H, W).")
    if images.shape[images.ndim - 4] < 2:
        raise ValueError(f"`images` has shape {tuple(images.shape)}; statistics need at least two images.")
    if not torch.isfinite(images).all():
        raise ValueError("`images` hold NaN or infinite values, and so would the statistics; look at the files.")
    model.eval()
    _set_statistics(tracking_norms(model), getattr(model, "extract_feat", model), images)
    reset_states(model)
    return model


@contextmanager
def calibrated(norms: list[Any], forward: Callable[[Tensor], Any], images: Tensor) -> Iterator[int]:
    """Inside, some BatchNorms have the statistics of these images; afterwards they have their own again.

    Gives the number of norms that have the initial statistics instead, because they see one value of each channel, which
    is no statistic: those behind a global pooling, of a single input.

    Args:
        norms: the BatchNorms, in eval mode.
        forward: the function that runs the model.
        images: (N, C, H, W) or (T, N, C, H, W).
    """
    before = [{name: b.clone() for name, b in norm.named_buffers(recurse=False)} for norm in norms]
    try:
        with torch.no_grad():
            lacking = _set_statistics(norms, forward, images)
        yield lacking
    finally:
        for norm, buffers in zip(norms, before, strict=True):
            for name, value in buffers.items():
                getattr(norm, name).copy_(value)


def _set_statistics(norms: list[Any], forward: Callable[[Tensor], Any], images: Tensor) -> int:
    """Set the norms' statistics; the number of norms that had only one value of each channel, and so have the initial ones."""
    momenta = [m.momentum for m in norms]
    single: set[Any] = set()

    def look(norm: Any, arguments: tuple[Any, ...]) -> None:
        if arguments and isinstance(arguments[0], Tensor) and arguments[0].numel() == norm.running_mean.numel():
            single.add(norm)
            norm.eval()

    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all calls of the layer
        norm.train()
    try:
        forward(images)
    finally:
        for norm, momentum, hook in zip(norms, momenta, hooks, strict=True):
            hook.remove()
            norm.momentum = momentum
            norm.eval()
    return len(single)
