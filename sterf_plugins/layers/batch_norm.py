"""BatchNorm whose gradient is right at batch 1 on the CPU, and cheap if none of its parameters is trained."""

from collections.abc import Callable

from torch import Tensor, nn

from ..functional import frozen_batch_norm, same_strided_grad
from ..functional.batch_norm import plain_batch_norm
from ..functional.torch_kernels import is_traced
from ..undisturbed import transformed

Norm = nn.BatchNorm1d | nn.BatchNorm2d


def _normalised(norm: Norm, x: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
    """The values of ``forward``, which is that of PyTorch's norm, with a gradient that is right and cheap."""
    mean, var = norm.running_mean, norm.running_var
    if transformed() and (mean is None or not norm.training):  # in training PyTorch says what torch.func cannot do
        return plain_batch_norm(x, mean, var, norm.weight, norm.bias, norm.eps)
    if not x.requires_grad or is_traced():
        return forward(x)
    fixed = not norm.training and not any(p.requires_grad for p in norm.parameters())  # as for a receptive field
    if fixed and mean is not None and var is not None:
        return frozen_batch_norm(x, mean, var, norm.weight, norm.bias, norm.eps)
    y = forward(x)
    # On a CPU PyTorch's backward is wrong for one sample without this guard (functional/batch_norm.py).
    return same_strided_grad(y) if y.device.type == "cpu" and x.shape[0] == 1 else y


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose CPU gradient is right at batch 1 whatever the memory order of the gradient.

    (B, C, H, W) -> (B, C, H, W). SyncBatchNorm conversion and ``norm_eval`` treat it as any BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _normalised(self, x, super().forward)


class BatchNorm1d(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` with the same guard; (B, C) or (B, C, L), and the same shape out."""

    def forward(self, x: Tensor) -> Tensor:
        return _normalised(self, x, super().forward)
