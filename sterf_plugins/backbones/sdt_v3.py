"""SDT-V3 with a choice of channel mixers: 3x3 convolution, MLPixer or SRB.

Papers: SDT-V3, arXiv:2411.16061; MLPixer and SRB, arXiv:2510.21403. What differs from the authors' releases: the true
pyramid strides are reported (4, 8, 16, 16), the spike function is the same in train and eval mode, and the attention
multiplies in the order that is linear in the tokens. ``convert_state_dict`` makes published weights fit. Written from
descriptions; no code was copied.

There is no time axis: ``levels`` (D) is the number of integer spike levels, which the papers' tables list as "T".
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from .. import plugins
from ..checks import check_images, entries, finite_number, flag, fraction, one_of, positive_int
from ..functional import LAYOUTS
from ..functional.strides import channels_last
from ..layers import Downsample, IntegerSpike, MixerBlock, TransformerBlock
from ..layers.drop_path import drop_path_rates
from ..undisturbed import undisturbed
from .base import Stage, StagedBackbone

ARCHITECTURES: dict[str, dict] = {
    "nano": dict(embed_dims=(24, 48, 96, 128), num_heads=8),
    "tiny": dict(embed_dims=(32, 64, 128, 192), num_heads=8),
    "medium": dict(embed_dims=(48, 96, 192, 240), num_heads=8),
    "base": dict(embed_dims=(64, 128, 256, 360), num_heads=8),
}
# Blocks of each stage: mixer blocks in stages 0-2, transformer blocks in stages 3-4.
DEPTHS = (1, 1, 2, 6, 2)
MIXER_STAGES = 3
STRIDES = (2, 4, 8, 16, 16)


class SDTV3(StagedBackbone):
    """Spike-driven transformer V3: images (B, in_chans, H, W) of any size in, feature maps or logits out.

    With ``num_classes=0`` the output is a tuple of feature maps (B, C_i, H_i, W_i), one for each i in ``out_indices``.
    They are the real-valued residual streams after the stages; feature level 0 has stride 2, level 1 has 4, level 2 has
    8, levels 3 and 4 have 16, and sizes are rounded up. Otherwise the output is logits (B, num_classes).

    Args:
        arch: "nano", "tiny", "medium", "base", or a dict with ``embed_dims`` (four ints, the first even) and
            ``num_heads``, and ``depths`` if the five stages have other numbers of blocks than 1, 1, 2, 6, 2.
        mixer: channel mixer of stages 0-2: "conv", "mlpixer", "srb" or any name of the entry-point group
            ``sterf_plugins.mixers``; a dict with ``type`` and options; or a factory ``mixer(dim, ratio, **options)``.
        ratio: expansion of the mixers *and* of the transformers' MLPs, as published.
        levels: D, the largest count that a neuron can send.
        layout: token layout of MLPixer and SRB. "channel" is a per-pixel MLP, as the paper writes. "raster" is what the
            released code computes; it groups raster neighbours instead of channels, and it is not resolution-consistent.
        norm_hidden: BN after the first Linear of MLPixer and SRB, as in the paper's formula. Released checkpoints have
            none; a network that is trained without it has mixers that never fire.
        layer_scale: initial value of a learned factor for each channel of each transformer branch; ``None`` for no
            factors.
        attn_factor: factor of the attention's scale, attn_factor / sqrt(channels per head); 2 in the released models.
        drop_rate: dropout in MLPixer and SRB (0.2 in the released detectors and segmentors), and in front of the linear
            head.
        drop_path_rate: stochastic depth: probability that a sample does without a branch of the last block in training;
            it grows linearly over the blocks from 0.
        sep_conv: whether the transformer blocks have a separable convolution; the tracker SDTrack's have none.
        stem: first layer: a name of the entry-point group ``sterf_plugins.stems``; a dict with ``type`` and options; or
            a factory ``stem(in_chans, embed_dim, stride, **options)``. It is run once, to see that its stride is 2.
        in_chans: number of image channels.
        out_indices: feature levels to return when ``num_classes`` is 0.
        num_classes: 0 for feature maps, otherwise the width of a linear head, which gets the last map's mean over
            pixels as integer spikes.
        memory_efficient: keep only the results of convolutions and matrix products for the backward pass, and compute
            norms and spikes again there; this takes less memory and gives the same numbers.

    Raises:
        TypeError, ValueError: an argument is out of range; the message names it and what is allowed.
    """

    def __init__(
        self,
        arch: str | Mapping = "tiny",
        mixer: str | Mapping | Callable = "conv",
        ratio: int = 4,
        levels: int = 4,
        layout: str = "channel",
        norm_hidden: bool = True,
        layer_scale: float | None = None,
        attn_factor: float = 2.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        sep_conv: bool = True,
        stem: str | Mapping | Callable = "conv",
        in_chans: int = 3,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int = 0,
        memory_efficient: bool = False,
    ):
        dims, num_heads, depths = _architecture(arch)
        ratio, levels = positive_int("ratio", ratio), positive_int("levels", levels)
        attn_factor = finite_number("attn_factor", attn_factor)
        layer_scale = None if layer_scale is None else finite_number("layer_scale", layer_scale)
        one_of("layout", layout, LAYOUTS)
        for name, value in dict(norm_hidden=norm_hidden, sep_conv=sep_conv, memory_efficient=memory_efficient).items():
            flag(name, value)
        options = dict(levels=levels, layout=layout, norm_hidden=norm_hidden, drop=fraction("drop_rate", drop_rate))
        make_mixer = plugins.resolve("mixers", mixer, **options)
        # A ratio in the dict ``mixer`` stands above the network's; it is passed by position below.
        mixer_ratio = make_mixer.keywords.pop("ratio", ratio)
        make_stem = plugins.resolve("stems", stem)

        in_chans = positive_int("in_chans", in_chans)
        stage_dims = (dims[0] // 2, *dims)
        stages: list[nn.Module] = []
        previous_dim = in_chans
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        for i, (dim, depth) in enumerate(zip(stage_dims, depths, strict=True)):
            stride = STRIDES[i] // (STRIDES[i - 1] if i else 1)
            down = Downsample(previous_dim, dim, stride, levels) if i else make_stem(previous_dim, dim, stride)
            if not i:
                _check_maps(down, previous_dim, dim, stride)
            blocks: list[nn.Module]
            if i < MIXER_STAGES:
                blocks = [MixerBlock(dim, make_mixer(dim, mixer_ratio), levels, next(rates)) for _ in range(depth)]
            else:
                arguments = (dim, num_heads, ratio, levels, attn_factor, layer_scale)
                blocks = [TransformerBlock(*arguments, next(rates), sep_conv) for _ in range(depth)]
            stages.append(Stage(down, blocks))
            previous_dim = dim
        super().__init__(stages, stage_dims, STRIDES, in_chans, out_indices)
        self.levels, self.layout, self.memory_efficient = levels, layout, memory_efficient
        self.head_spike = IntegerSpike(levels, norm=1)
        self.head_drop = nn.Dropout(drop_rate)
        self.set_num_classes(num_classes)

    def enter(self, x: Tensor) -> Tensor:
        """Check the images and turn them channels-last.

        After this one conversion every convolution and elementwise pass below runs channels-last, which is 1.7 times as
        fast on a CPU as NCHW. Shapes and values are the same.

        Raises:
            ValueError: the input is not (B, in_chans, H, W).
        """
        return _images(x, self.in_chans)

    def classify(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) of the last stage's output (B, C, H, W): mean over pixels, integer spikes, linear."""
        return self.head(self.head_drop(self.head_spike(x.mean((-2, -1)))))


@torch.no_grad()
def _check_maps(stem: nn.Module, in_chans: int, dim: int, stride: int) -> None:
    """Raise ``ValueError`` unless a stem gives the maps that it was asked for; one on the meta device is not run."""
    like = next(stem.parameters(), torch.empty(0))
    if like.is_meta:
        return
    height, width = 65, 50  # no multiples of most strides
    with undisturbed(stem):
        y = stem(like.new_zeros(1, in_chans, height, width))
    expected = (1, dim, -(-height // stride), -(-width // stride))
    if not isinstance(y, Tensor) or tuple(y.shape) != expected:
        made = tuple(y.shape) if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise ValueError(
            f"`stem` ({type(stem).__name__}), built for {in_chans} image channels, embed_dim={dim} and stride={stride}, makes "
            f"{made} of an image (1, {in_chans}, {height}, {width}), and the backbone takes {expected}: a stem gives maps of "
            f"ceil(size / stride), of the stride that it is called with."
        )


@torch.fx.wrap  # one step of a traced model, since it looks at the shape
def _images(x: Tensor, in_chans: int) -> Tensor:
    check_images(x, in_chans)
    return channels_last(x)


def _architecture(arch: str | Mapping) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """The checked ``embed_dims``, ``num_heads`` and ``depths`` of a named or described architecture."""
    if isinstance(arch, str):
        one_of("arch", arch, ARCHITECTURES, "Or give dict(embed_dims=[32, 64, 128, 192], num_heads=8).")
        arch = ARCHITECTURES[arch]
    elif not isinstance(arch, Mapping):
        raise TypeError(
            f"`arch` is {arch!r} ({type(arch).__name__}); it must be one of {', '.join(map(repr, ARCHITECTURES))}, or a dict."
        )
    if set(arch) - {"depths"} != {"embed_dims", "num_heads"}:
        raise ValueError(
            f"`arch` has {', '.join(map(repr, arch)) or 'nothing'}; as a dict it has exactly `embed_dims` (four ints) and "
            f"`num_heads`, and `depths` (five ints) where those differ from {DEPTHS}."
        )
    dims = tuple(positive_int("arch['embed_dims']", d) for d in entries("arch['embed_dims']", arch["embed_dims"]))
    heads = positive_int("arch['num_heads']", arch["num_heads"])
    if len(dims) != 4 or dims[0] % 2:
        raise ValueError(f"`arch['embed_dims']` is {dims}; it must be four ints, the first even.")
    if dims[2] % heads or dims[3] % heads:
        raise ValueError(f"`arch['num_heads']` (={heads}) must divide the last two embed_dims {dims[2:]}.")
    depths = entries("arch['depths']", arch.get("depths", DEPTHS))
    depths = tuple(positive_int("arch['depths']", d) for d in depths)
    if len(depths) != len(DEPTHS):
        raise ValueError(f"`arch['depths']` is {depths}; it must be {len(DEPTHS)} ints, one for each stage.")
    return dims, heads, depths
