"""A depthwise convolution layer."""

from torch import Tensor, nn

from ..functional import depthwise_conv2d, splits_weight_gradient


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` of one filter per channel, with same padding and without bias; trains faster on a CPU.

    (B, channels, H, W) -> (B, channels, H, W).

    Args:
        channels: number of channels.
        kernel: odd width and height.
    """

    def __init__(self, channels: int, kernel: int):
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if splits_weight_gradient(x, self.weight) and self.bias is None:
            return depthwise_conv2d(x, self.weight)
        return super().forward(x)
