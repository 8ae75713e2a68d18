"""The losses of a centre head: where the target's centre is, and how well the decoded box fits (arXiv:2503.08703).

Boxes are (x, y, w, h) of the left upper corner and the size, over the side of the search region.
"""

import math

import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou_loss

from .centre_head import CentreMaps, decode

WEIGHTS = {"giou": 2.0, "l1": 5.0, "focal": 1.0}
OVERLAP = 0.7  # a box that is off by less than the radius overlaps its target at least so much
_SMALLEST = 1e-12  # scores are not taken for less by the logarithm


def centre_losses(maps: CentreMaps, boxes: Tensor) -> dict[str, Tensor]:
    """The three losses, without their ``WEIGHTS``.

    The box is decoded at the cell with the highest predicted score, as in a test, and not at the target's cell.

    Args:
        maps: what the head predicts for B search regions.
        boxes: the targets (B, 4).

    Returns:
        "giou", "l1" (of corners) and "focal" (of the scores), as numbers.

    Raises:
        ValueError: the boxes have another shape, or are not finite.
    """
    if boxes.shape != (len(maps.score), 4) or not boxes.isfinite().all():
        raise ValueError(
            f"`boxes` has shape {tuple(boxes.shape)}; it must be finite numbers x, y, w, h of {len(maps.score)} search regions."
        )
    predicted = box_convert(decode(maps), "cxcywh", "xyxy")
    target = box_convert(boxes, "xywh", "xyxy").clamp(0, 1)
    return {
        "giou": generalized_box_iou_loss(predicted, target, reduction="mean"),
        "l1": (predicted - target).abs().mean(),
        "focal": focal_loss(maps.score[:, 0], heat_maps(boxes, maps.score.shape[-1])),
    }


def focal_loss(score: Tensor, target: Tensor) -> Tensor:
    """CenterNet's focal loss (arXiv:1904.07850) of scores against heat-maps, both (B, h, w).

    Cells whose target is 1 are positive. The sum over all cells is divided by their number, if there are any.
    """
    score = score.clamp(min=_SMALLEST)
    positive = target == 1
    hit = (1 - score).square() * score.log()
    miss = (1 - target) ** 4 * score.square() * (1 - score).clamp(min=_SMALLEST).log()
    return -torch.where(positive, hit, miss).sum() / positive.sum().clamp(min=1)


def heat_maps(boxes: Tensor, side: int) -> Tensor:
    """A Gaussian around the centre of each box, 1 at its cell: (B, 4) -> (B, side, side).

    Its radius is the distance by which a box may be off and overlap its target by ``OVERLAP``, and three times its standard
    deviation, roughly; it is cut off there.
    """
    cells = boxes.double().cpu() * side
    maps = torch.zeros(len(boxes), side, side)
    for heat, (x, y, w, h) in zip(maps, cells.tolist(), strict=True):
        column, row = round(x + w / 2), round(y + h / 2)
        radius = max(0, int(gaussian_radius(w, h)))
        sigma = (2 * radius + 1) / 6
        rows, columns = (torch.arange(side) - c for c in (row, column))
        gaussian = torch.exp(-(rows[:, None] ** 2 + columns**2) / (2 * sigma**2))
        gaussian[(rows.abs() > radius)[:, None] | (columns.abs() > radius)] = 0
        gaussian[gaussian < torch.finfo(gaussian.dtype).eps] = 0
        heat.copy_(gaussian)
    return maps.to(boxes)


def gaussian_radius(w: float, h: float) -> float:
    """CornerNet's radius for a box of w x h cells, with the denominators left out, as most implementations have it."""
    total, area = w + h, w * h
    both_off = (total + math.sqrt(total**2 - 4 * area * (1 - OVERLAP) / (1 + OVERLAP))) / 2
    inside = (2 * total + math.sqrt(4 * total**2 - 16 * area * (1 - OVERLAP))) / 2
    outside = (-2 * OVERLAP * total + math.sqrt(4 * OVERLAP**2 * total**2 + 16 * OVERLAP * (1 - OVERLAP) * area)) / 2
    return min(both_off, inside, outside)
