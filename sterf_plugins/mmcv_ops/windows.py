"""Sums over windows: content-aware upsampling, a convolution at chosen positions, and point-wise attention masks."""

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from .values import gradients


def _carafe(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    """Each output pixel is a sum over the window around its source pixel, weighted by a kernel of its own.

    Args:
        features: (B, C, H, W).
        masks: kernels (B, groups * kernel_size², H * scale_factor, W * scale_factor); the groups share the channels.
        kernel_size: width of the window, odd.
        group_size: number of groups.
        scale_factor: how many times more rows and columns the output has.
    """
    batch, channels, height, width = features.shape
    radius, scale = kernel_size // 2, scale_factor
    grouped = F.pad(features, (radius,) * 4).unflatten(1, (group_size, -1))[..., None, :, None]
    kernels = masks.view(batch, group_size, 1, kernel_size**2, height, scale, width, scale)
    taps = itertools.product(range(kernel_size), repeat=2)
    total = sum(
        grouped[..., row : row + height, :, column : column + width, :] * kernels[:, :, :, kernel_size * row + column]
        for row, column in taps
    )
    return total.reshape(batch, channels, height * scale, width * scale)


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """CARAFE (Wang et al. 2019) into ``output`` (B, C, H * scale_factor, W * scale_factor)."""
    output.copy_(_carafe(features, masks, kernel_size, group_size, scale_factor))


def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Gradients of ``carafe_naive_forward`` for features and masks, added."""
    options = dict(kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor)
    grads = gradients(_carafe, dict(features=features, masks=masks), grad_output, **options)
    grad_input += grads["features"]
    grad_masks += grads["masks"]


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """CARAFE into ``output``; ``rfeatures`` keeps the features for the backward pass, in the kernel's layout."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Gradients of ``carafe_forward`` for features and masks, added."""
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, kernel_size, group_size, scale_factor)


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Windows of a map (1, C, H, W) at N chosen output positions into ``col`` (C * kernel_h * kernel_w, N)."""
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    windows = padded.unfold(1, kernel_h, 1).unfold(2, kernel_w, 1)[:, mask_h_idx, mask_w_idx]
    col.copy_(windows.movedim(1, -1).reshape(col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Values (channels, N) of the chosen positions into a map (1, channels, height, width)."""
    im[0, :, mask_h_idx, mask_w_idx] = col


def _psamask(input: Tensor, distribute: bool, mask_size: tuple[int, int], half: tuple[int, int]) -> Tensor:
    """Attention masks over the whole map from masks over a window around each pixel.

    Args:
        input: (B, window rows * window columns, H, W): how the pixel and its neighbours attend to each other.
        distribute: each pixel's mask is a row of the attention instead of a column.
        mask_size: rows and columns of the window.
        half: row and column of the pixel in its window.

    Returns:
        (B, H * W, H, W); with 0 for pixels outside the window.
    """
    height, width = input.shape[2:]
    rows, columns = (torch.arange(n, device=input.device) for n in (height, width))
    row = (rows[:, None] - rows + half[0])[:, None, :, None].expand(height, width, height, width)
    column = (columns[:, None] - columns + half[1])[None, :, None, :].expand(height, width, height, width)
    inside = (row >= 0) & (row < mask_size[0]) & (column >= 0) & (column < mask_size[1])
    index = torch.where(inside, row * mask_size[1] + column, 0).reshape(height * width, height * width)
    collected = input.flatten(2).gather(1, index.expand(len(input), -1, -1)) * inside.view_as(index)
    attention = collected.mT if distribute else collected
    return attention.reshape(len(input), height * width, height, width)


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Masks of PSANet (Zhao et al. 2018) into ``output`` (B, H * W, H, W); type 0 collects, 1 distributes."""
    output.copy_(_psamask(input, bool(psa_type), (h_mask, w_mask), (half_h_mask, half_w_mask)))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Gradient of ``psamask_forward``, added to ``grad_input``."""
    options = dict(distribute=bool(psa_type), mask_size=(h_mask, w_mask), half=(half_h_mask, half_w_mask))
    masks = torch.zeros_like(grad_input)  # linear in its input, whose values do not matter
    grad_input += gradients(_psamask, dict(input=masks), grad_output, **options)["input"]
