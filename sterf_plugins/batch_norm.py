"""BatchNorm with a right gradient at batch 1 on the CPU (see ``functional/batch_norm.py``)."""

import torch
from torch import Tensor, nn

from .functional import frozen_batch_norm, same_strided_grad


def _norm(norm: nn.modules.batchnorm._BatchNorm, x: Tensor, forward) -> Tensor:
    """``forward(x)``, with a right gradient; with a cheap one where the parameters are frozen, as for an ERF."""
    if not x.requires_grad or torch.compiler.is_compiling():
        return forward(x)
    fixed = not norm.training and norm.running_mean is not None
    if fixed and not any(p.requires_grad for p in norm.parameters()):
        return frozen_batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    y = forward(x)
    # PyTorch's kernel needs the guard for one sample on the CPU.
    return same_strided_grad(y) if y.device.type == "cpu" and x.shape[0] == 1 else y


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose CPU gradient is right at batch 1 whatever the memory order of the gradient.

    (B, C, H, W) -> (B, C, H, W). SyncBatchNorm conversion and ``norm_eval`` treat it as any BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _norm(self, x, super().forward)


class BatchNorm1d(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` with the same guard. (N, C) or (B, C, N) in and out."""

    def forward(self, x: Tensor) -> Tensor:
        return _norm(self, x, super().forward)
