"""Stands in for mmcv's compiled ops (``mmcv._ext``) with torchvision's kernels where mmcv has none.

mmdet imports ``mmcv.ops``, which needs ``mmcv._ext``; a plain ``pip install`` has no such module. NMS, RoIAlign,
RoIPool and deformable convolution are the same operations in torchvision, on CPU and CUDA, and the focal losses are
a few tensor expressions. Every other op raises an error that names it. Where mmcv is compiled nothing is touched.

RoIPool alone is defined differently: torchvision rounds box corners to feature pixels as the Fast R-CNN paper does,
mmcv's CUDA kernel keeps fractions. Stock configs use RoIAlign.
"""

import importlib.machinery
import importlib.util
import sys
import types

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

NAME = "mmcv._ext"
COMPILE_HINT = (
    "Install mmcv with compiled ops: pip install torch torchvision 'setuptools<82' wheel packaging ninja psutil && "
    "pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps onedl-mmcv   "
    "(see https://github.com/VBTI-development/onedl-mmcv for prebuilt CUDA wheels)."
)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Non-maximum suppression of boxes (N, 4) with scores (N,); indices (K,) of the kept boxes, best first.

    ``offset`` 1 means that a box includes its last pixels: its width is x2 - x1 + 1.
    """
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torchvision.ops.nms(boxes, scores, iou_threshold)


def _average_only(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError(f"RoIAlign with pool_mode='max' needs mmcv's compiled ops. {COMPILE_HINT}")


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign of maps (B, C, H, W) for ``rois`` (K, 5) into ``output`` (K, C, h, w), average mode only.

    A row of ``rois`` is (index in the batch, x1, y1, x2, y2), in pixels of the image.
    """
    _average_only(pool_mode)
    size = (aligned_height, aligned_width)
    output.copy_(torchvision.ops.roi_align(input, rois, size, spatial_scale, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of ``roi_align_forward`` with respect to its input, added to ``grad_input``."""
    _average_only(pool_mode)
    size = (aligned_height, aligned_width)
    with torch.enable_grad():  # linear in its input, whose values do not matter
        maps = torch.zeros_like(grad_input).requires_grad_()
        pooled = torchvision.ops.roi_align(maps, rois, size, spatial_scale, sampling_ratio, aligned)
        grad_input += torch.autograd.grad(pooled, maps, grad_output)[0]


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoIPool of maps (B, C, H, W) for ``rois`` (K, 5) into ``output`` and ``argmax`` (K, C, h, w)."""
    # The operator behind ``torchvision.ops.roi_pool``, which drops the positions of the maxima.
    pooled, indices = torch.ops.torchvision.roi_pool(input, rois, spatial_scale, pooled_height, pooled_width)
    output.copy_(pooled)
    argmax.copy_(indices)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Gradient of ``roi_pool_forward`` with respect to its input, added to ``grad_input``."""
    image = rois[:, 0].long()[:, None, None]
    channel = torch.arange(grad_input.shape[1], device=rois.device)[None, :, None]
    position = argmax.flatten(2).long()  # in the flattened map; -1 for an empty bin
    values = torch.where(position >= 0, grad_output.flatten(2), 0)
    whole = torch.zeros_like(grad_input).flatten(2)
    whole.index_put_((image, channel, position.clamp(min=0)), values, accumulate=True)
    grad_input += whole.view_as(grad_input)


def _deformable_gradients(grad_output: Tensor, tensors: dict[str, Tensor], geometry: dict) -> dict[str, Tensor]:
    """Gradients of ``torchvision.ops.deform_conv2d`` for its tensors, by name."""
    with torch.enable_grad():
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
        output = torchvision.ops.deform_conv2d(**leaves, **geometry)
        grads = torch.autograd.grad(output, list(leaves.values()), grad_output)
    return dict(zip(leaves, grads, strict=True))


def _geometry(strides: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]) -> dict:
    """Options of ``torchvision.ops.deform_conv2d``, which finds both numbers of groups in the tensors' shapes."""
    return dict(stride=strides, padding=padding, dilation=dilation)


def deform_conv_forward(
    input, weight, offset, output, columns, ones, *,
    kW, kH, dW, dH, padW, padH, dilationW, dilationH, group, deformable_group, im2col_step,
) -> None:  # fmt: skip
    """Deformable convolution v1 into ``output``."""
    geometry = _geometry((dH, dW), (padH, padW), (dilationH, dilationW))
    output.copy_(torchvision.ops.deform_conv2d(input, offset, weight, **geometry))


def deform_conv_backward_input(
    input, offset, grad_output, grad_input, grad_offset, weight, columns, *,
    kW, kH, dW, dH, padW, padH, dilationW, dilationH, group, deformable_group, im2col_step,
) -> None:  # fmt: skip
    """Gradients of deformable convolution v1 with respect to input and offset, added."""
    geometry = _geometry((dH, dW), (padH, padW), (dilationH, dilationW))
    grads = _deformable_gradients(grad_output, dict(input=input, offset=offset, weight=weight), geometry)
    grad_input += grads["input"]
    grad_offset += grads["offset"]


def deform_conv_backward_parameters(
    input, offset, grad_output, grad_weight, columns, ones, *,
    kW, kH, dW, dH, padW, padH, dilationW, dilationH, group, deformable_group, scale, im2col_step,
) -> None:  # fmt: skip
    """Gradient of deformable convolution v1 with respect to the weight, times ``scale``, added."""
    geometry = _geometry((dH, dW), (padH, padW), (dilationH, dilationW))
    tensors = dict(input=input, offset=offset, weight=torch.zeros_like(grad_weight))  # linear in the weight
    grad_weight.add_(_deformable_gradients(grad_output, tensors, geometry)["weight"], alpha=scale)


def modulated_deform_conv_forward(
    input, weight, bias, ones, offset, mask, output, columns, *,
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group, with_bias,
) -> None:  # fmt: skip
    """Deformable convolution v2 into ``output``."""
    geometry = _geometry((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    bias = bias if with_bias else None
    output.copy_(torchvision.ops.deform_conv2d(input, offset, weight, bias, mask=mask, **geometry))


def modulated_deform_conv_backward(
    input, weight, bias, ones, offset, mask, columns,
    grad_input, grad_weight, grad_bias, grad_offset, grad_mask, grad_output, *,
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group, with_bias,
) -> None:  # fmt: skip
    """Gradients of deformable convolution v2, added to the ``grad_*`` tensors."""
    geometry = _geometry((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    tensors = dict(input=input, offset=offset, weight=weight, mask=mask)
    if with_bias:
        tensors["bias"] = bias
    grads = _deformable_gradients(grad_output, tensors, geometry)
    for target, name in ((grad_input, "input"), (grad_weight, "weight"), (grad_offset, "offset"), (grad_mask, "mask")):
        target += grads[name]
    if with_bias:
        grad_bias += grads["bias"]


def _class_weights(target: Tensor, weight: Tensor) -> Tensor | float:
    """Weight of each sample's class; 1 where there is none, and for the background label past the last class."""
    if not weight.numel():
        return 1.0
    padded = torch.cat([weight, weight.new_ones(1)])
    return padded[target.clamp(max=weight.numel())][:, None]


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of (N, classes) logits and (N,) labels into ``output``; label ``classes`` is the background."""
    onehot = F.one_hot(target, input.shape[1] + 1)[:, :-1].to(input.dtype)
    losses = torchvision.ops.sigmoid_focal_loss(input, onehot, alpha, gamma, "none")
    output.copy_(losses * _class_weights(target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of the summed ``sigmoid_focal_loss_forward`` with respect to the logits."""
    with torch.enable_grad():
        logits = input.detach().requires_grad_()
        onehot = F.one_hot(target, input.shape[1] + 1)[:, :-1].to(input.dtype)
        losses = torchvision.ops.sigmoid_focal_loss(logits, onehot, alpha, gamma, "none")
        (grad,) = torch.autograd.grad((losses * _class_weights(target, weight)).sum(), logits)
    grad_input.copy_(grad)


def _softmax_weights(target: Tensor, weight: Tensor) -> Tensor | float:
    return weight[target.clamp(min=0)] if weight.numel() else 1.0


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of (N, classes) *probabilities* and (N,) labels into ``output`` (N,); 0 for negative labels."""
    p = input.gather(1, target.clamp(min=0)[:, None])[:, 0]
    loss = -alpha * (1 - p) ** gamma * p.clamp(min=torch.finfo(p.dtype).tiny).log()
    output.copy_(torch.where(target >= 0, loss * _softmax_weights(target, weight), 0))


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of the summed ``softmax_focal_loss_forward`` with respect to the logits."""
    index = target.clamp(min=0)[:, None]
    p = input.gather(1, index)[:, 0]
    log_p = p.clamp(min=torch.finfo(p.dtype).tiny).log()
    slope = alpha * (-((1 - p) ** gamma) + gamma * (1 - p) ** (gamma - 1) * p * log_p)
    slope = torch.where(target >= 0, slope * _softmax_weights(target, weight), 0)
    buff.copy_(slope)
    grad_input.copy_(slope[:, None] * (torch.zeros_like(input).scatter_(1, index, 1) - input))


PROVIDED = (
    nms,
    roi_align_forward,
    roi_align_backward,
    roi_pool_forward,
    roi_pool_backward,
    deform_conv_forward,
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    modulated_deform_conv_forward,
    modulated_deform_conv_backward,
    sigmoid_focal_loss_forward,
    sigmoid_focal_loss_backward,
    softmax_focal_loss_forward,
    softmax_focal_loss_backward,
)


class _Extension(types.ModuleType):
    """The stand-in module: any op can be looked up (``mmcv.ops`` asserts that), a missing one fails when called."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(f"the mmcv op {name!r} is not available: mmcv has no compiled ops here, and "
                                      f"torchvision has no such op. {COMPILE_HINT}")  # fmt: skip

        missing.__name__ = name
        return missing


def compiled_ops_available() -> bool:
    """Whether mmcv has its own compiled ops."""
    module = sys.modules.get(NAME)
    if module is not None:
        return not isinstance(module, _Extension)
    return importlib.util.find_spec("mmcv") is not None and importlib.util.find_spec(NAME) is not None


def provide_missing_ops() -> bool:
    """Put the stand-in under ``mmcv._ext`` unless mmcv is compiled (or not installed at all).

    Returns:
        Whether the stand-in is in place.
    """
    if isinstance(sys.modules.get(NAME), _Extension):
        return True
    if importlib.util.find_spec("mmcv") is None or compiled_ops_available():
        return False
    module = _Extension(NAME, "torchvision's kernels under the name of mmcv's compiled ops")
    module.__spec__ = importlib.machinery.ModuleSpec(NAME, loader=None, origin=__file__)
    for op in PROVIDED:
        setattr(module, op.__name__, op)
    sys.modules[NAME] = module
    return True
