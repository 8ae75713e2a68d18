"""What our operations ask of PyTorch: kernels of its own, and for whom they run.

Most of these names are not public; ``tests/test_private_names.py`` notices when a release changes one.

The kernels stay because the public ways are slower: a clamp's gradient by comparisons takes several passes over memory
instead of one, and ``torch.nn.grad.conv2d_input`` returns contiguous memory where everything around it is channels-last.
"""

import torch
from torch import Tensor


def default_device() -> torch.device:
    """The device of new tensors; ``torch.get_default_device`` of PyTorch 2.6 does not see ``with torch.device(...)``."""
    return torch.empty(0).device


def is_exporting() -> bool:
    """Whether a model is being exported; PyTorch's public function says yes while a model is compiled, too.

    PyTorch 2.6 has no such flag, and then the answer is no.
    """
    return getattr(torch.compiler, "_is_exporting_flag", False)


def clamp_backward(grad: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """``grad`` where ``low < x < high``, 0 elsewhere, in one pass; any shape."""
    return torch.ops.aten.hardtanh_backward(grad, x, low, high)


def depthwise_backward(
    grad: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int], needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of a depthwise convolution of stride 1 for its input and its weight.

    Args:
        grad: of the output, (B, C, H, W).
        x: input (B, C, H, W).
        weight: (C, 1, kh, kw).
        padding: rows and columns of zeros on each side.
        needed: whether the input's and whether the weight's gradient is computed; ``None`` stands for one that is not.
    """
    options = ((1, 1), padding, (1, 1), False, (0, 0), x.shape[1])
    return torch.ops.aten.convolution_backward(grad, x, weight, None, *options, (*needed, False))[:2]


def is_traced() -> bool:
    """Whether ``torch.compile``, ``torch.export`` or ``torch.jit.trace`` writes down operations, and takes ordinary ones alone."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_mapped(grad: Tensor) -> bool:
    """Whether autograd computes many gradients at once (``is_grads_batched``, ``vectorize``), which bars ``out=``."""
    return not torch.compiler.is_compiling() and torch._C._functorch.is_legacy_batchedtensor(grad)
