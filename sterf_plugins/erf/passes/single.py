"""A batch of one input: which models need it, and PyTorch's BatchNorm, whose wrong gradient there is mended in the graph."""

import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ...checks import has_statistics
from ..outputs.graph import nodes_behind

_OF_EACH_INPUT = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def mixes_inputs(model: nn.Module) -> bool:
    """Whether a model in eval mode mixes the inputs of a batch, as its norms take mean and variance from the batch itself."""
    norms = [m for m in model.modules() if has_statistics(m) and not isinstance(m, _OF_EACH_INPUT)]
    return any(norm.running_mean is None for norm in norms)


def normalises_over_inputs(outputs: Iterable[Tensor]) -> bool:
    """Whether a BatchNorm in a graph took mean and variance from the batch, as ``batch_norm(training=True)`` in a model does."""
    norms = [node for node in nodes_behind(outputs) if re.match("(Native|Cudnn)BatchNorm", node.name())]
    return any(n._saved_training and len(n._saved_input) > 1 for n in norms)  # InstanceNorm puts inputs among channels


def mend_batch_norms(outputs: Iterable[Tensor]) -> None:
    """Let every BatchNorm in a graph of one input get its gradient in the memory order of its input.

    On a CPU a single input counts as contiguous and as channels-last, so that PyTorch's kernel may read a gradient in the
    wrong order, and give a wrong one without an error.

    Args:
        outputs: tensors with the graph.
    """
    for node in nodes_behind(outputs):
        if node.name().startswith("NativeBatchNorm"):
            node.register_prehook(_in_the_order_of(node._saved_input))


def _in_the_order_of(x: Tensor) -> Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]:
    stride = torch.empty_like(x, device="meta").stride()  # of a dense tensor, also where x shares elements

    def reorder(gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        g, *others = gradients
        if g is None or g.stride() == stride:
            return gradients
        return g.new_empty_strided(g.shape, stride).copy_(g), *others

    return reorder
