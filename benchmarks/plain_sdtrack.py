"""SDTrack without a time axis, written the straightforward way, as the other side of ``tracking.py``.

Canvas, tokens and centre head as the paper describes them, on the plain layers of ``plain_sdtv3.py``. The weights are copied
from our model.
"""

import copy
import math

import torch
from plain_sdtv3 import PlainTransformer, downsample, mixer_block, plain_layers, spike
from torch import nn

from sterf_plugins.layers import IntegerSpike


class PlainSDTrack(nn.Module):
    """The plain form of ``ours`` (an ``SDTrack`` of the variant 1x4); maps (score, offset, size) of (template, search)."""

    def __init__(self, ours):
        super().__init__()
        ours = plain_layers(copy.deepcopy(ours))
        self.stages, self.branches = ours.backbone.stages, ours.head.branches
        for stage in self.stages[3:]:
            stage.blocks = nn.Sequential(*[PlainTransformer(b) for b in stage.blocks])

    def forward(self, template, search):
        b, (z, s) = len(search), (x.shape[-1] for x in (template, search))
        x = search.new_zeros(b, 3, s + z, s + z)
        x[:, :, :s, :s] = search
        x[:, :, s:, s:] = template
        for i, stage in enumerate(self.stages[:3]):
            x = downsample(stage.downsample, x, first=i == 0)
            for block in stage.blocks:
                x = mixer_block(block, x)
        x = downsample(self.stages[3].downsample, x)
        s, z = s // 16, z // 16
        side = math.isqrt(s * s + z * z - 1) + 1
        pad = math.isqrt(side * side - s * s - z * z)
        extra = torch.zeros(b, x.shape[1], pad * pad, dtype=x.dtype)
        x = torch.cat([x[:, :, s:, s:].flatten(2), x[:, :, :s, :s].flatten(2), extra], 2)
        x = self.stages[3].blocks(x.reshape(b, -1, side, side)).flatten(2)
        template, search, extra = x.split([z * z, s * s, pad * pad], 2)
        parts = [(template, z), (search, s), (extra, pad)]
        parts = [downsample(self.stages[4].downsample, t.reshape(b, -1, n, n)).flatten(2) for t, n in parts]
        x = self.stages[4].blocks(torch.cat(parts, 2).reshape(b, -1, side, side)).flatten(2)
        x = x[:, :, z * z : z * z + s * s].reshape(b, -1, s, s)
        score, offset, size = (self.branch(layers, x) for layers in self.branches.values())
        return score.sigmoid().clamp(1e-4, 1 - 1e-4), offset, size.sigmoid().clamp(1e-4, 1 - 1e-4)

    def branch(self, layers, x):
        """One branch of the head."""
        for layer in layers:
            x = spike(x) if isinstance(layer, IntegerSpike) else layer(x)
        return x
