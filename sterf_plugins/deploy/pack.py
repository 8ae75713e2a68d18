"""A folded model for inference on the CPU: weights laid out once, fewer passes for spikes, fewer products."""

import copy

import torch
from torch import Tensor, nn

from ..neurons import IntegerSpike
from .probe import calls_of, example_for, readers_of, replace
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
        alone: nothing else uses the input (``after``), so that it is overwritten.
        clamped: the layer in front has clamped it.
    """

    def __init__(self, spike: IntegerSpike):
        super().__init__(spike.eval_levels or spike.levels, spike.norm)
        self.alone = self.clamped = False

    def after(self, layer: nn.Module, x: Tensor) -> Tensor:
        self.alone = True
        return self(layer(x))

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.clamped else (x.clamp_ if self.alone else x.clamp)(0, self.levels)
        y = y.round_()
        return y if self.norm == 1 else y.div_(self.norm)


def pack_for_cpu(model: nn.Module, example: Tensor | None = None) -> nn.Module:
    """A copy of a folded model (``reparameterize``) that infers faster on a CPU; it cannot be trained or exported.

    Weights are laid out once; where spikes are divided by D for a convolution alone, its weights are instead; spikes
    overwrite what only they read, and a convolution in front of them clamps its output; 3x3 convolutions of small maps
    with many channels use Winograd's algorithm. Numbers differ by rounding.

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
    example = example_for(model, example)
    readers = readers_of(packed, example, IntegerSpike)
    for name, module in list(packed.named_modules()):
        if type(module) is IntegerSpike:
            replace(packed, name, PackedSpike(module))
    calls = calls_of(packed, example, (PackedSpike, nn.Conv2d))
    names = [call.name for call in calls]
    calls = [call for call in calls if names.count(call.name) == 1]
    spikes = [call for call in calls if isinstance(call.module, PackedSpike)]
    fed = {id(call.input): call.module for call in spikes}
    fired = {id(call.output): call.module for call in spikes if readers[call.name] == 1}
    for call in calls:
        conv = call.module
        if not isinstance(conv, nn.Conv2d) or conv.padding_mode != "zeros":
            continue
        divisor = 1.0
        if (before := fired.get(id(call.input))) is not None:
            divisor, before.norm = before.norm, 1
        layer = (
            WinogradConv2d(conv, divisor)
            if winograd_gains(conv, call.input)
            else PackedConv2d(conv, call.input, divisor)
        )
        behind = fed.get(id(call.output))
        if behind is not None and behind.alone:
            layer.most, behind.clamped = float(behind.levels), True
        replace(packed, call.name, layer)
    return packed
