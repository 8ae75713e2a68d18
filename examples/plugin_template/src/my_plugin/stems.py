"""Stems: the first layer of a backbone, which sees the image."""

from torch import Tensor, nn


class MyStem(nn.Module):
    """Two 3x3 convolutions, the first with the stride, with a BatchNorm between them.

    Args:
        in_chans: channels of the image.
        embed_dim: channels of the output.
        stride: pixels of the image per position of the output.
        width: channels between the two convolutions.
    """

    def __init__(self, in_chans: int, embed_dim: int, stride: int = 2, width: int = 16):
        super().__init__()
        self.stride = stride
        self.layers = nn.Sequential(
            nn.Conv2d(in_chans, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, embed_dim, 3, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to maps (B, embed_dim, ceil(H / stride), ceil(W / stride))."""
        return self.layers(x)
