"""The stand-in for mmcv's compiled ops that read a map between pixels: deformable convolutions, pooling and attention."""

import pytest
import torch
import torchvision
from torch.nn import functional as F

pytest.importorskip("sterf_plugins.openmmlab")

import mmcv.ops
from mmcv_cases import COMPILED, deformable_inputs, not_on_cpu, rois, same_gradients


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.slow
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
