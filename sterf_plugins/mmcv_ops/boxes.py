"""Boxes and lines that stand for the same object, and how much they overlap."""

import torch
import torchvision
from torch import Tensor

from .values import check_finite


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Non-maximum suppression of boxes (N, 4) with scores (N,); indices (K,) of the kept boxes, best first.

    ``offset`` 1 means that a box includes its last pixels: its width is x2 - x1 + 1.
    """
    check_finite("nms", boxes=boxes)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    single = torch.promote_types(boxes.dtype, torch.float32)  # there is no kernel of shorter types on a CPU
    return torchvision.ops.nms(boxes.to(single), scores.to(single), iou_threshold)


def _overlaps(boxes1: Tensor, boxes2: Tensor, offset: int, of_first: bool = False) -> Tensor:
    """Intersection over union of boxes (…, 4), which are broadcast; over the first box's area with ``of_first``."""

    def area(corner: Tensor, opposite: Tensor) -> Tensor:
        return (opposite - corner + offset).prod(-1)

    corner = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    opposite = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    common = (opposite - corner + offset).clamp(min=0).prod(-1)
    first = area(boxes1[..., :2], boxes1[..., 2:])
    return common / (first if of_first else first + area(boxes2[..., :2], boxes2[..., 2:]) - common)


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Overlaps of boxes (M, 4) and (N, 4) into ``ious`` (M, N), or of pairs into (M,); mode 0 is IoU, 1 is IoF."""
    first = bboxes1 if aligned else bboxes1[:, None]
    ious.copy_(_overlaps(first, bboxes2, offset, of_first=mode == 1))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al. 2017): boxes near a better one lose score. Indices (K,), and ``dets`` (N, 5) is filled.

    ``method`` 0 drops a box whose IoU reaches the threshold, 1 multiplies its score by 1 - IoU, and 2 multiplies all
    scores by exp(-IoU² / sigma).
    """
    check_finite("soft_nms", boxes=boxes)
    scores, left = scores.clone(), torch.arange(len(scores))
    kept: list[Tensor] = []
    while len(left):
        best = left[scores[left].argmax()]
        dets[len(kept), :4], dets[len(kept), 4] = boxes[best], scores[best]
        kept.append(best)
        left = left[left != best]
        iou = _overlaps(boxes[best], boxes[left], offset)
        if method == 2:
            scores[left] *= (-(iou**2) / sigma).exp()
        else:
            scores[left] *= torch.where(iou >= iou_threshold, 1 - iou if method == 1 else 0, 1)
        left = left[scores[left] >= min_score]
    return torch.stack(kept) if kept else left


def _groups(near: Tensor) -> list[list[int]]:
    """Greedy groups by ``near`` (N, N) of objects that are sorted, best first: each begins with the one that is kept."""
    groups, free = [], torch.ones(len(near), dtype=torch.bool, device=near.device)
    for best, row in enumerate(near):
        if free[best]:
            free[best] = False
            groups.append([best, *(row & free).nonzero()[:, 0].tolist()])
            free &= ~row
    return groups


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Indices of boxes with scores (N, 5) in groups of one kept box, which comes first, and those that it suppresses."""
    check_finite("nms_match", dets=dets)
    order = dets[:, 4].argsort(descending=True)
    boxes = dets[order, :4]
    groups = _groups(_overlaps(boxes[:, None], boxes, offset=0) >= iou_threshold)
    return [order[group].tolist() for group in groups]


def line_nms_forward(boxes: Tensor, scores: Tensor, overlap: float, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Suppression of lanes (N, 5 + rows) by their mean horizontal distance on common rows, which ``overlap`` bounds.

    A lane holds two logits, where it starts (share of the rows), its angle, its length in rows, and an x for each row.

    Returns:
        The kept indices, best first, filled up with 0 to (N,); how many are kept; 1 + the kept lane's place, for each
        lane (0: beyond ``top_k``).
    """
    check_finite("line_nms", boxes=boxes)
    order = scores.argsort(descending=True)
    lanes, rows = boxes[order], boxes.shape[1] - 5
    start = (lanes[:, 2] * (rows - 1) + 0.5).long()
    end = start + lanes[:, 4].long() - 1
    start = torch.maximum(start[:, None], start)
    end = torch.minimum(end[:, None], end).clamp(max=rows - 1)
    row = torch.arange(rows, device=boxes.device)
    common = (row >= start[..., None]) & (row <= end[..., None])
    distance = ((lanes[:, None, 5:] - lanes[:, 5:]).abs() * common).sum(-1)
    near = (distance < overlap * (end - start + 1)) & (start >= 0) & (end >= start)
    groups = _groups(near)[:top_k]
    keep, parent = torch.zeros_like(order), torch.zeros_like(order)
    for index, group in enumerate(groups):
        keep[index] = order[group[0]]
        parent[order[group]] = index + 1
    return keep, torch.tensor(len(groups), device=boxes.device), parent
