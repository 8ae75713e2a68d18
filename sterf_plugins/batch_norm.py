"""BatchNorm with a right gradient at batch 1 on the CPU (see ``functional/batch_norm.py``)."""

from torch import Tensor, nn

from .functional import same_strided_grad


def _guarded(x: Tensor, y: Tensor) -> Tensor:
    """Guard ``y = bn(x)`` where PyTorch's kernel needs it: one sample, on the CPU, with a gradient to come."""
    if y.requires_grad and y.device.type == "cpu" and x.shape[0] == 1:
        return same_strided_grad(y)
    return y


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose CPU gradient is right at batch 1 whatever the memory order of the gradient.

    (B, C, H, W) -> (B, C, H, W). SyncBatchNorm conversion and ``norm_eval`` treat it as any BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _guarded(x, super().forward(x))


class BatchNorm1d(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` with the same guard. (N, C) or (B, C, N) in and out."""

    def forward(self, x: Tensor) -> Tensor:
        return _guarded(x, super().forward(x))
