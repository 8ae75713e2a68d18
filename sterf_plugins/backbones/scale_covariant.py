"""One network on several sizes of the image: scale channels that share their weights, and a maximum over them.

An image that is enlarged gives each channel what the next finer channel saw before, so that the maximum over channels
stays the same as long as the matching channel exists. Source: Jansson and Lindeberg, "Scale-invariant scale-channel
networks", J. Math. Imaging Vis. 64 (2022), arXiv:2106.06418; layers of Gaussian derivatives: Lindeberg, J. Math.
Imaging Vis. 64 (2022), arXiv:2011.14759. Written from descriptions; no code was copied.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import plugins
from ..checks import check_images, entries, finite_number, flag, fraction, one_of, positive_int, whole_number
from ..layers import BatchNorm1d
from ..layers.drop_path import drop_path, drop_path_rates
from ..layers.spiking_nodes import check_takes_maps
from ..stems import CovariantRFConv2d, RFBank
from .base import Stage, StagedBackbone

POOLS = ("max", "logsumexp")
SCALES = tuple(2 ** (k / 2) for k in range(7))


class ScaleCovariantNet(StagedBackbone):
    """Scale channels of Gaussian derivatives with shared weights, and pooling over scale.

    Channel k sees the image at 1 / ``scales[k]`` of its size. In each channel the same layers run: Gaussian derivatives,
    their learned mixtures, a norm, a neuron. A norm in training takes its statistics from all channels together, for
    otherwise it would make each channel a network of its own. Feature maps are pooled over scales on the grid of the
    finest channel; the classifier gets the maximum over all pixels and the pool over scales.

    Args:
        dims: channels of the stages.
        depths: residual blocks of each stage, behind its first layer.
        strides: stride of the first layer of each stage.
        scales: by how much the channels make the image smaller, ascending; values below 1 enlarge it. The ratio of the
            largest to the smallest is the range of sizes over which the network generalises. All channels share their
            weights, so that those of a network with some scales fit one with others: finer channels than the trained
            ones find what is smaller than anything in the training.
        zoom: how closely a training looks: above 1, two more channels see random windows of what the finest channel
            sees, enlarged by random factors up to this one, and the classifier's maximum includes them. They show what
            the finest channels will see of images that are larger than the trained ones, at twice the cost of the finest
            channel.
        sigma: standard deviation of the Gaussians, in pixels of the channel's map.
        orders: highest order of the derivatives.
        pool: "max" or "logsumexp" over scales.
        neuron: "relu"; "integer" or another name of the entry-point group ``sterf_plugins.neurons``; a dict with
            ``type`` and options, such as dict(type="integer", levels=8) or dict(type="lif", T=4); or a
            function that returns a module. Neurons with dynamics need ``T``, the time steps for which a map is held.
        drop_rate: dropout in front of the linear head.
        drop_path_rate: stochastic depth of the last block; it grows linearly over the blocks from 0.
        in_chans: number of image channels.
        out_indices: feature levels to return when ``num_classes`` is 0; ``None`` for all.
        num_classes: 0 for feature maps, otherwise the width of a linear head.
        memory_efficient: keep only the results of convolutions for the backward pass, and compute norms and spikes
            again there.

    Raises:
        TypeError, ValueError: an argument is out of range; the message names it and what is allowed.
    """

    def __init__(
        self,
        dims: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (1, 1, 1, 1),
        strides: Sequence[int] = (2, 2, 2, 2),
        scales: Sequence[float] = SCALES,
        zoom: float = 1.0,
        sigma: float = 1.0,
        orders: int = 2,
        pool: str = "max",
        neuron: str | Mapping | Callable[..., nn.Module] = "relu",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        in_chans: int = 3,
        out_indices: Sequence[int] | None = None,
        num_classes: int = 0,
        memory_efficient: bool = False,
    ):
        dims = tuple(positive_int("dims", d) for d in entries("dims", dims))
        strides = tuple(positive_int("strides", s) for s in entries("strides", strides))
        depths = tuple(whole_number("depths", d, "an int >= 0") for d in entries("depths", depths))
        if min(depths, default=0) < 0:
            raise ValueError(f"`depths` is {depths}; its entries must be >= 0.")
        if not len(dims) == len(depths) == len(strides) > 0:
            raise ValueError(
                f"`dims`, `depths` and `strides` are {dims}, {depths}, {strides}; give one entry per stage."
            )
        scales = _ascending(scales)
        one_of("pool", pool, POOLS)
        if finite_number("zoom", zoom) < 1:
            raise ValueError(f"`zoom` is {zoom}; it must be >= 1, where 1 means none.")
        in_chans = positive_int("in_chans", in_chans)
        build = nn.ReLU if neuron == "relu" else plugins.resolve("neurons", neuron)

        def layer(width: int, dim: int, stride: int, spikes: bool = True) -> ScaleConv:
            bank = RFBank(sigmas=(sigma,), ratios=(1.0,), orders=orders)
            return ScaleConv(
                CovariantRFConv2d(width, dim, bank, stride), check_takes_maps(build()) if spikes else nn.Identity()
            )

        stages, points, width, reduction = [], [], in_chans, scales[0]
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        for i, (dim, depth, stride) in enumerate(zip(dims, depths, strides, strict=True)):
            blocks = [ScaleBlock(layer(dim, dim, 1), next(rates)) for _ in range(depth)]
            stages.append(Stage(layer(width, dim, stride, spikes=i > 0), blocks))
            width, reduction = dim, reduction * stride
            points.append(reduction)
        super().__init__(stages, dims, [max(1, round(r)) for r in points], in_chans, out_indices)
        self.scales, self.zoom, self.pool = scales, float(zoom), pool
        self.memory_efficient = flag("memory_efficient", memory_efficient)
        self.head_neuron = check_takes_maps(build())
        self.head_drop = nn.Dropout(fraction("drop_rate", drop_rate))
        self.set_num_classes(num_classes)

    def description(self) -> dict[str, str]:
        """The pool; networks of other scales may have the same weights."""
        return dict(pool=self.pool)

    def enter(self, x: Tensor) -> Any:
        """The image in all sizes, finest first.

        Raises:
            ValueError: the input is not (B, in_chans, H, W).
        """
        return _sizes(x, self.in_chans, self.scales, self.zoom if self.training else 1.0)

    def pool_pixels(self, x: Tensor) -> Tensor:
        """The maximum over the pixels of a feature map: it does not depend on how large the background is."""
        return x.amax((-2, -1))

    def leave(self, x: Any) -> Tensor:
        """The maps of all scales -> their pool (B, C, H, W) on the grid of the finest one."""
        return _pooled(x[: len(self.scales)], self.pool)

    def undo_leave(self, x: Tensor) -> Any:
        """A pooled map as the only scale."""
        return [x]

    def classify(self, x: Any) -> Tensor:
        """Logits (B, num_classes): maximum over pixels, pool over scales, neuron, dropout, linear head."""
        return self.head(self.head_drop(self.head_neuron(_pooled_pixels(x, self.pool))))


class ScaleConv(nn.Module):
    """Neuron, convolution by Gaussian derivatives, and BN with statistics of all scales; a list of maps in and out."""

    def __init__(self, conv: CovariantRFConv2d, neuron: nn.Module):
        super().__init__()
        self.neuron = neuron
        self.conv = conv
        self.bn = BatchNorm1d(conv.out_channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return over_scales(self.bn, [self.conv(self.neuron(x)) for x in maps])


class ScaleBlock(nn.Module):
    """x + branch(x) at each scale; stochastic depth drops a sample's branch at all of them."""

    def __init__(self, branch: ScaleConv, drop_path_rate: float = 0.0):
        super().__init__()
        self.branch = branch
        self.drop_path = drop_path(drop_path_rate)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [x + y for x, y in zip(maps, over_scales(self.drop_path, self.branch(maps)), strict=True)]


def over_scales(layer: nn.Module, maps: list[Tensor]) -> list[Tensor]:
    """Apply a layer of (B, C, L) to the pixels of all maps (B, C, H_k, W_k) at once."""
    sizes = [x.shape[2:] for x in maps]
    pixels = layer(torch.cat([x.flatten(2) for x in maps], 2))
    return [x.unflatten(2, size) for x, size in zip(pixels.split([s.numel() for s in sizes], 2), sizes, strict=True)]


@torch.fx.wrap  # one step of a traced model, since it looks at the shape
def _sizes(x: Tensor, in_chans: int, scales: tuple[float, ...], zoom: float) -> list[Tensor]:
    """The image at 1 / scale of its size for each scale, and windows of it where ``zoom`` is above 1."""
    check_images(x, in_chans)
    if torch.jit.is_tracing():
        raise TypeError(
            "torch.jit.trace would keep the sizes of the scales for images of other sizes; use torch.export."
        )
    height, width = x.shape[2:]
    sizes = [_resized(x, max(1, round(height / s)), max(1, round(width / s))) for s in scales]
    return sizes + [_window(x, zoom ** torch.rand(()).item(), sizes[0].shape[2:]) for _ in range(2 if zoom > 1 else 0)]


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    """The image in another size; the triangle of the anti-aliased filter grows with the scale."""
    if x.shape[2:] == (height, width):
        return x
    single = x if x.dtype == torch.float64 else x.float()  # on a CPU PyTorch has no such filter for half precision
    return F.interpolate(single, (height, width), mode="bilinear", antialias=True).to(x.dtype)


def _window(x: Tensor, factor: float, size: Sequence[int]) -> Tensor:
    """A random window of the images, 1 / factor of their size, in the size of the finest channel."""
    shape = [max(1, round(n / factor)) for n in x.shape[2:]]
    top, left = (int(torch.randint(n - m + 1, ())) for n, m in zip(x.shape[2:], shape, strict=True))
    return _resized(x[..., top : top + shape[0], left : left + shape[1]], *size)


@torch.fx.wrap
def _pooled(maps: list[Tensor], pool: str) -> Tensor:
    size = maps[0].shape[2:]
    stack = torch.stack([maps[0], *(F.interpolate(x, size, mode="nearest-exact") for x in maps[1:])])
    return stack.amax(0) if pool == "max" else stack.logsumexp(0)


@torch.fx.wrap
def _pooled_pixels(maps: list[Tensor], pool: str) -> Tensor:
    stack = torch.stack([x.amax((-2, -1)) for x in maps])
    return stack.amax(0) if pool == "max" else stack.logsumexp(0)


def _ascending(scales: Sequence[float]) -> tuple[float, ...]:
    """The scales as a tuple of ascending positive numbers."""
    numbers = tuple(finite_number("scales", s) for s in entries("scales", scales))
    if not numbers or numbers[0] <= 0 or list(numbers) != sorted(set(numbers)):
        raise ValueError(f"`scales` is {tuple(scales)}; give ascending numbers > 0, such as (1, 1.41, 2, 2.83, 4).")
    return numbers
