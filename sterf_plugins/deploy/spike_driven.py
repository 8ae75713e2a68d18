"""From integer spikes to binary ones: every weight layer sees zeros and ones, over D steps.

Papers: "Integer-valued training and spike-driven inference" (arXiv:2407.20708); SDT-V3, arXiv:2411.16061. A count n in
0..D is sent as D binary steps with n ones, and a linear layer gives W n = sum_t W s_t. Bias and BatchNorm come once,
after the sum. The products of attention, q (k^T v), are of counts that have arrived in full: the sum of the products
of single steps would be another number.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from spikingjelly.activation_based.layer import SpikeCountToBinary, TemporalBinSum
from torch import Tensor, nn

from ..checks import check_module
from ..layers import IntegerSpike
from ..stems import CovariantRFConv2d
from ..undisturbed import hooked
from .probe import Example, calls_of, example_for

_WEIGHTS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
    CovariantRFConv2d,
)  # fmt: skip
_SEVERAL = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, nn.Bilinear)  # weights without a layer for each product


class SpikeDrivenLayer(nn.Module):
    """A weight layer fed by counts n / norm, run on D binary steps.

    Input and output have the shapes of the layer. The layer runs once on a batch of D * B binary tensors, its results
    are summed over the D steps, and the bias is added after that.

    Args:
        layer: convolution or linear layer, which is left as it is.
        levels: D, the largest count and the number of binary steps.
        norm: the number by which the neuron before the layer divides its counts.
    """

    def __init__(self, layer: nn.Module, levels: int, norm: float):
        super().__init__()
        self.levels, self.norm = levels, norm
        self.expand = SpikeCountToBinary(levels, always_convert=True)
        without_bias: Any = copy.deepcopy(layer)
        bias, without_bias.bias = without_bias.bias, None
        self.layer = without_bias
        self.collect = TemporalBinSum(levels, always_convert=True)
        self.bias: Any = bias
        self._channel_axis = -1 if isinstance(layer, nn.Linear) else 1

    def forward(self, input: Tensor) -> Tensor:  # the name that PyTorch's layers have for it
        counts = torch.round(input * self.norm)
        steps = self.expand(counts.unsqueeze(0))
        sums = self.collect(self.layer(steps.flatten(0, 1)).unflatten(0, (self.levels, -1))).squeeze(0)
        y = sums / self.norm
        if self.bias is None:
            return y
        shape = [1] * y.ndim
        shape[self._channel_axis] = -1
        return y + self.bias.view(shape)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, norm={self.norm}"


def to_spike_driven(model: nn.Module, example: Example | None = None) -> nn.Module:
    """A copy of an integer-spike model whose weight layers see binary spikes over D steps.

    The first layer sees the image: it stays analog, as in the papers. The copy is in eval mode; it gives the numbers
    of the integer model up to rounding, and takes D times the operations on hardware that has no use for zeros.

    Args:
        model: an SDT-V3, or another model whose every weight layer but the first is fed by an ``IntegerSpike``; it may
            be folded (``reparameterize``). It is left as it is.
        example: an input of the model, or a tuple of its inputs, with which the layers and what feeds them are found,
            while the neurons send random numbers of spikes; ``None`` for a random 64x64 image, which works for the
            backbones of this package.

    Returns:
        The converted copy.

    Raises:
        ValueError: no example is known, there are no integer spikes, or a weight layer besides the first is fed by
            something else, or by neurons of different levels, or the first is fed by neurons, too, or a layer has several
            products inside, such as ``nn.MultiheadAttention``; the message names it.
        TypeError: ``model`` is no module, or ``example`` no tensor.
    """
    check_module("model", model)
    converted = copy.deepcopy(model).eval()
    with _busy(converted):
        calls = calls_of(converted, example_for(model, example), (IntegerSpike, *_WEIGHTS, *_SEVERAL))
    if not any(isinstance(call.module, IntegerSpike) for call in calls):
        raise ValueError(f"{type(model).__name__} has no integer spikes to send as binary ones (IntegerSpike).")
    names: dict[nn.Module, list[str]] = {}  # a layer that several parts of the model share has several
    for name, module in converted.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    driven: dict[nn.Module, SpikeDrivenLayer] = {}
    sent: dict[int, IntegerSpike] = {}  # address of the spikes' memory -> who sent them
    latest: IntegerSpike | None = None
    stem: nn.Module | None = None  # the layer that sees the image, at one size or several, and stays as it is
    for call in calls:
        feeding = sent.get(call.input.untyped_storage().data_ptr(), latest)  # spikes that were copied are of the latest
        if isinstance(call.module, IntegerSpike):
            latest = sent[call.output.untyped_storage().data_ptr()] = call.module
        elif isinstance(call.module, _SEVERAL):
            raise ValueError(
                f"layer {call.name!r} is a {type(call.module).__name__}, whose products are no layers of their own, so that binary "
                f"spikes cannot drive them; build it of linear layers."
            )
        elif feeding is None and stem in (None, call.module):
            stem = call.module
        elif call.module is stem:
            raise ValueError(
                f"layer {call.name!r} sees the image, and runs again on something else; it cannot be driven by binary spikes."
            )
        elif feeding is None or not _are_counts(call.input, feeding):
            raise ValueError(
                f"layer {call.name!r} is not fed by integer spikes, so it cannot be driven by binary ones; only the "
                f"first layer may see real numbers."
            )
        else:
            layer = driven.setdefault(call.module, SpikeDrivenLayer(call.module, feeding.levels_now, feeding.norm))
            if (layer.levels, layer.norm) != (feeding.levels_now, feeding.norm):
                raise ValueError(
                    f"layer {call.name!r} runs several times, behind neurons of D = {layer.levels} and of {feeding.levels_now} "
                    f"spikes, divided by {layer.norm} and by {feeding.norm}; it needs the same number of binary steps each time."
                )
    for module, layer in driven.items():
        for name in names[module]:
            converted.set_submodule(name, layer)
    return converted


@contextmanager
def _busy(model: nn.Module) -> Iterator[None]:
    """Inside, neurons send random numbers of spikes, so that what feeds a layer is seen where they would be silent."""
    generator = torch.Generator().manual_seed(0)

    def fire(spike: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        counts = torch.randint(spike.levels_now + 1, output.shape, generator=generator)
        return torch.empty_like(output).copy_(counts).div_(spike.norm)

    with hooked(module.register_forward_hook(fire) for module in model.modules() if isinstance(module, IntegerSpike)):
        yield


def _are_counts(x: Tensor, spike: IntegerSpike) -> bool:
    """Whether numbers can be spikes of this busy neuron: 0 to D, divided by its norm, and not all 0."""
    counts = x * spike.norm
    are_whole = bool(((counts - counts.round()).abs() < 1e-3).all())
    return are_whole and bool(counts.min() >= 0 and 0.5 < counts.max() < spike.levels_now + 0.5)
