"""BatchNorm with a right gradient at batch 1 on the CPU, and with a cheap one where nothing is trained."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .functional import frozen_batch_norm, same_strided_grad

Norm = nn.BatchNorm1d | nn.BatchNorm2d


def _normalised(norm: Norm, x: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
    """``forward(x)`` of PyTorch's norm, with a gradient for inputs that need one."""
    if not x.requires_grad or torch.compiler.is_compiling():
        return forward(x)
    if not norm.training and norm.running_mean is not None and norm.running_var is not None:
        if not any(p.requires_grad for p in norm.parameters()):  # as for a receptive field
            return frozen_batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    y = forward(x)
    # PyTorch's kernel needs the guard for one sample on a CPU (functional/batch_norm.py).
    return same_strided_grad(y) if y.device.type == "cpu" and x.shape[0] == 1 else y


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose CPU gradient is right at batch 1 whatever the memory order of the gradient.

    (B, C, H, W) -> (B, C, H, W). SyncBatchNorm conversion and ``norm_eval`` treat it as any BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _normalised(self, x, super().forward)


class BatchNorm1d(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` with the same guard. (N, C) or (B, C, N) in and out."""

    def forward(self, x: Tensor) -> Tensor:
        return _normalised(self, x, super().forward)
