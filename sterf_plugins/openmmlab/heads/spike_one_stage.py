"""Fully spiking necks and heads of RTMDet and YOLOX, as subclasses of mmdet's stock ones.

Papers of the stock detectors: arXiv:2212.07784 and arXiv:2107.08430. Every convolution sees integer spikes, as in the
spiking Mask R-CNN: norms give potentials, which are upsampled, concatenated and added, and spikes stand in front of
each convolution instead of the stock activation behind it. Features may have a time axis, (T, B, C, H, W); what the
heads predict is then averaged over time. Layers keep the names of the stock classes.
"""

from collections.abc import Iterable, Sequence

from mmcv.cnn import ConvModule
from mmdet.models import RTMDetSepBNHead, YOLOXHead
from mmdet.models.necks import YOLOXPAFPN, CSPNeXtPAFPN
from torch import Tensor, nn

from ...registry import MODELS
from .spike_layers import mean_over_time, over_time, spike_first, undivided_spike


class _SpikingNeck(nn.Module):
    """What makes a stock neck, the next class in the order of bases, a spiking one that takes a time axis."""

    def __init__(self, *args, levels: int = 4, **kwargs):
        super().__init__(*args, **kwargs)
        _spikes_first(self, levels)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return over_time(super().forward, inputs)


@MODELS.register_module()
class SpikeCSPNeXtPAFPN(_SpikingNeck, CSPNeXtPAFPN):
    """mmdet's CSPNeXtPAFPN, the neck of RTMDet, with integer spikes in front of each convolution.

    Args:
        *args, **kwargs: those of mmdet's ``CSPNeXtPAFPN``; ``act_cfg`` has no effect.
        levels: D, the largest number of spikes of a neuron.
    """


@MODELS.register_module()
class SpikeYOLOXPAFPN(_SpikingNeck, YOLOXPAFPN):
    """mmdet's YOLOXPAFPN with integer spikes in front of each convolution.

    Args:
        *args, **kwargs: those of mmdet's ``YOLOXPAFPN``; ``act_cfg`` has no effect.
        levels: D, the largest number of spikes of a neuron.
    """


@MODELS.register_module()
class SpikeRTMDetSepBNHead(RTMDetSepBNHead):
    """mmdet's RTMDetSepBNHead: (spike -> convolution -> norm) n times -> spike -> the 1x1 convolutions of the predictions.

    Args:
        *args, **kwargs: those of mmdet's ``RTMDetSepBNHead``; ``act_cfg`` has no effect.
        levels: D, the largest number of spikes of a neuron.
    """

    def __init__(self, *args, levels: int = 4, **kwargs):
        super().__init__(*args, **kwargs)
        _spikes_around((*self.cls_convs, *self.reg_convs), levels)

    def forward(self, feats: Sequence[Tensor]) -> tuple:
        return mean_over_time(super().forward, feats)


@MODELS.register_module()
class SpikeYOLOXHead(YOLOXHead):
    """mmdet's YOLOXHead: (spike -> convolution -> norm) n times -> spike -> the 1x1 convolutions of the predictions.

    Args:
        *args, **kwargs: those of mmdet's ``YOLOXHead``; ``act_cfg`` has no effect.
        levels: D, the largest number of spikes of a neuron.
    """

    def __init__(self, *args, levels: int = 4, **kwargs):
        super().__init__(*args, **kwargs)
        _spikes_around((*self.multi_level_cls_convs, *self.multi_level_reg_convs), levels)

    def forward(self, x: Sequence[Tensor]) -> tuple:
        return mean_over_time(super().forward, x)


def _spikes_first(module: nn.Module, levels: int) -> None:
    """Put spikes in front of all convolutions of stock layers."""
    for conv in module.modules():
        if isinstance(conv, ConvModule):
            spike_first(conv, undivided_spike(levels))


def _spikes_around(chains: Iterable[nn.ModuleList | nn.Sequential], levels: int) -> None:
    """Put spikes in front of all convolutions of chains of them, and at the end of each chain, for the predictions."""
    for chain in chains:
        _spikes_first(chain, levels)
        chain.append(undivided_spike(levels))
