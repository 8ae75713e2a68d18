"""Fully spiking neck and head of the ST-ERF and SDT-V3 Semantic FPNs, as subclasses of mmseg's stock ones.

Paper: arXiv:2510.21403 (SDT-V3: arXiv:2411.16061). Features may have a time axis, (T, B, C, H, W); logits are then
averaged over time. Layers keep the names of the stock classes. Written from descriptions; no code was copied.
"""

import warnings
from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import FPNHead
from mmseg.models.necks import FPN
from torch import Tensor, nn

from ...registry import MODELS
from .spike_layers import has_time, over_time, spike_first, undivided_spike


@MODELS.register_module()
class SpikeSegFPN(FPN):
    """mmseg's FPN as spike -> convolution with bias -> norm, at every level and behind the top-down path.

    Args:
        *args, **kwargs: those of mmseg's ``FPN``.
        levels: D, the largest number of spikes of a neuron.
        norm_cfg: norm behind each convolution; ``None`` is BN, as in the released segmentors.
    """

    def __init__(self, *args, levels: int = 4, norm_cfg: dict | None = None, **kwargs):
        norm_cfg = dict(type="BN") if norm_cfg is None else norm_cfg
        super().__init__(*args, norm_cfg=norm_cfg, **kwargs)
        for convs in (self.lateral_convs, self.fpn_convs):
            for i, conv in enumerate(convs):
                convs[i] = spike_first(_with_bias(conv, norm_cfg), undivided_spike(levels))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return over_time(super().forward, inputs)


def _with_bias(conv: ConvModule, norm_cfg: dict) -> ConvModule:
    """Rebuild ``conv`` with a bias, which the released convolutions have in front of their norm.

    ``ConvModule`` leaves such a bias out by default, and warns if it is asked for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ConvModule(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.conv.padding,
            bias=True,
            norm_cfg=norm_cfg,
            act_cfg=None,
        )


@MODELS.register_module()
class SpikeFPNHead(FPNHead):
    """mmseg's FPNHead as chains of spike -> 3x3 convolution -> norm -> upsampling, and spikes before the classifier.

    Args:
        levels: D, the largest number of spikes of a neuron.
        **kwargs: those of mmseg's ``FPNHead``.
    """

    def __init__(self, levels: int = 4, **kwargs):
        super().__init__(**kwargs)
        for module in self.scale_heads.modules():
            if isinstance(module, ConvModule):
                spike_first(module, undivided_spike(levels))
        self.spike: nn.Module = undivided_spike(levels)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        if not has_time(inputs):
            return super().forward(inputs)
        logits = super().forward([x.flatten(0, 1) for x in inputs])
        return logits.unflatten(0, (inputs[0].shape[0], -1)).mean(0)

    def cls_seg(self, feat: Tensor) -> Tensor:
        """Logits (B, classes, H, W) from the spikes of the features ``feat`` (B, C, H, W)."""
        return super().cls_seg(self.spike(feat))
