"""Channel mixers: the branch beside the residual connection in the convolutional stages of a backbone."""

from torch import Tensor, nn

from sterf_plugins.layers import IntegerSpike


class MyMixer(nn.Module):
    """Spikes, an expanding 1x1 convolution, spikes, and a contracting one; each convolution is followed by a BatchNorm.

    Args:
        dim: number of channels.
        ratio: how many times wider the hidden map is.
        levels: D, the largest integer that a spike can be.
    """

    def __init__(self, dim: int, ratio: int, *, levels: int = 4):
        super().__init__()
        hidden = dim * ratio
        self.branch = nn.Sequential(
            IntegerSpike(levels),
            nn.Conv2d(dim, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            IntegerSpike(levels),
            nn.Conv2d(hidden, dim, 1, bias=False),
            nn.BatchNorm2d(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Membrane potentials (B, dim, H, W) to the branch's output of the same shape; the backbone adds the residual."""
        return self.branch(x)
