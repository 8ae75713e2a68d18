"""SDTrack: a spiking tracker that sees the template and the search region on one canvas (arXiv:2503.08703).

The stages are those of SDT-V3 (``backbones.SDTV3``). In its mixer stages, template and search region are two squares of one
image, whose other two quadrants are empty. Then they become the tokens of one map, so that attention relates them to each
other. Written from descriptions; no code was copied.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..backbones import SDTV3
from ..checks import check_floating, flag, one_of
from ..layers import ilif_node
from ..layers.lif_layers import lif
from ..layers.merged_time import put_neurons
from .centre_head import CentreHead, CentreMaps

STRIDE = 16  # pixels per token
ARCHITECTURES = {
    "tiny": dict(embed_dims=(64, 128, 256, 360), num_heads=8),
    "base": dict(embed_dims=(128, 256, 512, 768), num_heads=8, depths=(1, 1, 2, 9, 3)),
}
HEAD_WIDTHS = {"tiny": 256, "base": 512}
# variant -> T time steps, D integer levels
VARIANTS = {"1x4": (1, 4), "2x2": (2, 2), "4x1": (4, 1)}


class SDTrack(nn.Module):
    """The tracker's network: template and search region in, ``CentreMaps`` of the search region out.

    Images are event images of values 0 to 255, not scaled: (B, 3, H, W) for the variant "1x4", and (T, B, 3, H, W) for those
    with time, the T sub-slices of each image. Both regions are square, and their sides multiples of 16.

    Args:
        arch: "tiny", "base", or a dict with ``embed_dims`` (four ints, the first even) and ``num_heads``.
        mixer: channel mixer of the first stages, as in ``SDTV3``.
        ratio: expansion of mixers and MLPs.
        layout: token layout of MLPixer and SRB.
        norm_hidden: BN inside MLPixer and SRB, without which they never fire in a training from scratch.
        variant: "1x4": no time, 4 integer levels; "2x2": two time steps of integer neurons with a leak and 2 levels; "4x1":
            four time steps of LIF neurons.
        sep_conv: whether the transformer blocks have a separable convolution. The published tracker with convolutions has
            none, those with MLPixer and SRB have it.
        classifier: keep SDT-V3's linear head of 1000 classes, which nothing reads or trains, and which the published parameter
            counts of some rows include.
        head_width: channels of the centre head's first convolutions, at least 8; ``None`` for the published ones.
        memory_efficient: compute norms and spikes again in the backward pass, as in ``SDTV3``.
        joint_norm: in a training, the last downsampling's norm takes the tokens of template, search region and padding as one
            batch. As published, it normalises each of the three by itself, but tests by the mean of their statistics, and
            then the boxes are too large (docs/tracking.md). Nothing else differs, and no test of given weights.

    Raises:
        TypeError, ValueError: an argument is out of range; the message names it and what is allowed.
    """

    def __init__(
        self,
        arch: str | Mapping = "tiny",
        mixer: str | Mapping | Callable = "conv",
        ratio: int = 4,
        layout: str = "channel",
        norm_hidden: bool = True,
        variant: str = "1x4",
        sep_conv: bool = False,
        classifier: bool = False,
        head_width: int | None = None,
        memory_efficient: bool = False,
        joint_norm: bool = False,
    ):
        super().__init__()
        one_of("variant", variant, VARIANTS)
        default_width = 256
        if not isinstance(arch, Mapping):
            one_of("arch", arch, ARCHITECTURES, "Or give dict(embed_dims=[64, 128, 256, 360], num_heads=8).")
            default_width, arch = HEAD_WIDTHS[arch], ARCHITECTURES[arch]
        self.variant = variant
        self.joint_norm = flag("joint_norm", joint_norm)
        self.T, levels = VARIANTS[variant]
        self.backbone: Any = SDTV3(
            arch,
            mixer,
            ratio,
            levels,
            layout,
            norm_hidden,
            sep_conv=sep_conv,
            num_classes=1000 if flag("classifier", classifier) else 0,
            memory_efficient=memory_efficient,
        )
        if classifier:  # without gradients, for which DistributedDataParallel would wait
            self.backbone.head.requires_grad_(False)
        self.head = CentreHead(
            self.backbone.stage_dims[-1], default_width if head_width is None else head_width, levels
        )
        if self.T > 1:
            neuron = lif if levels == 1 else partial(_leaky_integer, levels)
            put_neurons(self, neuron, self.T, levels)

    def forward(self, template: Tensor, search: Tensor) -> CentreMaps:
        """The maps of the search region, (B, ., h, w) with one cell for 16 x 16 pixels.

        Args:
            template: the target, (B, 3, Z, Z) or (T, B, 3, Z, Z).
            search: where it is looked for, (B, 3, S, S) or (T, B, 3, S, S).

        Raises:
            TypeError, ValueError: the images do not fit the network.
        """
        self._check(template, search)
        if self.T > 1:
            template, search = template.flatten(0, 1), search.flatten(0, 1)
        side = search.shape[-1] // STRIDE
        features = self.tokens(template, search)[..., -side * side :]
        return self.head(features.unflatten(-1, (side, side)), self.T)

    def tokens(self, template: Tensor, search: Tensor) -> Tensor:
        """The last stage's output (T*B, C, n): the tokens of the template, row by row, and those of the search region."""
        z, s = (x.shape[-1] // STRIDE for x in (template, search))
        *canvas_stages, third, last = self.backbone.stages
        x = self.backbone.enter(on_canvas(template, search))
        for stage in canvas_stages:
            x = stage(x, self.backbone.recompute)
        x = third.downsample(x)
        parts, pad = [x[..., -z:, -z:], x[..., :s, :s]], _pad(z, s)
        if pad:
            parts.append(x.new_zeros(*x.shape[:2], pad, pad))
        x = third.run_blocks(as_one_map(parts), self.backbone.recompute)
        x = self._last_downsampling(apart(x, parts))
        x = last.run_blocks(x, self.backbone.recompute)
        return x.flatten(2)[..., : z * z + s * s]

    def _last_downsampling(self, parts: list[Tensor]) -> Tensor:
        """Convolve each square map by itself, and normalise them; one map of all their tokens."""
        layer = self.backbone.stages[-1].downsample
        if self.joint_norm and self.training:
            return layer.bn(as_one_map([layer.conv(layer.spike(part)) for part in parts]))
        return as_one_map([layer(part) for part in parts])

    def _check(self, template: Tensor, search: Tensor) -> None:
        axes = "(B, 3, side, side)" if self.T == 1 else f"({self.T}, B, 3, side, side)"
        for name, x in (("template", template), ("search", search)):
            check_floating(name, x)
            fits = x.ndim == (4 if self.T == 1 else 5) and x.shape[-3] == 3 and x.shape[-1] == x.shape[-2]
            if not fits or (self.T > 1 and len(x) != self.T):
                raise ValueError(f"`{name}` has shape {tuple(x.shape)}; this network takes {axes}.")
            if not x.numel():
                raise ValueError(f"`{name}` has shape {tuple(x.shape)}; give at least one pair of images with pixels.")
            if x.shape[-1] % STRIDE:
                raise ValueError(f"`{name}` has a side of {x.shape[-1]} pixels; it must be a multiple of {STRIDE}.")
        if template.shape[:-2] != search.shape[:-2]:
            raise ValueError(f"`template` has shape {tuple(template.shape)} and `search` {tuple(search.shape)}.")
        z, s = (x.shape[-1] // STRIDE for x in (template, search))
        smallest, norm = min(z, s, _pad(z, s) or s), self.backbone.stages[-1].downsample.bn
        alone = norm.training and isinstance(norm, nn.BatchNorm2d) and not self.joint_norm
        if alone and template.shape[:-3].numel() * smallest == 1:
            raise ValueError(
                f"sides of {template.shape[-1]} and {search.shape[-1]} pixels leave a square of a single token, of which a "
                f"BatchNorm has no statistics in a batch of one; train with a batch_size of at least 2, or other sides."
            )


def _leaky_integer(levels: int) -> nn.Module:
    """The integer neuron with a leak: the membrane potential over the count of spikes, a quarter of which stays."""
    from spikingjelly.activation_based import surrogate

    return ilif_node(tau=4 / 3, detach_reset=True, surrogate_function=surrogate.MultiLevelSpikeCount(levels))


def _pad(z: int, s: int) -> int:
    """Side of the square of zero tokens that makes a square map of z*z and s*s tokens; 0 if they are one already.

    Raises:
        ValueError: there is none.
    """
    count = z * z + s * s
    side = math.isqrt(count - 1) + 1
    pad = math.isqrt(side * side - count)
    if pad * pad != side * side - count:
        raise ValueError(
            f"template and search region have {z}x{z} and {s}x{s} tokens; {side * side - count} more make a square map, and "
            f"they must be a square number, as for sides of 128 and 256, or 64 and 128 pixels."
        )
    return pad


def on_canvas(template: Tensor, search: Tensor) -> Tensor:
    """One image (B, 3, S+Z, S+Z): the search region at its top left, the template at its bottom right, and zeros."""
    z, s = template.shape[-1], search.shape[-1]
    canvas = search.new_zeros(*search.shape[:-2], s + z, s + z)
    canvas[..., :s, :s] = search
    canvas[..., s:, s:] = template
    return canvas


def as_input(pixels: np.ndarray) -> Tensor:
    """Bytes (side, side, 3) or (T, side, side, 3) as floats (1, 3, side, side) or, of several steps, (T, 1, 3, side, side)."""
    x = torch.from_numpy(pixels).float().movedim(-1, -3)
    return x.unsqueeze(-4) if x.ndim == 3 or len(x) > 1 else x


def as_one_map(parts: list[Tensor]) -> Tensor:
    """Square maps (B, C, side, side) one after another, row by row, as one square map of all their pixels."""
    x = torch.cat([part.flatten(2) for part in parts], 2)
    return x.unflatten(2, (math.isqrt(x.shape[2]), -1))


def apart(x: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """The inverse of ``as_one_map``: maps of the sizes of ``parts``, with the channels of ``x``."""
    pieces = x.flatten(2).split([part[0, 0].numel() for part in parts], 2)
    return [piece.unflatten(2, part.shape[2:]) for piece, part in zip(pieces, parts, strict=True)]
