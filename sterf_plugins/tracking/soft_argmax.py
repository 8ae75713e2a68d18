"""Coordinates as expectations over a map, and how far a map is from a bump at its target."""

import torch
from torch import Tensor

RAMPS = ("linspace", "centre")


def coordinate_ramp(n: int, ramp: str = "linspace", like: Tensor | None = None) -> Tensor:
    """Coordinates of the cells of an axis, (n,), in [-1, 1].

    Args:
        n: number of cells.
        ramp: "linspace": the first and the last coordinate are -1 and 1; "centre": [-1, 1] is divided into n equal
            cells, and the coordinates are their centres.
        like: a tensor whose dtype and device the result gets; ``None``: the defaults.
    """
    like = torch.empty(0) if like is None else like
    cells = torch.arange(n, dtype=like.dtype, device=like.device)
    if ramp == "linspace":
        return 2 * cells / (n - 1) - 1 if n > 1 else cells
    return (2 * cells + 1) / n - 1


def soft_argmax(probabilities: Tensor, ramp: str = "linspace") -> Tensor:
    """Mean coordinates of maps (..., H, W) that sum to 1: (..., 2) as (row, column) in [-1, 1].

    Source: Nibali et al., arXiv:1801.07372 (DSNT), whose ramp is "centre"; Nat. Commun. 16:8231 (2025) has "linspace".
    """
    rows, columns = probabilities.sum(-1), probabilities.sum(-2)
    return torch.stack([r @ coordinate_ramp(r.shape[-1], ramp, r) for r in (rows, columns)], -1)


def gaussian_maps(centres: Tensor, size: tuple[int, int], sigma: float, ramp: str = "linspace") -> Tensor:
    """Gaussian bumps that sum to 1.

    Args:
        centres: (..., 2) as (row, column) in [-1, 1].
        size: (H, W).
        sigma: standard deviation, in the units of the coordinates.
        ramp: as in ``coordinate_ramp``.

    Returns:
        Maps (..., H, W).
    """
    rows, columns = (
        torch.softmax(-((coordinate_ramp(n, ramp, centres) - centres[..., k : k + 1]) ** 2) / (2 * sigma**2), -1)
        for k, n in enumerate(size)
    )
    return rows.unsqueeze(-1) * columns.unsqueeze(-2)


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence, in nats, between maps (..., H, W) that sum to 1; one number per map, (...)."""
    middle = 0.5 * (p + q)
    tiny = torch.finfo(p.dtype).tiny
    log_middle = middle.clamp_min(tiny).log()
    parts = [d * (d.clamp_min(tiny).log() - log_middle) for d in (p, q)]
    return 0.5 * (parts[0] + parts[1]).sum((-2, -1))
