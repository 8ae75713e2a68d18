"""The stand-in for mmcv's compiled ops: right numbers, clear errors, and the same numbers as compiled mmcv."""

import subprocess
import sys

import pytest
import torch
import torchvision
from torch.nn import functional as F

mmcv_ops = pytest.importorskip("sterf_plugins.openmmlab.runtime.mmcv_ops")
mmcv_ops.provide_missing_ops()

import mmcv.ops  # noqa: E402

COMPILED = mmcv_ops.compiled_ops_available()

# Compiled mmcv has these on CUDA only; there is nothing of ours to test then.
not_on_cpu = pytest.mark.skipif(COMPILED, reason="compiled mmcv has no CPU kernel of this op")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def boxes(count, size=60):
    corner = torch.rand(count, 2) * size * 0.6
    return torch.cat([corner, corner + 4 + torch.rand(count, 2) * size * 0.4], 1)


def rois(count, batch=2):
    return torch.cat([torch.randint(batch, (count, 1)).float(), boxes(count)], 1)


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


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_forward_and_backward(aligned, ratio):
    x, r = torch.randn(2, 3, 20, 20, requires_grad=True), rois(12)
    y = mmcv.ops.roi_align(x, r, (7, 5), 0.25, ratio, "avg", aligned)
    expected = torchvision.ops.roi_align(x, r, (7, 5), 0.25, ratio, aligned)
    upstream = torch.randn_like(y)
    assert torch.equal(y, expected)
    assert torch.allclose(*(torch.autograd.grad(t, x, upstream)[0] for t in (y, expected)), atol=1e-6)


@not_on_cpu
def test_roi_pool_forward_and_backward():
    x, r = torch.randn(2, 3, 20, 20, requires_grad=True), rois(9)
    y = mmcv.ops.roi_pool(x, r, (4, 4), 0.25)
    expected = torchvision.ops.roi_pool(x, r, (4, 4), 0.25)
    upstream = torch.randn_like(y)
    assert torch.equal(y, expected)
    assert torch.allclose(*(torch.autograd.grad(t, x, upstream)[0] for t in (y, expected)), atol=1e-6)


def test_deformable_convolution_without_offsets_is_a_convolution():
    x, w = torch.randn(2, 4, 9, 8, requires_grad=True), torch.randn(6, 4, 3, 3, requires_grad=True)
    offset = torch.zeros(2, 18, 9, 8, requires_grad=True)
    y = mmcv.ops.deform_conv2d(x, offset, w, 1, 1)
    expected = F.conv2d(x, w, padding=1)
    assert torch.allclose(y, expected, atol=1e-5)
    upstream = torch.randn_like(y)
    for ours, theirs in zip(
        torch.autograd.grad(y, (x, w), upstream), torch.autograd.grad(expected, (x, w), upstream), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_deformable_convolution_gradients():
    x, w = torch.randn(2, 4, 6, 6, requires_grad=True), torch.randn(4, 2, 3, 3, requires_grad=True)
    offset = (torch.randn(2, 36, 6, 6) * 0.5).requires_grad_()
    y = mmcv.ops.deform_conv2d(x, offset, w, 1, 1, 1, 2, 2)
    expected = torchvision.ops.deform_conv2d(x, offset, w, padding=1)
    upstream = torch.randn_like(y)
    assert torch.allclose(y, expected, atol=1e-5)
    inputs = (x, offset, w)
    for a, b in zip(
        torch.autograd.grad(y, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_modulated_deformable_convolution(bias):
    x, w = torch.randn(2, 4, 6, 6, requires_grad=True), torch.randn(5, 4, 3, 3, requires_grad=True)
    b = torch.randn(5, requires_grad=True) if bias else None
    offset, mask = (torch.randn(2, 18, 6, 6) * 0.5).requires_grad_(), torch.rand(2, 9, 6, 6, requires_grad=True)
    y = mmcv.ops.modulated_deform_conv2d(x, offset, mask, w, b, 1, 1, 1, 1, 1)
    expected = torchvision.ops.deform_conv2d(x, offset, w, b, padding=1, mask=mask)
    upstream = torch.randn_like(y)
    assert torch.allclose(y, expected, atol=1e-5)
    inputs = (x, offset, mask, w, *([b] if bias else []))
    for ours, theirs in zip(
        torch.autograd.grad(y, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)


def focal(logits, target, gamma, alpha, weight):
    """Lin et al. 2017, eq. 5, with label `classes` as background; per element."""
    classes = logits.shape[1]
    losses = torch.zeros_like(logits)
    for n in range(len(logits)):
        for c in range(classes):
            p = torch.sigmoid(logits[n, c])
            positive = target[n] == c
            loss = -alpha * (1 - p) ** gamma * p.log() if positive else -(1 - alpha) * p**gamma * (1 - p).log()
            if weight is not None and target[n] < classes:
                loss = loss * weight[target[n]]
            losses[n, c] = loss
    return losses


@not_on_cpu
@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid_focal_loss(weighted):
    logits = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 3, 0, 1])  # 3 is the background
    weight = torch.rand(3, dtype=torch.float64) if weighted else None
    if weighted:  # compiled mmcv reads past the weights for the background
        target = target.clamp(max=2)
    y = mmcv.ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, weight, "sum")
    expected = focal(logits, target, 2.0, 0.25, weight).sum()
    assert torch.allclose(y, expected)
    assert torch.allclose(torch.autograd.grad(y, logits)[0], torch.autograd.grad(expected, logits)[0])


@not_on_cpu
def test_softmax_focal_loss():
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 0, 1])
    y = mmcv.ops.softmax_focal_loss(logits, target, 2.0, 0.25, None, "sum")
    p = logits.softmax(1).gather(1, target[:, None])[:, 0]
    expected = (-0.25 * (1 - p) ** 2 * p.log()).sum()
    assert torch.allclose(y, expected)
    assert torch.allclose(torch.autograd.grad(y, logits)[0], torch.autograd.grad(expected, logits)[0])


@pytest.mark.skipif(COMPILED, reason="mmcv is compiled here; it has these ops")
def test_other_ops_name_themselves_and_the_fix():
    with pytest.raises(NotImplementedError, match=r"mmcv op 'softnms' is not available.*--no-build-isolation"):
        mmcv.ops.soft_nms(boxes(3), torch.rand(3))
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        mmcv.ops.roi_align(torch.randn(1, 1, 8, 8), rois(1, 1), (2, 2), 1.0, 0, "max", True)


@pytest.mark.skipif(not COMPILED, reason="mmcv has no compiled ops here to compare with")
def test_same_numbers_as_compiled_mmcv():
    """Every stand-in that compiled mmcv has on this device, called as mmcv calls it."""
    from mmcv import _ext

    b, scores = boxes(60), torch.rand(60)
    for offset in (0, 1):
        theirs = _ext.nms(b, scores, iou_threshold=0.4, offset=offset)
        assert torch.equal(mmcv_ops.nms(b, scores, 0.4, offset), theirs)

    x, r, empty = torch.randn(2, 3, 20, 20), rois(15), torch.zeros(0)
    settings = dict(aligned_height=7, aligned_width=7, spatial_scale=0.25, sampling_ratio=0, pool_mode=1, aligned=True)
    outputs, grads = [], []
    upstream = torch.randn(15, 3, 7, 7)
    for ops in (_ext, mmcv_ops):
        out, grad = torch.zeros(15, 3, 7, 7), torch.zeros_like(x)
        ops.roi_align_forward(x, r, out, empty, empty, **settings)
        ops.roi_align_backward(upstream, r, empty, empty, grad, **settings)
        outputs.append(out)
        grads.append(grad)
    assert torch.allclose(*outputs, atol=1e-6)
    assert torch.allclose(*grads, atol=1e-5)

    w, offset, mask = torch.randn(6, 2, 3, 3), torch.randn(2, 36, 9, 9), torch.rand(2, 18, 9, 9)
    x = torch.randn(2, 4, 9, 9)
    geometry = dict(kW=3, kH=3, dW=1, dH=1, padW=1, padH=1, dilationW=1, dilationH=1, group=2, deformable_group=2)
    upstream, results = torch.randn(2, 6, 9, 9), []
    for ops in (_ext, mmcv_ops):
        out = torch.zeros(2, 6, 9, 9)
        gx, go, gw = torch.zeros_like(x), torch.zeros_like(offset), torch.zeros_like(w)
        buffers = [torch.zeros(0), torch.zeros(0)]
        ops.deform_conv_forward(x, w, offset, out, *buffers, **geometry, im2col_step=2)
        ops.deform_conv_backward_input(x, offset, upstream, gx, go, w, buffers[0], **geometry, im2col_step=2)
        ops.deform_conv_backward_parameters(x, offset, upstream, gw, *buffers, **geometry, scale=1, im2col_step=2)
        results.append((out, gx, go, gw))
    for theirs, ours in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)

    geometry = dict(kernel_h=3, kernel_w=3, stride_h=1, stride_w=1, pad_h=1, pad_w=1, dilation_h=1, dilation_w=1)
    geometry |= dict(group=2, deformable_group=2, with_bias=True)
    bias, results = torch.randn(6), []
    for ops in (_ext, mmcv_ops):
        out = torch.zeros(2, 6, 9, 9)
        grads = [torch.zeros_like(t) for t in (x, w, bias, offset, mask)]
        buffers = [torch.zeros(0), torch.zeros(0)]
        ops.modulated_deform_conv_forward(x, w, bias, buffers[0], offset, mask, out, buffers[1], **geometry)
        ops.modulated_deform_conv_backward(
            x, w, bias, buffers[0], offset, mask, buffers[1], *grads, upstream, **geometry
        )
        results.append((out, *grads))
    for theirs, ours in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_mmcv_is_left_alone():
    """With a real `mmcv._ext` on the path nothing is put in its place."""
    code = """
import importlib.machinery, sys, types
sys.modules["mmdet"] = sys.modules["mmseg"] = None  # not to be found: they would ask the empty stand-in for ops
fake = types.ModuleType("mmcv._ext")
fake.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", loader=None)
sys.modules["mmcv._ext"] = fake
from sterf_plugins.openmmlab.runtime import mmcv_ops
print(mmcv_ops.provide_missing_ops(), sys.modules["mmcv._ext"] is fake, mmcv_ops.compiled_ops_available())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True", "True"]
