"""Stochastic depth: in training a residual branch is left out for randomly chosen samples (arXiv:1603.09382)."""

import torch
from torch import Tensor, nn

from ..checks import fraction


def drop_path(rate: float, over_time: bool = False) -> nn.Module:
    """Stochastic depth by timm's ``DropPath``, or nothing where ``rate`` is 0.

    Args:
        rate: probability that a sample does without the branch; the other samples' branches grow by 1 / (1 - rate).
        over_time: the branch gives (T, B, C, H, W); a sample is then left out in all time steps or in none.
    """
    if not fraction("drop_path_rate", rate):
        return nn.Identity()
    from timm.layers import DropPath  # timm takes a second to import

    return _OverTime(DropPath(rate)) if over_time else DropPath(rate)


class _OverTime(nn.Module):
    """A layer that takes (B, ...) applied to (T, B, ...), with time as a further axis of each sample."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


def drop_path_rates(rate: float, blocks: int) -> list[float]:
    """The rates of ``blocks`` blocks in a row: they grow linearly from 0 to ``rate``, as in timm.

    Raises:
        TypeError, ValueError: ``rate`` is not a number in [0, 1).
    """
    return torch.linspace(0, fraction("drop_path_rate", rate), blocks, device="cpu").tolist()
