"""Fields that tests draw, and what a figure says."""

import torch
from torch import nn

from sterf_plugins.erf import ERFResult, compute_erf

SIZE = (24, 32)


def computed(depth: int = 2, num: int = 4, **options) -> ERFResult:
    """The fields of 3x3 convolutions with a tanh behind each, and one of stride 4 at the end."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Tanh()) for _ in range(depth)]
    last = nn.Sequential(nn.Conv2d(1, 1, 2, stride=4), nn.Tanh())
    result = compute_erf(nn.Sequential(*blocks, last), 2 * torch.randn(num, 1, *SIZE), **options)
    result.info |= dict(weights="random", images="noise")
    return result


def words(figure) -> str:
    """All text of a figure."""
    import matplotlib.text

    return "\n".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))
