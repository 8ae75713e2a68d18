"""Checks of the values that torchvision's kernels trust, and gradients of functions by name."""

from collections.abc import Callable

import torch
from torch import Tensor


def check_finite(op: str, **tensors: Tensor) -> None:
    """Raise ``ValueError`` that names the tensor unless all values are finite.

    The kernels turn coordinates into addresses, and a NaN into one outside the map, which ends the interpreter.
    """
    for name, tensor in tensors.items():
        bad = int((~tensor.isfinite()).sum())
        if bad:
            raise ValueError(
                f"{bad} of the {tensor.numel()} values of `{name}` of the mmcv op {op} are NaN or infinite. The training "
                f"has diverged, or the checkpoint holds such weights. Lower the learning rate "
                f"(optim_wrapper.optimizer.lr), lengthen the warm-up, or clip gradients."
            )


def check_rois(op: str, rois: Tensor, batch: int) -> None:
    """Raise ``ValueError`` unless ``rois`` (K, 5) are finite boxes behind an index of one of ``batch`` images."""
    check_finite(op, rois=rois)
    outside = rois[(rois[:, 0] < 0) | (rois[:, 0] >= batch), 0]
    if len(outside):
        raise ValueError(
            f"`rois` of the mmcv op {op} name image {outside[0].item():g} of a batch of {batch}; the first column must "
            f"be an index from 0 to {batch - 1}."
        )


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is in bfloat16, which torchvision's kernels do not know."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def gradients(
    function: Callable[..., Tensor], tensors: dict[str, Tensor], grad_output: Tensor, **options
) -> dict[str, Tensor]:
    """Gradients of ``function(**tensors, **options)`` for the tensors, by name."""
    with torch.enable_grad():
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
        output = function(**leaves, **options)
        grads = torch.autograd.grad(output, list(leaves.values()), grad_output)
    return dict(zip(leaves, grads, strict=True))
