"""A folded model with its weights laid out for the CPU once, instead of in every forward pass."""

import copy

import torch
from torch import Tensor, nn

from ..neurons import IntegerSpike
from .probe import Call, calls_of, example_for, replace


class PackedConv2d(nn.Module):
    """A convolution whose weights are in oneDNN's own order; (B, C, H, W), float32, CPU, no gradients.

    The order is chosen for the input size of ``like`` and right for any.
    """

    def __init__(self, conv: nn.Conv2d, like: Tensor, divisor: float = 1):
        super().__init__()
        self.options = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        weight = (conv.weight.detach() / divisor).to_mkldnn()
        # PyTorch's compiler lays weights out by the same two functions.
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(weight, *self.options, list(like.shape))
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.options, "none", [], "")


def pack_for_cpu(model: nn.Module, example: Tensor | None = None) -> nn.Module:
    """A copy of a folded model (``reparameterize``) that infers faster on a CPU; it cannot be trained or exported.

    Weights are laid out once, and where spikes are divided by D before a convolution, its weights are instead.

    Args:
        model: in float32 on the CPU; it is left as it is.
        example: an input of the size to expect; a random 64x64 image for our backbones.

    Raises:
        ValueError: the model is elsewhere or of another dtype, PyTorch has no oneDNN, or no example is known.
    """
    first = next(model.parameters())
    if first.device.type != "cpu" or first.dtype != torch.float32:
        raise ValueError(f"the model is {first.dtype} on {first.device}; packing is for float32 on the CPU.")
    if not torch.backends.mkldnn.is_available():
        raise ValueError("this PyTorch has no oneDNN (torch.backends.mkldnn), which packing is for.")
    packed = copy.deepcopy(model).eval()
    calls = calls_of(packed, example_for(model, example), (IntegerSpike, nn.Conv2d))
    uses = [call.name for call in calls]
    before: Call | None = None
    for call in calls:
        if isinstance(call.module, nn.Conv2d) and uses.count(call.name) == 1 and call.module.padding_mode == "zeros":
            divisor = 1.0
            if before is not None and isinstance(before.module, IntegerSpike) and before.output is call.input:
                divisor, before.module.norm = before.module.norm, 1
            replace(packed, call.name, PackedConv2d(call.module, call.input, divisor))
        before = call
    return packed
