"""What the spiking necks and heads share: spikes in front of a convolution, and features with a time axis."""

from collections.abc import Callable, Sequence

from mmcv.cnn import ConvModule
from torch import Tensor

from ...layers import IntegerSpike


def spike_first(conv: ConvModule, spike: IntegerSpike) -> ConvModule:
    """Turn a ``ConvModule`` into spike -> convolution [-> norm], in place; an activation that it had is dropped."""
    conv.order = ("act", "conv", "norm")
    conv.with_activation = True
    conv.activate = spike
    return conv


def undivided_spike(levels: int = 4, eval_levels: int | None = None) -> IntegerSpike:
    """A neuron as in the released necks and heads: its spike counts 0..D are not divided by D."""
    return IntegerSpike(levels, norm=1, eval_levels=eval_levels)


def has_time(features: Sequence[Tensor]) -> bool:
    """Whether features have a time axis, (T, B, C, H, W), rather than (B, C, H, W)."""
    return features[0].ndim == 5


def over_time(function: Callable, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Apply ``function(list of maps) -> maps`` to maps (B, C, H, W), or to maps (T, B, C, H, W) at every step."""
    if not has_time(features):
        return function(features)
    steps = features[0].shape[0]
    return tuple(y.unflatten(0, (steps, -1)) for y in function([x.flatten(0, 1) for x in features]))


def mean_over_time(function: Callable, features: Sequence[Tensor]) -> tuple:
    """Apply ``function(list of maps) -> tuple of lists of maps`` as ``over_time`` does; its results are means over time."""
    if not has_time(features):
        return function(features)
    steps = features[0].shape[0]
    results = function([x.flatten(0, 1) for x in features])
    return tuple([y.unflatten(0, (steps, -1)).mean(0) for y in maps] for maps in results)
