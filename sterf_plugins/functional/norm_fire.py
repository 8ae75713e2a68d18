"""BatchNorm and the integer spikes behind it, in one pass over memory each way (Triton), on a GPU.

Plain, the norm's output is written, read by the spikes, and kept for the mask of their gradient. Here it never gets to
memory: the backward pass computes it again from the norm's input, which the norm keeps anyway.
"""

import functools
import os
import warnings

import torch
from torch import Tensor, nn

from .packed_spikes import keep_counts, packing
from .strides import restrided


@functools.cache
def _kernels():
    try:
        from . import norm_fire_kernels
    except (ImportError, AttributeError) as error:  # none, or one older than what the kernels use
        warnings.warn(f"fused norms need a recent Triton ({error}): the plain passes are used", stacklevel=3)
        return None
    return norm_fire_kernels


def can_norm_fire(x: Tensor, norm: nn.Module) -> bool:
    """Whether ``norm_fire`` takes this norm for inputs like this one; otherwise the plain passes are the way.

    Yes for images on a GPU, or anywhere in Triton's interpreter (``TRITON_INTERPRET=1``), and a ``BatchNorm2d`` with
    weight and bias; the caller answers for subclasses. No for a norm whose parameters are frozen where a gradient is
    wanted, as for a receptive field: that is one product (``frozen_batch_norm``).
    """
    if not (x.is_cuda or "TRITON_INTERPRET" in os.environ) or x.ndim != 4 or not x.numel():
        return False
    if not isinstance(norm, nn.BatchNorm2d) or not norm.affine:
        return False
    if x.requires_grad and not norm.training and not any(p.requires_grad for p in norm.parameters()):
        return False
    kernels = _kernels()
    return kernels is not None and (x.is_cuda or kernels.INTERPRETED)


class _NormFire(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, invstd: Tensor, training, levels, norm):
        keep = packing(levels)
        y, counts = _kernels().fire(x, (mean, invstd), (weight, bias), levels, norm, keep)
        if counts is not None:
            keep_counts(y, counts, norm)
        ctx.save_for_backward(x, weight, bias, mean, invstd)
        ctx.options = levels, norm, training
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, bias, mean, invstd = ctx.saved_tensors
        grad = restrided(grad, x.stride())
        out, of_weight, of_bias = _kernels().gradients(grad, x, (mean, invstd), (weight, bias), *ctx.options)
        return out, of_weight.to(weight.dtype), of_bias.to(bias.dtype), None, None, None, None, None


def norm_fire(x: Tensor, norm: nn.BatchNorm2d, levels: int, divisor: float) -> Tensor:
    """``integer_fire(norm(x), levels, divisor)``, where ``can_norm_fire`` says that it can be.

    The norm's running statistics are updated as PyTorch updates them. Numbers differ from the plain passes by
    rounding. There are no gradients of gradients.

    Args:
        x: (B, C, H, W); a copy is made unless it is channels-last.
        norm: in training or evaluation.
        levels: D, the largest number of spikes.
        divisor: of the counts.

    Returns:
        (B, C, H, W), channels-last, of the dtype of ``x``.

    Raises:
        ValueError: a single value per channel in training.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    training = norm.training or norm.running_mean is None
    if training:
        count = x.numel() // x.shape[1]
        if count == 1:
            raise ValueError(
                f"BatchNorm in training needs more than one value per channel; the input is {tuple(x.shape)}. "
                f"Give more images or larger ones."
            )
        with torch.no_grad():
            mean, variance = _kernels().statistics(x)
            _update(norm, mean, variance, count)
    else:
        mean, variance = norm.running_mean, norm.running_var
    wide = torch.promote_types(variance.dtype, torch.float32)
    invstd = torch.rsqrt(variance.to(wide) + norm.eps)
    return _NormFire.apply(x, norm.weight, norm.bias, mean, invstd, training, levels, float(divisor))


def _update(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Running statistics, as PyTorch has them: the unbiased variance; a plain mean over all batches without momentum."""
    if not norm.training or not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    factor = norm.momentum or 0.0
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1
        if norm.momentum is None:
            factor = 1 / int(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), factor)
    norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), factor)
