"""A convolution and its BatchNorm, under the names ``conv`` and ``bn``."""

from collections import OrderedDict

from torch import nn

from ..checks import positive_int
from .batch_norm import BatchNorm2d
from .depthwise import DepthwiseConv2d


class ConvBN2d(nn.Sequential):
    """``Conv2d``, then BatchNorm: (B, in_channels, H, W) -> (B, out_channels, H', W').

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: side of the kernel, odd; the padding is half of it, so that a stride of 1 keeps the size.
        **conv_options: further arguments of ``nn.Conv2d``; there is no bias unless they ask for one.

    Raises:
        TypeError, ValueError: a number of channels is no int >= 1, or ``kernel`` no odd one.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, **conv_options):
        positive_int("in_channels", in_channels), positive_int("out_channels", out_channels)
        if positive_int("kernel", kernel) % 2 == 0:
            raise ValueError(f"`kernel` is {kernel}; it must be odd, so that a stride of 1 keeps the size.")
        conv_options.setdefault("bias", False)
        depthwise = conv_options.get("groups", 1) == in_channels == out_channels
        kind = DepthwiseConv2d if depthwise else nn.Conv2d
        conv = kind(in_channels, out_channels, kernel, padding=kernel // 2, **conv_options)
        super().__init__(OrderedDict(conv=conv, bn=BatchNorm2d(out_channels)))
