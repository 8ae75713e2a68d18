"""Fully spiking neck and heads of the ST-ERF and SDT-V3 Mask R-CNNs, as subclasses of mmdet's stock ones.

Paper: arXiv:2510.21403 (SDT-V3: arXiv:2411.16061). Every convolution and linear layer but the last two of the box head
sees integer spikes. Features may have a time axis, (T, B, C, H, W); scores are then averaged over time. Layers keep the
names of the stock classes. Written from descriptions; no code was copied.
"""

from collections.abc import Sequence

import torch
from mmdet.models import FCNMaskHead, RPNHead, Shared2FCBBoxHead, StandardRoIHead
from mmdet.models.necks import FPN
from torch import Tensor, nn

from ...registry import MODELS
from .spike_layers import has_time, over_time, spike_first, undivided_spike


@MODELS.register_module()
class SpikeFPN(FPN):
    """mmdet's FPN with integer spikes in front of each convolution.

    Args:
        *args, **kwargs: those of mmdet's ``FPN``.
        levels: D, the largest number of spikes of a neuron.
        eval_levels: D in eval mode; ``None``, the default, keeps ``levels``. The released detectors train with 4 and
            evaluate with 1, which changes their features by 77 % (relative L2, random input).
    """

    def __init__(self, *args, levels: int = 4, eval_levels: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        for conv in (*self.lateral_convs, *self.fpn_convs):
            spike_first(conv, undivided_spike(levels, eval_levels))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return over_time(super().forward, inputs)


@MODELS.register_module()
class SpikeRPNHead(RPNHead):
    """mmdet's RPNHead: spike -> 3x3 convolution -> spike -> the two 1x1 convolutions.

    Args:
        *args, **kwargs: those of mmdet's ``RPNHead``, with one convolution.
        levels: D, the largest number of spikes of a neuron.

    Raises:
        ValueError: ``num_convs`` is not 1.
    """

    def __init__(self, *args, levels: int = 4, **kwargs):
        super().__init__(*args, **kwargs)
        if self.num_convs != 1:
            raise ValueError(f"`num_convs` is {self.num_convs}; the spiking RPN head has one convolution.")
        self.spike1, self.spike2 = undivided_spike(levels), undivided_spike(levels)

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        steps = x.shape[0] if x.ndim == 5 else 1
        x = self.spike2(self.rpn_conv(self.spike1(x.flatten(0, 1) if x.ndim == 5 else x)))
        scores, boxes = self.rpn_cls(x), self.rpn_reg(x)
        if steps == 1:
            return scores, boxes
        return scores.unflatten(0, (steps, -1)).mean(0), boxes.unflatten(0, (steps, -1)).mean(0)


@MODELS.register_module()
class SpikeStandardRoIHead(StandardRoIHead):
    """mmdet's StandardRoIHead for features with or without a time axis; scores are averaged over time.

    Everything else is the stock class: the spikes are in the heads.
    """

    def loss(self, x: Sequence[Tensor], *args, **kwargs) -> dict:
        return super().loss(_batch_first(x), *args, **kwargs)

    def predict(self, x: Sequence[Tensor], *args, **kwargs):
        return super().predict(_batch_first(x), *args, **kwargs)

    def forward(self, x: Sequence[Tensor], *args, **kwargs) -> tuple:
        return super().forward(_batch_first(x), *args, **kwargs)

    def _bbox_forward(self, x: Sequence[Tensor], rois: Tensor) -> dict:
        return _mean([super(SpikeStandardRoIHead, self)._bbox_forward(step, rois) for step in _steps(x)])

    def _mask_forward(self, x: Sequence[Tensor], *args, **kwargs) -> dict:
        return _mean([super(SpikeStandardRoIHead, self)._mask_forward(step, *args, **kwargs) for step in _steps(x)])


def _batch_first(x: Sequence[Tensor]) -> Sequence[Tensor]:
    """(T, B, C, H, W) -> (B, T, C, H, W): the stock class takes a feature's first axis for the batch."""
    return tuple(f.transpose(0, 1) for f in x) if has_time(x) else x


def _steps(x: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """The features of each time step, from (B, T, C, H, W); without a time axis they count as one step."""
    return [tuple(f[:, t] for f in x) for t in range(x[0].shape[1])] if has_time(x) else [x]


def _mean(results: list[dict]) -> dict:
    """Mean of each entry over the time steps' results."""
    if len(results) == 1:
        return results[0]
    return {key: torch.stack([r[key] for r in results]).mean(0) for key in results[0]}


@MODELS.register_module()
class SpikeShared2FCBBoxHead(Shared2FCBBoxHead):
    """mmdet's Shared2FCBBoxHead: (spike -> linear) twice, then the two linear layers on real numbers.

    Args:
        *args, **kwargs: those of mmdet's ``Shared2FCBBoxHead``.
        levels: D, the largest number of spikes of a neuron.
    """

    shared_fcs: nn.ModuleList

    def __init__(self, *args, levels: int = 4, **kwargs):
        super().__init__(*args, **kwargs)
        self.shared_fcs = nn.ModuleList([nn.Sequential(undivided_spike(levels), fc) for fc in self.shared_fcs])
        self.relu = nn.Identity()


@MODELS.register_module()
class SpikeFCNMaskHead(FCNMaskHead):
    """mmdet's FCNMaskHead with integer spikes in front of each convolution.

    The released head also has a ReLU behind each 3x3 convolution; the spikes that follow make it superfluous.

    Args:
        *args, **kwargs: those of mmdet's ``FCNMaskHead``, with ``upsample_cfg=dict(type='deconv', ...)``.
        levels: D, the largest number of spikes of a neuron.

    Raises:
        ValueError: ``upsample_cfg`` names another kind of upsampling.
    """

    def __init__(self, *args, levels: int = 4, **kwargs):
        super().__init__(*args, **kwargs)
        if self.upsample_method != "deconv":
            raise ValueError(f"`upsample_cfg` has type {self.upsample_method!r}; the spiking mask head has 'deconv'.")
        for conv in self.convs:
            spike_first(conv, undivided_spike(levels))
        self.spike1, self.spike2 = undivided_spike(levels), undivided_spike(levels)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x)
        return self.conv_logits(self.spike2(self.upsample(self.spike1(x))))
