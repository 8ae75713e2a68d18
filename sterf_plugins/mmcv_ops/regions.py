"""Maps of equal size from regions of interest: RoIAlign, RoIPool, and RoIAlign with moved bins.

A row of ``rois`` (K, 5) is (index in the batch, x1, y1, x2, y2), in pixels of the image.
"""

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from .values import check_finite, check_rois, gradients, widened


def _roi_align(input: Tensor, rois: Tensor, size: tuple[int, int], scale: float, ratio: int, aligned: bool) -> Tensor:
    return torchvision.ops.roi_align(widened(input), widened(rois), size, scale, ratio, aligned)


def _average_only(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError(
            "RoIAlign with pool_mode='max' needs mmcv's compiled ops; pool_mode='avg' does not, and all stock configs use it."
        )


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
    """RoIAlign of maps (B, C, H, W) for ``rois`` (K, 5) into ``output`` (K, C, h, w), average mode only."""
    _average_only(pool_mode)
    check_rois("roi_align", rois, len(input))
    output.copy_(_roi_align(input, rois, (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned))


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
    maps = torch.zeros_like(grad_input)  # linear in its input, whose values do not matter
    options = dict(rois=rois, size=(aligned_height, aligned_width), scale=spatial_scale, ratio=sampling_ratio)
    grads = gradients(_roi_align, dict(input=maps), widened(grad_output), **options, aligned=aligned)
    grad_input += grads["input"]


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
    check_rois("roi_pool", rois, len(input))
    # The operator behind ``torchvision.ops.roi_pool``, which drops the positions of the maxima.
    pool = torch.ops.torchvision.roi_pool
    pooled, indices = pool(widened(input), widened(rois), spatial_scale, pooled_height, pooled_width)
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
    added = torch.zeros_like(grad_input).flatten(2)
    added.index_put_((image, channel, position.clamp(min=0)), values, accumulate=True)
    grad_input += added.view_as(grad_input)


def _sample(maps: Tensor, points: Tensor) -> Tensor:
    """Values (C, …) of a map (C, H, W) at points (…, 2) = (x, y) between pixels; 0 more than 1 pixel outside."""
    last = points.new_tensor(maps.shape[:0:-1]) - 1  # of the columns, of the rows
    inside = ((points >= -1) & (points <= last + 1)).all(-1)
    grid = points.flatten(0, -2)[None, None] / last.clamp(min=1) * 2 - 1
    values = F.grid_sample(maps[None], grid, padding_mode="border", align_corners=True)
    return values.view(len(maps), *inside.shape) * inside


def _deform_roi_pool(
    input: Tensor, rois: Tensor, offset: Tensor, size: tuple[int, int], scale: float, ratio: int, gamma: float
) -> Tensor:
    """RoIAlign whose bins are moved by ``gamma`` times ``offset`` (K, 2, h, w), in widths and heights of the region."""
    height, width = size
    start, extent = rois[:, 1:3] * scale - 0.5, (rois[:, 3:] - rois[:, 1:3]) * scale  # (K, 2): x, y
    bin_size = extent / extent.new_tensor([width, height])
    rows, columns = (torch.arange(n, device=rois.device) for n in size)
    corner = torch.stack([columns.expand(size), rows[:, None].expand(size)], -1) * bin_size[:, None, None]
    corner = corner + start[:, None, None] + gamma * extent[:, None, None] * offset.movedim(1, -1)

    # Regions of one image whose bins have the same number of samples are computed together.
    samples = torch.full_like(bin_size, ratio) if ratio > 0 else bin_size.ceil()
    kinds, kind = torch.cat([rois[:, :1], samples], 1).long().unique(dim=0, return_inverse=True)
    output = input.new_zeros(len(rois), input.shape[1], *size)
    for number, (image, nx, ny) in enumerate(kinds.tolist()):
        if nx <= 0 or ny <= 0:
            continue
        members = (kind == number).nonzero()[:, 0]
        x, y = ((torch.arange(n, device=rois.device) + 0.5) / n for n in (nx, ny))
        inner = torch.stack([x.expand(ny, nx), y[:, None].expand(ny, nx)], -1)
        points = corner[members, :, :, None, None] + inner * bin_size[members, None, None, None, None]
        output = output.index_copy(0, members, _sample(input[image], points).mean((-2, -1)).movedim(0, 1))
    return output


def _moved(input: Tensor, rois: Tensor, offset: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """Arguments of ``_deform_roi_pool`` in one type of at least 32 bits; without offsets, bins stay where they are."""
    offset = offset if offset.numel() else input.new_zeros(len(rois), 2, *size)
    single = torch.promote_types(input.dtype, torch.float32)
    return dict(input=input.to(single), rois=rois.to(single), offset=offset.to(single))


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Deformable RoIPool (Dai et al. 2017) of maps (B, C, H, W) into ``output`` (K, C, h, w)."""
    check_rois("deform_roi_pool", rois, len(input))
    check_finite("deform_roi_pool", offset=offset)
    size = (pooled_height, pooled_width)
    output.copy_(_deform_roi_pool(**_moved(input, rois, offset, size), size=size, scale=spatial_scale,
                                  ratio=sampling_ratio, gamma=gamma))  # fmt: skip


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Gradients of ``deform_roi_pool_forward`` with respect to maps and offsets, added."""
    size = (pooled_height, pooled_width)
    tensors = _moved(input, rois, offset, size)
    rois = tensors.pop("rois")
    options = dict(rois=rois, size=size, scale=spatial_scale, ratio=sampling_ratio, gamma=gamma)
    grads = gradients(_deform_roi_pool, tensors, grad_output.to(rois.dtype), **options)
    grad_input += grads["input"]
    if offset.numel():
        grad_offset += grads["offset"]
