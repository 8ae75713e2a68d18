"""A layer whose output can be laid out in any way, and the field that it has in each."""

import numpy as np
import torch
from torch import nn


class Reshaped(nn.Module):
    """A 4x4 patch embedding whose output is laid out in some way; pixel sees exactly its patch."""

    def __init__(self, arrange, patch=4, dim=37):
        super().__init__()
        self.embed = nn.Conv2d(1, dim, patch, patch)
        nn.init.constant_(self.embed.weight, 1.0)
        self.out = nn.Identity()
        self.arrange = arrange

    def forward(self, x):
        return self.out(self.arrange(self.embed(x)))


def patch_of_the_centre(field, grid, patch=4):
    row, col = grid[0] // 2 * patch, grid[1] // 2 * patch
    expected = np.zeros_like(field)
    expected[row : row + patch, col : col + patch] = 1
    return np.array_equal(field > 0, expected > 0)


def with_prefix(count):
    return lambda y: torch.cat([y.new_ones(len(y), count, y.shape[1]), y.flatten(2).transpose(1, 2)], 1)


class Rearranged(nn.Module):
    """Tokens in some order, which a layer spreads over all of them: no field is clearly around its target."""

    def __init__(self, order, spread=0.02):
        super().__init__()
        self.embed, self.out = nn.Conv2d(3, 24, 4, 4), nn.Identity()
        self.order, self.spread = order, spread

    def forward(self, x, template=None):
        y = self.embed(x).flatten(2).transpose(1, 2)[:, self.order]
        y = y + self.spread * y.sum(1, keepdim=True)
        return self.out(y if template is None else y + self.embed(template).mean((2, 3))[:, None])
