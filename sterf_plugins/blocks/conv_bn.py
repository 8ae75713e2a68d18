"""A convolution and its BatchNorm, under the names ``conv`` and ``bn``."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ..batch_norm import BatchNorm2d
from ..functional import frozen_conv_bn
from .depthwise import PLAIN_CONVOLUTIONS, DepthwiseConv2d


class ConvBN2d(nn.Sequential):
    """``Conv2d`` without bias (unless given) and with same padding, then BatchNorm; (B, C_in, H, W) in.

    With frozen parameters in eval mode, as for a receptive field, the backward pass is one convolution.
    """

    runs_in_a_row = True  # see IntegerSpike.after

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, **conv_options):
        conv_options.setdefault("bias", False)
        depthwise = conv_options.get("groups", 1) == in_channels == out_channels
        kind = DepthwiseConv2d if depthwise else nn.Conv2d
        conv = kind(in_channels, out_channels, kernel, padding=kernel // 2, **conv_options)
        super().__init__(OrderedDict(conv=conv, bn=BatchNorm2d(out_channels)))

    def forward(self, x: Tensor) -> Tensor:
        if self._frozen(x):
            return frozen_conv_bn(x, self.conv, self.bn)
        return self.bn(self.conv(x))

    def _frozen(self, x: Tensor) -> bool:
        conv, bn = self.conv, self.bn
        return (
            x.requires_grad
            and type(conv) in PLAIN_CONVOLUTIONS
            and type(bn) is BatchNorm2d
            and not bn.training
            and not any(p.requires_grad for p in (*conv.parameters(), *bn.parameters()))
            and conv.padding_mode == "zeros"
            and not (conv._forward_hooks or conv._forward_pre_hooks or bn._forward_hooks or bn._forward_pre_hooks)
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled(x.device.type)
        )
