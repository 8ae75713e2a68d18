"""The stand-in for mmcv's compiled ops: right numbers, clear errors, and the same numbers as compiled mmcv."""

import subprocess
import sys
import types

import pytest
import torch
import torchvision

from sterf_plugins import mmcv_ops

pytest.importorskip("sterf_plugins.openmmlab")

import mmcv.ops
from mmcv_cases import COMPILED, boxes, close, deformable_inputs, not_on_cpu, rois, same_gradients


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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
