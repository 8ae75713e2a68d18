"""Losses of the covariant paper's experiment."""

import torch
from torch import Tensor

from .soft_argmax import gaussian_maps, js_divergence


def normalised_positions(pixels: Tensor, resolution: tuple[int, int]) -> Tensor:
    """(..., 2) pixels (row, column) -> 2 y / res - 1."""
    return 2 * pixels / torch.as_tensor(resolution, dtype=pixels.dtype, device=pixels.device) - 1


def pixel_positions(normalised: Tensor, resolution: tuple[int, int]) -> Tensor:
    """The inverse of ``normalised_positions``."""
    return (normalised + 1) / 2 * torch.as_tensor(resolution, dtype=normalised.dtype, device=normalised.device)


def tracking_losses(
    coordinates: Tensor,
    probabilities: Tensor,
    rates: list[Tensor],
    targets: Tensor,
    js_weight: float = 1e-4,
    js_sigma: float = 0.06,
    rate: float = 0.05,
    rate_weight: float = 0.05,
) -> dict[str, Tensor]:
    """Mean distance, divergence of the maps from bumps at the targets, and activity of spiking layers.

    Args:
        coordinates: (T, B, classes, 2) in [-1, 1].
        probabilities: (T, B, classes, h, w).
        rates: (C,) per spiking layer, or none.
        targets: like ``coordinates``.
        js_weight: of the Jensen-Shannon divergence, summed over time.
        js_sigma: of the bumps, in normalised units.
        rate: wanted mean activity of a channel.
        rate_weight: of the squared difference to it, summed over channels.

    Source: Nat. Commun. 16:8231 (2025).
    """
    losses = dict(loss_distance=(coordinates - targets).norm(dim=-1).mean())
    if js_weight:
        bumps = gaussian_maps(targets, (probabilities.shape[-2], probabilities.shape[-1]), js_sigma)
        losses["loss_js"] = js_weight * js_divergence(probabilities, bumps).sum(0).mean()
    if rates and rate_weight:
        losses["loss_rate"] = rate_weight * sum(((rate - r) ** 2).sum() for r in rates)
    return losses
