"""A convolution and its BatchNorm, under the names ``conv`` and ``bn``."""

from collections import OrderedDict

from torch import nn

from ..batch_norm import BatchNorm2d


def conv_bn(in_channels: int, out_channels: int, kernel: int = 1, **conv_options) -> nn.Sequential:
    """``Conv2d`` without bias (unless given) and with same padding, then BatchNorm; (B, C_in, H, W) in."""
    conv_options.setdefault("bias", False)
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, **conv_options)
    return nn.Sequential(OrderedDict(conv=conv, bn=BatchNorm2d(out_channels)))
