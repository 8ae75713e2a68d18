"""A folded model for inference on the CPU: weights laid out once, fewer passes for spikes, fewer products."""

import copy

import torch
from torch import Tensor, nn

from ..blocks.depthwise import PLAIN_CONVOLUTIONS
from ..neurons import IntegerSpike
from .probe import called_once, calls_of, example_for, readers_of, replace
from .winograd import WinogradConv2d, winograd_gains


class PackedConv2d(nn.Module):
    """A convolution whose weights are in oneDNN's own order; (B, C, H, W), float32, CPU, no gradients.

    The order is chosen for the input size of ``like`` and right for any.

    Attributes:
        most: outputs are clamped to [0, most], if it is given.
    """

    def __init__(self, conv: nn.Conv2d, like: Tensor, divisor: float = 1):
        super().__init__()
        self.options = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        weight = (conv.weight.detach() / divisor).to_mkldnn()
        # PyTorch's compiler lays weights out by the same two functions.
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(weight, *self.options, list(like.shape))
        self.bias = conv.bias
        self.most: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        then = ("none", [], "") if self.most is None else ("hardtanh", [0.0, self.most], "")
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.options, *then)


class PackedSpike(IntegerSpike):
    """Integer spikes without a gradient.

    Attributes:
        clamped: the layer in front has clamped its output, and only these spikes read it: it is overwritten.
    """

    def __init__(self, spike: IntegerSpike):
        super().__init__(spike.eval_levels or spike.levels, spike.norm)
        self.clamped = False

    def forward(self, x: Tensor) -> Tensor:
        y = (x if self.clamped else x.clamp(0, self.levels)).round_()
        return y if self.norm == 1 else y.div_(self.norm)


@torch.inference_mode(False)
def pack_for_cpu(model: nn.Module, example: Tensor | None = None) -> nn.Module:
    """A copy of a folded model (``reparameterize``) that infers faster on a CPU; it cannot be trained, copied or exported.

    Weights are laid out once; where spikes are divided by D for a convolution alone, its weights are instead; a
    convolution whose output only spikes read clamps it, and they overwrite it; with an ``example``, 3x3 convolutions of
    small maps with many channels use Winograd's algorithm, which keeps four times their weights. Finite numbers differ
    by rounding.

    Args:
        model: in float32 on the CPU; it is left as it is.
        example: an input of the size to expect; other sizes work, too. For our backbones a random 64x64 image, which
            chooses no algorithm.

    Raises:
        ValueError: the model is elsewhere, of another dtype or packed already, PyTorch has no oneDNN, or no example is known.
    """
    first = next(model.parameters())
    if first.device.type != "cpu" or first.dtype != torch.float32:
        raise ValueError(f"the model is {first.dtype} on {first.device}; packing is for float32 on the CPU.")
    if not torch.backends.mkldnn.is_available():
        raise ValueError("this PyTorch has no oneDNN (torch.backends.mkldnn), which packing is for.")
    if any(isinstance(module, PackedConv2d) for module in model.modules()):
        raise ValueError("the model is packed already.")
    packed = copy.deepcopy(model).eval()
    choose = example is not None
    example = example_for(model, example)
    readers = readers_of(packed, example, (IntegerSpike, nn.Conv2d))
    for name, module in list(packed.named_modules()):
        if type(module) is IntegerSpike:
            replace(packed, name, PackedSpike(module))
    calls = called_once(calls_of(packed, example, (PackedSpike, nn.Conv2d)))
    spikes = [call for call in calls if isinstance(call.module, PackedSpike)]
    fed = {id(call.input): call.module for call in spikes}
    fired = {id(call.output): call.module for call in spikes if readers.get(call.name) == 1}
    for call in calls:
        conv = call.module
        if type(conv) not in PLAIN_CONVOLUTIONS or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            continue
        divisor = 1.0
        if (before := fired.get(id(call.input))) is not None:
            divisor, before.norm = before.norm, 1
        layer: WinogradConv2d | PackedConv2d
        if choose and winograd_gains(conv, call.input):
            layer = WinogradConv2d(conv, divisor)
        else:
            layer = PackedConv2d(conv, call.input, divisor)
        behind = fed.get(id(call.output))
        if behind is not None and readers.get(call.name) == 1:
            layer.most, behind.clamped = float(behind.levels), True
        replace(packed, call.name, layer)
    return packed
