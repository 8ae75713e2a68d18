"""Convolutions and attention that look at positions which the network has computed."""

import torchvision
from torch import Tensor

from .values import check_finite, gradients, widened


def _as_output(tensor: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """What mmcv's kernel reads of offsets or masks: each image's first values, as (B, channels, *size).

    They are all of its values, unless the tensor has more positions than the output. DyHead convolves a coarse map
    with the offsets of a finer one, and its published weights have been trained with the values that are read so.
    """
    if tensor.shape[1] != channels or tensor.shape[2] * tensor.shape[3] < size[0] * size[1]:
        raise ValueError(
            f"offset or mask of a modulated deformable convolution is {tuple(tensor.shape)}; its output needs {channels} "
            f"channels and at least {size[0]}x{size[1]} positions."
        )
    return tensor.flatten(1)[:, : channels * size[0] * size[1]].unflatten(1, (channels, *size))


def _deform_conv(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """The convolution of torchvision, which finds both numbers of groups in the shapes of the tensors."""
    bias, mask = (None if tensor is None else widened(tensor) for tensor in (bias, mask))
    tensors = (widened(input), widened(offset), widened(weight), bias)
    return torchvision.ops.deform_conv2d(*tensors, stride, padding, dilation, mask)


def _modulated(input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor, deform_groups: int, size: tuple[int, int],
               **options) -> Tensor:  # fmt: skip
    taps = deform_groups * weight.shape[2] * weight.shape[3]
    offset, mask = _as_output(offset, 2 * taps, size), _as_output(mask, taps, size)
    return _deform_conv(input, offset, weight, mask=mask, **options)


def _check_positions(**tensors: Tensor) -> None:
    """On a CPU, refuse values that are not finite. CUDA kernels return NaN for them, and a check would wait for them."""
    if all(tensor.device.type == "cpu" for tensor in tensors.values()):
        check_finite("deform_conv2d", **tensors)


def deform_conv_forward(
    input, weight, offset, output, columns, ones, *,
    kW, kH, dW, dH, padW, padH, dilationW, dilationH, group, deformable_group, im2col_step,
) -> None:  # fmt: skip
    """Deformable convolution v1 into ``output``."""
    _check_positions(offset=offset)
    geometry: dict = dict(stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW))
    output.copy_(_deform_conv(input, offset, weight, **geometry))


def deform_conv_backward_input(
    input, offset, grad_output, grad_input, grad_offset, weight, columns, *,
    kW, kH, dW, dH, padW, padH, dilationW, dilationH, group, deformable_group, im2col_step,
) -> None:  # fmt: skip
    """Gradients of deformable convolution v1 with respect to input and offset, added."""
    geometry: dict = dict(stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW))
    tensors = dict(input=input, offset=offset, weight=weight)
    grads = gradients(_deform_conv, tensors, widened(grad_output), **geometry)
    grad_input += grads["input"]
    grad_offset += grads["offset"]


def deform_conv_backward_parameters(
    input, offset, grad_output, grad_weight, columns, ones, *,
    kW, kH, dW, dH, padW, padH, dilationW, dilationH, group, deformable_group, scale, im2col_step,
) -> None:  # fmt: skip
    """Gradient of deformable convolution v1 with respect to the weight, times ``scale``, added."""
    geometry: dict = dict(stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW))
    tensors = dict(input=input, offset=offset, weight=grad_weight)  # linear in the weight, whose values do not matter
    grad_weight.add_(gradients(_deform_conv, tensors, widened(grad_output), **geometry)["weight"], alpha=scale)


def modulated_deform_conv_forward(
    input, weight, bias, ones, offset, mask, output, columns, *,
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group, with_bias,
) -> None:  # fmt: skip
    """Deformable convolution v2 into ``output``."""
    _check_positions(offset=offset, mask=mask)
    geometry: dict = dict(stride=(stride_h, stride_w), padding=(pad_h, pad_w), dilation=(dilation_h, dilation_w))
    shape: dict = dict(deform_groups=deformable_group, size=tuple(output.shape[2:]))
    bias = bias if with_bias else None
    output.copy_(_modulated(input, offset, weight, mask, bias=bias, **shape, **geometry))


def modulated_deform_conv_backward(
    input, weight, bias, ones, offset, mask, columns,
    grad_input, grad_weight, grad_bias, grad_offset, grad_mask, grad_output, *,
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group, with_bias,
) -> None:  # fmt: skip
    """Gradients of deformable convolution v2, added to the ``grad_*`` tensors."""
    geometry: dict = dict(stride=(stride_h, stride_w), padding=(pad_h, pad_w), dilation=(dilation_h, dilation_w))
    shape: dict = dict(deform_groups=deformable_group, size=tuple(grad_output.shape[2:]))
    tensors = dict(input=input, offset=offset, weight=weight, mask=mask) | (dict(bias=bias) if with_bias else {})
    targets = dict(input=grad_input, offset=grad_offset, weight=grad_weight, mask=grad_mask, bias=grad_bias)
    for name, grad in gradients(_modulated, tensors, widened(grad_output), **shape, **geometry).items():
        targets[name] += grad


def _attention(value: Tensor, sampling_locations: Tensor, attention_weights: Tensor, shapes: Tensor) -> Tensor:
    """The version of mmcv in PyTorch, which mmcv takes on a CPU by itself."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, shapes, sampling_locations, attention_weights)


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention of values (B, keys, heads, C) for queries: (B, queries, heads * C)."""
    return _attention(value, sampling_locations, attention_weights, value_spatial_shapes)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Gradients of ``ms_deform_attn_forward`` for values, positions and weights, added."""
    tensors = dict(value=value, sampling_locations=sampling_locations, attention_weights=attention_weights)
    grads = gradients(_attention, tensors, grad_output, shapes=value_spatial_shapes)
    grad_value += grads["value"]
    grad_sampling_loc += grads["sampling_locations"]
    grad_attn_weight += grads["attention_weights"]
