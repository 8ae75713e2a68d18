"""The stand-in for mmcv's compiled ops: right numbers, clear errors, and the same numbers as compiled mmcv."""

import ast
import importlib.util
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import torchvision
from torch.nn import functional as F

from sterf_plugins import import_hooks, mmcv_ops

pytest.importorskip("sterf_plugins.openmmlab")

import mmcv.ops

COMPILED = import_hooks.compiled_ops_available()

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
    with pytest.raises(NotImplementedError, match=r"mmcv op 'nms_rotated' is not available.*--no-build-isolation"):
        mmcv.ops.nms_rotated(torch.rand(3, 5), torch.rand(3), 0.5)
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        mmcv.ops.roi_align(torch.randn(1, 1, 8, 8), rois(1, 1), (2, 2), 1.0, 0, "max", True)


@pytest.mark.skipif(not COMPILED, reason="mmcv has no compiled ops here to compare with")
def test_same_numbers_as_compiled_mmcv():
    """Every stand-in that compiled mmcv has on this device, called as mmcv calls it."""
    from mmcv import _ext

    stand_in = types.SimpleNamespace(**{op.__name__: op for op in mmcv_ops.PROVIDED})
    b, scores = boxes(60), torch.rand(60)
    for offset in (0, 1):
        theirs = _ext.nms(b, scores, iou_threshold=0.4, offset=offset)
        assert torch.equal(stand_in.nms(b, scores, 0.4, offset), theirs)

    x, r, empty = torch.randn(2, 3, 20, 20), rois(15), torch.zeros(0)
    settings = dict(aligned_height=7, aligned_width=7, spatial_scale=0.25, sampling_ratio=0, pool_mode=1, aligned=True)
    outputs, grads = [], []
    upstream = torch.randn(15, 3, 7, 7)
    for ops in (_ext, stand_in):
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
    for ops in (_ext, stand_in):
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
    for ops in (_ext, stand_in):
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
def test_a_compiled_mmcv_is_left_alone(tmp_path):
    """Where mmcv's folder has an `_ext` of its own, nothing is put in its place."""
    (tmp_path / "_ext.py").write_text("nms = 'compiled'")
    code = f"""
import sterf_plugins.import_hooks, mmcv
mmcv.__path__.append({str(tmp_path)!r})
sterf_plugins.import_hooks.install()
from mmcv import _ext
print(_ext.nms, sterf_plugins.import_hooks.compiled_ops_available())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["compiled", "True"]


def close(ours, expected, atol=1e-10):
    assert ours.shape == expected.shape and torch.allclose(ours, expected, atol=atol), (ours - expected).abs().max()


def same_gradients(ours, expected, inputs, atol=1e-10):
    """Two functions of the same inputs have the same values and the same gradients."""
    close(ours, expected, atol)
    upstream = torch.randn_like(expected)
    grads = (torch.autograd.grad(y, inputs, upstream, retain_graph=True) for y in (ours, expected))
    for got, wanted in zip(*grads, strict=True):
        close(got, wanted, atol)


def bilinear(maps, y, x):
    """Values (C, …) of a map (C, H, W) between pixels, from the four around (y, x); 0 outside the map."""
    height, width = maps.shape[1:]
    low_y, low_x, total = y.detach().floor().long(), x.detach().floor().long(), 0
    for row, column in ((low_y, low_x), (low_y, low_x + 1), (low_y + 1, low_x), (low_y + 1, low_x + 1)):
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        value = maps[:, row.clamp(0, height - 1), column.clamp(0, width - 1)]
        total = total + value * inside * (1 - (y - row).abs()) * (1 - (x - column).abs())
    return total


def deformable(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    """Deformable convolution by its definition, with each value at the address where mmcv's kernel reads it."""
    batch, channels, rows, columns = x.shape
    taps = weight.shape[2] * weight.shape[3]
    height = (rows + 2 * padding - dilation * (weight.shape[2] - 1) - 1) // stride + 1
    width = (columns + 2 * padding - dilation * (weight.shape[3] - 1) - 1) // stride + 1
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    outputs = []
    for image in range(batch):
        window = []
        for channel in range(channels):
            group = channel // (channels // deform_groups)
            for tap in range(taps):
                place = ((group * taps + tap) * height + row) * width + column
                dy, dx = (
                    offset[image].flatten()[((2 * (group * taps + tap) + i) * height + row) * width + column]
                    for i in (0, 1)
                )
                y = row * stride - padding + tap // weight.shape[3] * dilation + dy
                x_ = column * stride - padding + tap % weight.shape[3] * dilation + dx
                value = bilinear(x[image, channel : channel + 1], y, x_)[0]
                window.append(value if mask is None else value * mask[image].flatten()[place])
        window = torch.stack(window).view(groups, -1, height * width)
        outputs.append((weight.view(groups, len(weight) // groups, -1) @ window).view(-1, height, width))
    return torch.stack(outputs) + (0 if bias is None else bias[:, None, None])


# Kernel, stride, padding, dilation, groups, groups of offsets, and who has such a layer.
GEOMETRIES = {
    "heads": (3, 1, 1, 1, 1, 1),
    "bottleneck of stage 2": (3, 2, 1, 1, 1, 1),
    "ResNeXt": (3, 2, 1, 1, 4, 1),
    "4 groups of offsets": (3, 1, 1, 1, 1, 4),
    "both groups": (3, 2, 1, 1, 2, 4),
    "Cascade RPN": (3, 1, 3, 3, 1, 1),
    "TOOD": (1, 1, 0, 1, 4, 4),
    "no padding": (3, 1, 0, 1, 1, 1),
    "oblong kernel": ((1, 3), 1, 1, 1, 2, 2),
}


def deformable_inputs(geometry, extra=0, size=(6, 5)):
    """Input, offset, mask, weight and bias in double precision; offsets of ``extra`` more rows than the output."""
    kernel, stride, padding, dilation, groups, deform_groups = geometry
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    out = [(n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 + extra for n, k in zip(size, kernel, strict=True)]
    taps = kernel[0] * kernel[1] * deform_groups
    offset, mask = torch.randn(2, 2 * taps, *out, dtype=torch.float64), torch.rand(2, taps, *out, dtype=torch.float64)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    weight, bias = torch.randn(8, 4 // groups, *kernel, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    return [tensor.requires_grad_() for tensor in (x, offset, mask, weight, bias)]


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_deformable_convolutions_follow_their_definition(geometry):
    x, offset, mask, weight, bias = deformable_inputs(geometry)
    y = mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry[1:])
    same_gradients(y, deformable(x, offset, mask, weight, bias, *geometry[1:]), (x, offset, mask, weight, bias))
    y = mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, None, *geometry[1:])
    same_gradients(y, deformable(x, offset, mask, weight, None, *geometry[1:]), (x, offset, mask, weight))
    y = mmcv.ops.deform_conv2d(x, offset, weight, *geometry[1:])
    same_gradients(y, deformable(x, offset, None, weight, None, *geometry[1:]), (x, offset, weight))


@pytest.mark.parametrize("stride", [1, 2])
def test_offsets_of_a_finer_map_are_read_as_mmcvs_kernel_does(stride):
    """DyHead gives the offsets of one level to the convolution of the next, coarser one."""
    geometry = (3, stride, 1, 1, 1, 2)
    x, offset, mask, weight, bias = deformable_inputs(geometry, extra=3)
    y = mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry[1:])
    same_gradients(y, deformable(x, offset, mask, weight, bias, *geometry[1:]), (x, offset, mask, weight, bias))


@not_on_cpu
def test_offsets_of_a_coarser_map_are_refused():
    x, offset, mask, weight, bias = deformable_inputs((3, 1, 1, 1, 1, 1), extra=-1)
    with pytest.raises(ValueError, match=r"is \(2, 18, 5, 4\); its output needs 18 channels and at least 6x5"):
        mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 1)


NAN, INF = float("nan"), float("inf")


@not_on_cpu
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_positions_that_are_not_finite_are_named(value):
    """A kernel that is given them reads outside the map, and ends the interpreter or returns what it finds there."""
    x, offset, mask, weight, _ = deformable_inputs((3, 1, 1, 1, 1, 1))
    bad_offset, bad_mask = offset.detach().clone(), mask.detach().clone()
    bad_offset[1, 4, 0, 3] = bad_mask[0, 0, :2, 0] = value
    with pytest.raises(ValueError, match="1 of the 1080 values of `offset` of the mmcv op deform_conv2d are NaN"):
        mmcv.ops.deform_conv2d(x, bad_offset, weight, 1, 1)
    with pytest.raises(ValueError, match=r"1 of the 1080 values of `offset`.*diverged.*learning rate"):
        mmcv.ops.modulated_deform_conv2d(x, bad_offset, mask, weight, None, 1, 1)
    with pytest.raises(ValueError, match="2 of the 540 values of `mask`"):
        mmcv.ops.modulated_deform_conv2d(x, offset, bad_mask, weight, None, 1, 1)
    maps, bad = torch.randn(2, 1, 8, 8), rois(3)
    bad[2, 3] = value
    for op in (mmcv.ops.roi_align, mmcv.ops.roi_pool):
        with pytest.raises(ValueError, match="1 of the 15 values of `rois`"):
            op(maps, bad, (2, 2), 1.0)
    with pytest.raises(ValueError, match="1 of the 15 values of `rois`"):
        mmcv.ops.deform_roi_pool(maps, bad, None, (2, 2))
    with pytest.raises(ValueError, match="1 of the 8 values of `offset`"):
        mmcv.ops.deform_roi_pool(maps, rois(1), torch.tensor([0.0] * 7 + [value]).view(1, 2, 2, 2), (2, 2))
    for op in (mmcv.ops.nms, mmcv.ops.soft_nms):
        with pytest.raises(ValueError, match="1 of the 12 values of `boxes`"):
            op(bad[:, 1:], torch.rand(3), 0.5)


@not_on_cpu
@pytest.mark.parametrize("image", [-1, 2, 1e7])
def test_regions_of_images_that_do_not_exist_are_named(image):
    r = rois(3)
    r[1, 0] = image
    for op in (mmcv.ops.roi_align, mmcv.ops.roi_pool):
        with pytest.raises(
            ValueError, match=r"name image .* of a batch of 2; the first column must be an index from 0 to 1"
        ):
            op(torch.randn(2, 1, 8, 8), r, (2, 2), 1.0)


@not_on_cpu
def test_ops_in_bfloat16():
    """Mixed precision on a CPU: the numbers of float32, rounded."""

    def both(op, *inputs):
        short = [i.detach().bfloat16().requires_grad_(i.requires_grad) for i in inputs]
        ours, exact = op(*short), op(*(i.detach().float().requires_grad_(i.requires_grad) for i in short))
        assert ours.dtype == torch.bfloat16
        close(ours.float(), exact, atol=0.1)
        ours.sum().backward()
        assert all(i.grad.isfinite().all() for i in short if i.requires_grad)

    x, offset, mask, weight, bias = deformable_inputs((3, 1, 1, 1, 1, 1))
    both(lambda *t: mmcv.ops.modulated_deform_conv2d(*t, 1, 1), x, offset, mask, weight, bias)
    both(lambda *t: mmcv.ops.deform_conv2d(*t, 1, 1), x, offset, weight)
    maps = torch.randn(2, 1, 8, 8, requires_grad=True)
    regions = torch.tensor([[0.0, 1, 1, 5, 6], [1, 0, 2, 7, 7]])
    both(lambda x, r: mmcv.ops.roi_align(x, r, (2, 2)), maps, regions)
    both(lambda x, r: mmcv.ops.roi_pool(x, r, (2, 2)), maps, regions)
    both(lambda x, r: mmcv.ops.deform_roi_pool(x, r, None, (2, 2)), maps, regions)
    kept = mmcv.ops.nms(boxes(9).bfloat16(), torch.rand(9).bfloat16(), 0.5)[1]
    assert len(kept) > 0


def pooled_by_moved_bins(x, rois, offset, size, scale, ratio, gamma):
    """Deformable RoIPool, sample by sample."""
    output = []
    for roi, moves in zip(rois, offset, strict=True):
        left, top, right, bottom = roi[1:] * scale - 0.5
        bin_h, bin_w = (bottom - top) / size[0], (right - left) / size[1]
        ny, nx = (ratio, ratio) if ratio else (int(bin_h.ceil()), int(bin_w.ceil()))
        for i in range(size[0]):
            for j in range(size[1]):
                y = top + i * bin_h + gamma * (bottom - top) * moves[1, i, j]
                x_ = left + j * bin_w + gamma * (right - left) * moves[0, i, j]
                samples = []
                for sy in range(ny):
                    for sx in range(nx):
                        at = y + (sy + 0.5) * bin_h / ny, x_ + (sx + 0.5) * bin_w / nx
                        within = all(-1 <= p <= n for p, n in zip(at, x.shape[2:], strict=True))
                        inner = (p.clamp(0, n - 1) for p, n in zip(at, x.shape[2:], strict=True))
                        samples.append(bilinear(x[int(roi[0])], *inner) * within)
                output.append(sum(samples) / len(samples))
    return torch.stack(output).view(len(rois), *size, -1).movedim(-1, 1)


@not_on_cpu
@pytest.mark.parametrize("ratio", [0, 2])
def test_deformable_roi_pool(ratio):
    x, r = torch.randn(2, 3, 12, 14, dtype=torch.float64, requires_grad=True), rois(6).double()
    r[0] = torch.tensor([0, -9, -9, 8, 11])  # partly outside
    offset = torch.randn(6, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    y = mmcv.ops.deform_roi_pool(x, r, offset, (3, 2), 0.25, ratio, 0.1)
    same_gradients(y, pooled_by_moved_bins(x, r, offset, (3, 2), 0.25, ratio, 0.1), (x, offset))
    still = mmcv.ops.deform_roi_pool(x, r, None, (3, 2), 0.25, ratio)
    same_gradients(still, mmcv.ops.roi_align(x, r, (3, 2), 0.25, ratio, "avg", True), [x])


def by_windows(features, masks, size, groups, scale):
    """CARAFE, pixel by pixel."""
    batch, channels, height, width = features.shape
    output = torch.zeros(batch, channels, height * scale, width * scale, dtype=features.dtype)
    for c in range(channels):
        for row in range(height * scale):
            for column in range(width * scale):
                for tap in range(size * size):
                    y, x = row // scale + tap // size - size // 2, column // scale + tap % size - size // 2
                    if 0 <= y < height and 0 <= x < width:
                        kernel = masks[:, c // (channels // groups) * size * size + tap, row, column]
                        output[:, c, row, column] += features[:, c, y, x] * kernel
    return output


@not_on_cpu
@pytest.mark.parametrize(("size", "groups", "scale"), [(3, 1, 2), (5, 2, 2), (1, 4, 3), (3, 2, 1)])
def test_carafe(size, groups, scale):
    features = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    masks = torch.randn(2, size**2 * groups, 3 * scale, 4 * scale, dtype=torch.float64, requires_grad=True)
    expected = by_windows(features, masks, size, groups, scale)
    same_gradients(mmcv.ops.carafe(features, masks, size, groups, scale), expected, (features, masks))
    close(mmcv.ops.carafe_naive(features, masks, size, groups, scale), expected)


@not_on_cpu
@pytest.mark.filterwarnings("ignore:This overload of addmm is deprecated")  # in mmcv
def test_masked_convolution_is_a_convolution_at_some_positions():
    conv = mmcv.ops.MaskedConv2d(3, 4, (3, 5), padding=(1, 2)).double()
    x, mask = torch.randn(1, 3, 6, 7, dtype=torch.float64), torch.rand(1, 6, 7) > 0.6
    with torch.no_grad():
        close(conv(x, mask), conv(x) * mask)
        close(conv(x, mask & False), torch.zeros(1, 4, 6, 7, dtype=torch.float64))


def attention_masks(x, kind, window):
    """PSANet's masks, pixel by pixel."""
    batch, _, height, width = x.shape
    whole = torch.zeros(batch, height * width, height * width, dtype=x.dtype)
    for p in range(height * width):
        for tap in range(window[0] * window[1]):
            y = p // width + tap // window[1] - (window[0] - 1) // 2
            x_ = p % width + tap % window[1] - (window[1] - 1) // 2
            if 0 <= y < height and 0 <= x_ < width:
                other = y * width + x_
                place = (other, p) if kind == "collect" else (p, other)
                whole[:, place[0], place[1]] = x[:, tap, p // width, p % width]
    return whole.view(batch, height * width, height, width)


@pytest.mark.parametrize("kind", ["collect", "distribute"])
@pytest.mark.parametrize("window", [(7, 5), (3, 3), (4, 2)])
def test_psa_masks(kind, window):
    x = torch.randn(2, window[0] * window[1], 4, 3, dtype=torch.float64, requires_grad=True)
    same_gradients(mmcv.ops.PSAMask(kind, window)(x), attention_masks(x, kind, window), [x])


def test_multi_scale_deformable_attention():
    """The function for a GPU and mmcv's own for a CPU have the numbers of a loop over levels, heads and points."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch

    shapes, heads, points, queries = torch.tensor([[4, 5], [2, 3]]), 2, 3, 4
    value = torch.randn(2, 26, heads, 4, dtype=torch.float64, requires_grad=True)
    where = (torch.rand(2, queries, heads, 2, points, 2, dtype=torch.float64) * 1.4 - 0.2).requires_grad_()
    share = torch.rand(2, queries, heads, 2, points, dtype=torch.float64, requires_grad=True)
    expected = []
    for image in range(2):
        for head in range(heads):
            total = 0
            for level, (start, (height, width)) in enumerate(zip((0, 20), shapes.tolist(), strict=True)):
                maps = value[image, start : start + height * width, head].T.view(4, height, width)
                at = where[image, :, head, level]
                sampled = bilinear(maps, at[..., 1] * height - 0.5, at[..., 0] * width - 0.5)
                total = total + (sampled * share[image, :, head, level]).sum(-1)
            expected.append(total.T)
    expected = torch.stack(expected).view(2, heads, queries, 4).transpose(1, 2).flatten(2)
    same_gradients(multi_scale_deformable_attn_pytorch(value, shapes, where, share), expected, (value, where, share))
    if not COMPILED:
        ours = MultiScaleDeformableAttnFunction.apply(value, shapes, torch.tensor([0, 20]), where, share, 64)
        same_gradients(ours, expected, (value, where, share))


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


@not_on_cpu
def test_labels_that_are_no_class_are_background():
    logits = torch.randn(4, 3)
    ours = mmcv.ops.sigmoid_focal_loss(logits, torch.tensor([3, 255, -1, 1]), 2.0, 0.25, None, "none")
    background = mmcv.ops.sigmoid_focal_loss(logits, torch.tensor([3, 3, 3, 1]), 2.0, 0.25, None, "none")
    assert torch.equal(ours, background)


@not_on_cpu
@pytest.mark.parametrize("mode", ["default", "N"])
def test_synchronized_batch_norm_of_one_process_is_a_batch_norm(mode, tmp_path):
    from torch import distributed

    x, upstream = torch.randn(3, 4, 5, 6), torch.randn(3, 4, 5, 6)
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        ours, plain = mmcv.ops.SyncBatchNorm(4, stats_mode=mode), torch.nn.BatchNorm2d(4)
        plain.load_state_dict(ours.state_dict())
        results = []
        for norm in (ours, plain):
            inputs = (x.clone().requires_grad_(), norm.weight, norm.bias)
            y = norm(inputs[0])
            results.append([y, *torch.autograd.grad(y, inputs, upstream), norm.running_mean, norm.running_var])
    finally:
        distributed.destroy_process_group()
    for got, wanted in zip(*results, strict=True):
        close(got, wanted, 1e-5)


def stock_configs():
    """Path of each config that mmdet and mmseg bring along, with their packages' folders."""
    for package in ("mmdet", "mmseg"):
        root = Path(importlib.util.find_spec(package).origin).parent
        yield from ((path, root) for path in sorted((root / ".mim" / "configs").rglob("*.py")))


def ops_of_stock_configs() -> dict:
    """What the code of mmdet and mmseg imports from ``mmcv.ops``, and what a config of theirs gives as a type, by name."""
    from mmengine.registry import MODELS

    ops = {}
    for root in {root for _, root in stock_configs()}:
        for path in (path for path in root.rglob("*.py") if ".mim" not in path.parts):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmcv.ops"):
                    module = importlib.import_module(node.module)
                    ops |= {alias.name: getattr(module, alias.name) for alias in node.names}
    for path, _ in stock_configs():
        for name in re.findall(r"type\s*=\s*['\"](\w+)['\"]", path.read_text()):
            op = MODELS.module_dict.get(name, getattr(mmcv.ops, name, None))
            if getattr(op, "__module__", "").startswith("mmcv.ops"):
                ops[name] = op
    return ops


def kernels_of(name: str, op) -> set[str]:
    """The compiled functions that an op calls."""
    module = getattr(op, "__self__", op).__module__  # of an autograd function, where the op is its `apply`
    if module == "mmcv.ops.nms":  # a file of several ops
        return {dict(nms="nms", batched_nms="nms", soft_nms="softnms", nms_match="nms_match")[name]}
    return set(re.findall(r"ext_module\.(\w+)", Path(sys.modules[module].__file__).read_text()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in mmdet's docstrings
@pytest.mark.skipif(COMPILED, reason="mmcv is compiled here")
def test_every_op_of_a_stock_config_is_there_and_in_the_docs():
    """The list is read from the installed packages, so that a new version's need is seen."""
    provided = {op.__name__ for op in mmcv_ops.PROVIDED}
    needed = {name: kernels for name, op in ops_of_stock_configs().items() if (kernels := kernels_of(name, op))}
    assert {"DCNv2", "MaskedConv2d", "PSAMask", "carafe", "nms_match", "MMSyncBN"} <= needed.keys()
    assert not {name: kernels - provided for name, kernels in needed.items() if kernels - provided}

    page = (Path(__file__).parents[2] / "docs" / "openmmlab.md").read_text()
    cells = [[set(re.findall(r"`(\w+)`", cell)) for cell in line.split("|")] for line in page.splitlines()]
    rows = [(row[1], row[3]) for row in cells if len(row) == 5 and row[1] & needed.keys()]
    documented = {op: set().union(*(folders for ops, folders in rows if op in ops)) for op in needed}
    assert all(any(op in ops for ops, _ in rows) for op in needed), needed.keys() - set().union(
        *(ops for ops, _ in rows)
    )
    uses: dict[str, set] = {}
    folders = set()
    for path, root in stock_configs():
        folder = path.relative_to(root / ".mim" / "configs").parts[0]
        folders.add(folder)
        for name in re.findall(r"type\s*=\s*['\"](\w+)['\"]", path.read_text()):
            uses.setdefault(name, set()).add(folder)
    assert set().union(*documented.values()) <= folders
    for op in needed.keys() & uses.keys() - {"nms", "RoIAlign", "MultiScaleDeformableAttention"}:  # in very many
        assert uses[op] - {"_base_"} <= documented[op], op
