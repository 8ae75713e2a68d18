"""Statistics for the normalisation layers of untrained models."""

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import has_statistics
from .undisturbed import reset_states


def uncalibrated(model: nn.Module) -> bool:
    """Whether a model has BatchNorms and all of them still have their initial statistics (mean 0, variance 1)."""
    norms: list[Any] = [m for m in model.modules() if has_statistics(m)]
    initial = []
    for norm in norms:
        if norm.running_mean is not None and norm.running_var is not None:
            initial.append(not norm.running_mean.any() and bool(torch.all(norm.running_var == 1)))
    return bool(initial) and all(initial)


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> nn.Module:
    """Set the running statistics of all BatchNorms to those of these images; this changes the model.

    One forward pass is enough, because in it each BatchNorm normalises by the statistics of these very images. A random
    network with the initial statistics (mean 0, variance 1) lets its signal grow or die with depth, and a spiking one
    falls silent: its receptive field would be that of the initialisation's scale.

    Args:
        model: any module; it is left in eval mode.
        images: (N, C, H, W) or (T, N, C, H, W), N >= 2.

    Returns:
        The same model.

    Raises:
        ValueError: there are fewer than two images.
    """
    if images.shape[images.ndim - 4] < 2:
        raise ValueError(f"`images` has shape {tuple(images.shape)}; statistics need at least two images.")
    norms: list[Any] = [m for m in model.modules() if has_statistics(m) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all calls of the layer
        norm.train()
    try:
        getattr(model, "extract_feat", model)(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
        reset_states(model)
    return model
