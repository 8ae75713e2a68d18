"""Where the target is in the search region: the centre head of SDTrack, and the box that its maps stand for."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..checks import positive_int
from ..layers import ConvBN2d, IntegerSpike

BRANCHES = {"score": 1, "offset": 2, "size": 2}  # channels of each branch's map
LOWEST_SCORE = 1e-4  # scores and sizes lie in [this, 1 - this]


class CentreMaps(NamedTuple):
    """What the head says of each cell of the search region, which is divided into h x w cells.

    Args:
        score: (B, 1, h, w), how likely the target's centre lies in the cell.
        offset: (B, 2, h, w), of the centre from the cell's corner, (x, y) in cells.
        size: (B, 2, h, w), of the target, (width, height) over the side of the search region.
    """

    score: Tensor
    offset: Tensor
    size: Tensor


class CentreHead(nn.Module):
    """Three branches of four spiking 3x3 convolutions each, and a 1x1 convolution on real numbers.

    (T*B, dim, h, w) -> ``CentreMaps`` of B samples; the last layer's output is averaged over the T time steps.

    Args:
        dim: channels of the features.
        width: channels of the first convolution, at least 8; each further one has half of those before it.
        levels: D, integer spike levels.

    Raises:
        TypeError, ValueError: ``width`` is no int, or below 8.

    Source: arXiv:2503.08703; the head of CenterNet (arXiv:1904.07850) with spikes in front of its convolutions.
    """

    def __init__(self, dim: int, width: int = 256, levels: int = 4):
        super().__init__()
        allowed = "an int >= 8, since it is halved three times"
        if positive_int("head_width", width, allowed) < 8:
            raise ValueError(f"`head_width` is {width}; it must be {allowed}.")
        widths = [dim] + [width // 2**i for i in range(4)]
        self.branches = nn.ModuleDict()
        for name, channels in BRANCHES.items():
            layers: list[nn.Module] = []
            for before, after in pairwise(widths):
                layers += [IntegerSpike(levels), ConvBN2d(before, after, 3, bias=True)]
            self.branches[name] = nn.Sequential(*layers, nn.Conv2d(widths[-1], channels, 1))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, T: int = 1) -> CentreMaps:
        """The maps of features (T*B, dim, h, w), whose first axis has the time steps outermost."""
        score, offset, size = (_exact(branch(x)).unflatten(0, (T, -1)).mean(0) for branch in self.branches.values())
        return CentreMaps(_share(score), offset, _share(size))


def _exact(x: Tensor) -> Tensor:
    """Numbers of at least 32 bits: with fewer, a box is off by up to half a cell, and 1 - ``LOWEST_SCORE`` is 1."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _share(logits: Tensor) -> Tensor:
    return logits.sigmoid().clamp(LOWEST_SCORE, 1 - LOWEST_SCORE)


def decode(maps: CentreMaps) -> Tensor:
    """The boxes (B, 4) of the cells with the highest score: centre x, centre y, width, height over the search region's side.

    Of several cells with the same score the first one counts, row by row. Boxes are not clipped.

    Args:
        maps: what the head gave for B search regions.
    """
    rows, columns = maps.score.shape[-2:]
    cell = maps.score.flatten(1).argmax(1)
    at = cell[:, None, None].expand(-1, 2, 1)
    offset = maps.offset.flatten(2).gather(2, at).squeeze(2)
    size = maps.size.flatten(2).gather(2, at).squeeze(2)
    corner = torch.stack([cell % columns, cell.div(columns, rounding_mode="floor")], 1)
    return torch.cat([(corner + offset) / corner.new_tensor([columns, rows]), size], 1)
