"""The stand-in for mmcv's compiled ops, those on boxes: suppression in its kinds, matches and overlaps."""

import pytest
import torch

pytest.importorskip("sterf_plugins.openmmlab")

import mmcv.ops
from mmcv_cases import boxes, close, not_on_cpu


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def greedy_nms(b, scores, threshold, offset):
    """The textbook loop."""
    order, kept = scores.argsort(descending=True).tolist(), []
    while order:
        best = order.pop(0)
        kept.append(best)

        def iou(other, best=best):
            w = min(b[best, 2], b[other, 2]) - max(b[best, 0], b[other, 0]) + offset
            h = min(b[best, 3], b[other, 3]) - max(b[best, 1], b[other, 1]) + offset
            inter = max(w, torch.tensor(0.0)) * max(h, torch.tensor(0.0))
            areas = [(b[i, 2] - b[i, 0] + offset) * (b[i, 3] - b[i, 1] + offset) for i in (best, other)]
            return inter / (sum(areas) - inter)

        order = [other for other in order if iou(other) <= threshold]
    return kept


@pytest.mark.parametrize("offset", [0, 1])
def test_nms(offset):
    b, scores = boxes(40), torch.rand(40)
    dets, kept = mmcv.ops.nms(b, scores, 0.4, offset=offset)
    assert kept.tolist() == greedy_nms(b, scores, 0.4, offset)
    assert torch.equal(dets[:, 4], scores[kept])


def test_batched_nms_keeps_classes_apart():
    b, scores = boxes(4).repeat(2, 1), torch.rand(8)
    _, kept = mmcv.ops.batched_nms(b, scores, torch.arange(8) // 4, dict(type="nms", iou_threshold=0.5))
    assert len(kept) >= 2 * len(greedy_nms(b[:4], scores[:4], 0.5, 0))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("offset", [0, 1])
def test_bbox_overlaps(mode, offset):
    a, b = boxes(5), boxes(5)

    def overlap(one, other):
        sides = [min(one[i + 2], other[i + 2]) - max(one[i], other[i]) + offset for i in (0, 1)]
        common = max(sides[0], 0) * max(sides[1], 0)
        areas = [(t[2] - t[0] + offset) * (t[3] - t[1] + offset) for t in (one, other)]
        return common / (areas[0] if mode == "iof" else sum(areas) - common)

    expected = torch.tensor([[overlap(one, other) for other in b.tolist()] for one in a.tolist()])
    close(mmcv.ops.bbox_overlaps(a, b, mode, False, offset), expected, 1e-6)
    close(mmcv.ops.bbox_overlaps(a, b, mode, True, offset), expected.diag(), 1e-6)


def iou_of(a, b, offset=0):
    return float(mmcv.ops.bbox_overlaps(a[None], b[None], "iou", False, offset))


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms(method):
    b, scores = boxes(20), torch.rand(20)
    left, kept, values = {i: float(s) for i, s in enumerate(scores)}, [], []
    while left:
        best = max(left, key=left.get)
        kept.append(best)
        values.append(left.pop(best))
        for other in left:
            iou = iou_of(b[best], b[other])
            if method == "gaussian":
                left[other] *= torch.tensor(-(iou**2) / 0.5).exp().item()
            elif iou >= 0.3:
                left[other] *= 0 if method == "naive" else 1 - iou
        left = {other: score for other, score in left.items() if score >= 0.1}
    dets, inds = mmcv.ops.soft_nms(b, scores, 0.3, 0.5, 0.1, method)
    assert inds.tolist() == kept
    close(dets, torch.cat([b[kept], torch.tensor(values)[:, None]], 1), 1e-6)
    dets, inds = mmcv.ops.soft_nms(b[:0], scores[:0])
    assert dets.shape == (0, 5) and len(inds) == 0


def test_nms_match():
    b, scores = boxes(20), torch.rand(20)
    order, groups = scores.argsort(descending=True).tolist(), []
    while order:
        best = order.pop(0)
        groups.append([best, *(other for other in order if iou_of(b[best], b[other]) >= 0.4)])
        order = [other for other in order if other not in groups[-1]]
    ours = mmcv.ops.nms_match(torch.cat([b, scores[:, None]], 1), 0.4)
    assert [group.tolist() for group in ours] == groups


@not_on_cpu
def test_lane_suppression():
    """Lanes are compared on the rows that both have; a better one suppresses those nearer than the threshold."""

    def lane(start, length, x):
        return [0, 0, start / 71, 0, length, *[x] * 72]

    lanes = torch.tensor([lane(0, 72, 100), lane(10, 20, 103), lane(0, 30, 110), lane(40, 30, 112), lane(5, 30, 104)])
    keep, count, parent = mmcv.ops.line_nms(lanes, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), 5.0, 10)
    assert keep[:count].tolist() == [0, 2, 3] and keep[count:].tolist() == [0, 0]
    assert parent.tolist() == [1, 1, 2, 3, 1]
    keep, count, parent = mmcv.ops.line_nms(lanes, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), 5.0, 2)
    assert keep[:count].tolist() == [0, 2] and parent.tolist() == [1, 1, 2, 0, 1]
