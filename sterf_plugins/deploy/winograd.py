"""A 3x3 convolution by Winograd's algorithm: 36 products for 16 outputs instead of 144.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks" (arXiv:1509.09308), F(4x4, 3x3). Integer
spikes are transformed without rounding; the sums of the transformed products round more than a direct convolution.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

_OUT, _IN = 4, 6  # side of a tile of outputs, and of the inputs that it needs
_INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_WEIGHT = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
# Measured: it gains while the transformed maps stay in a cache, and with enough channels to pay for the transforms.
_CACHE = 6 * 2**20
_CHANNELS = 64


def winograd_gains(conv: nn.Conv2d, like: Tensor) -> bool:
    """Whether ``WinogradConv2d`` can take the place of a convolution, and is faster on inputs of this size."""
    same = (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    if not same or conv.groups != 1 or conv.padding_mode != "zeros":
        return False
    channels = conv.in_channels, conv.out_channels
    maps = like.element_size() * like[:, 0].numel() * sum(channels) * (_IN / _OUT) ** 2
    return min(channels) >= _CHANNELS and maps <= _CACHE


class WinogradConv2d(nn.Module):
    """A 3x3 convolution with stride 1 and padding 1, for inference; (B, C_in, H, W) -> (B, C_out, H, W), channels-last.

    Args:
        conv: the convolution.
        divisor: of its weights.

    Attributes:
        most: outputs are clamped to [0, most], if it is given.
    """

    def __init__(self, conv: nn.Conv2d, divisor: float = 1):
        super().__init__()
        inputs, weights, outputs = (torch.tensor(m, dtype=torch.float64) for m in (_INPUT, _WEIGHT, _OUTPUT))
        kernel = conv.weight.detach().double() / divisor
        products = torch.einsum("ia,ocab,jb->ijco", weights, kernel, weights).flatten(0, 1)
        for name, value in (
            ("to_products", torch.kron(inputs, inputs)),
            ("weight", products),
            ("to_outputs", torch.kron(outputs, outputs)),
        ):
            self.register_buffer(name, value.to(conv.weight.dtype).contiguous(), persistent=False)
        self.bias = conv.bias
        self.most: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        rows, columns = -(-h // _OUT), -(-w // _OUT)
        x = pad(x.permute(0, 2, 3, 1), (0, 0, 1, columns * _OUT + 1 - w, 1, rows * _OUT + 1 - h))
        image, row, column, channel = x.stride()
        tiles = x.as_strided(
            (_IN, _IN, b, rows, columns, c), (row, column, image, _OUT * row, _OUT * column, channel)
        ).reshape(_IN * _IN, -1)
        products = torch.bmm((self.to_products @ tiles).view(_IN * _IN, -1, c), self.weight)
        if self.bias is not None:
            products[_IN + 1] += self.bias  # the product that every output gets once
        y = self.to_outputs @ products.flatten(1)
        if self.most is not None:
            y.clamp_(0, self.most)
        y = (
            y.view(_OUT, _OUT, b, rows, columns, -1)
            .permute(2, 3, 0, 4, 1, 5)
            .reshape(b, rows * _OUT, columns * _OUT, -1)
        )
        return y[:, :h, :w].permute(0, 3, 1, 2)
