"""Losses and coordinates of the tracking experiment in Nat. Commun. 16:8231 (2025)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .soft_argmax import gaussian_maps, js_divergence


def normalised_positions(pixels: Tensor, resolution: Sequence[int]) -> Tensor:
    """Positions (..., 2) as (row, column) in pixels, mapped to [-1, 1] by 2 p / resolution - 1.

    ``resolution`` is (H, W).
    """
    return 2 * pixels / torch.as_tensor(resolution, dtype=pixels.dtype, device=pixels.device) - 1


def pixel_positions(normalised: Tensor, resolution: Sequence[int]) -> Tensor:
    """Positions (..., 2) in [-1, 1] as (row, column) in pixels: the inverse of ``normalised_positions``."""
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
    ramp: str = "linspace",
) -> dict[str, Tensor]:
    """The three losses of the experiment: distance, shape of the maps, and activity of the spiking layers.

    Args:
        coordinates: predicted positions (T, B, classes, 2) as (row, column) in [-1, 1].
        probabilities: maps (T, B, classes, h, w) that sum to 1, whose means are ``coordinates``.
        rates: mean activities (C,) of the channels of each spiking layer; an empty list if there are none.
        targets: true positions, as ``coordinates``.
        js_weight: weight of the Jensen-Shannon divergence of the maps from bumps at the targets; 0 leaves it out.
        js_sigma: standard deviation of the bumps, in the units of ``coordinates``.
        rate: mean activity that each channel should have.
        rate_weight: weight of the squared differences from ``rate``; 0 leaves them out.
        ramp: coordinates of the maps' cells, as in ``SoftArgmax2d``.

    Returns:
        Scalars: ``loss_distance``, the mean Euclidean distance; ``loss_js``, summed over time and averaged otherwise;
        and ``loss_rate``, summed over layers and channels. The last two carry their weights.

    Source: Nat. Commun. 16:8231 (2025).
    """
    losses = dict(loss_distance=(coordinates - targets).norm(dim=-1).mean())
    if js_weight:
        bumps = gaussian_maps(targets, (probabilities.shape[-2], probabilities.shape[-1]), js_sigma, ramp)
        losses["loss_js"] = js_weight * js_divergence(probabilities, bumps).sum(0).mean()
    if rates and rate_weight:
        losses["loss_rate"] = rate_weight * sum(((rate - r) ** 2).sum() for r in rates)
    return losses
