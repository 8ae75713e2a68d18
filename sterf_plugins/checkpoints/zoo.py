"""Published checkpoints of Spikformer, SDT-V1, Meta-SDT, QKFormer and Max-Former under our parameter names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..backbones.max_former import MaxFormer
from ..backbones.meta_sdt import MetaSDT
from ..backbones.qkformer import QKFormer
from ..backbones.sdt_v1 import SDTV1
from ..backbones.spikformer import Spikformer
from .renaming import Rules, classes_of, count_of, join_qkv, name_by

Entries = Mapping[str, Tensor]


@dataclass(frozen=True)
class Family:
    """How the releases of one model name their parameters.

    Attributes:
        name: the model's name in messages.
        matches: a function that says whether entries are of this family, be it under the published names or ours.
        rules: pairs of a regular expression that fits the whole published key, and our name for it; the first pair
            that fits counts.
        unused: regular expression of the published keys of layers that no forward pass uses.
        arguments: a function that reads the constructor arguments off converted entries. The number of heads is in no
            checkpoint; 1 stands for it, which gives the right shapes.
        build: the model's class.
    """

    name: str
    matches: Callable[[Entries], bool]
    rules: Rules
    unused: str
    arguments: Callable[[Entries], dict]
    build: Callable[..., nn.Module]


def find_family(entries: Entries) -> Family | None:
    """The family whose published names, or whose names here, the entries have; ``None`` if there is none."""
    return next((family for family in FAMILIES if family.matches(entries)), None)


def rename_zoo(entries: Entries, family: Family) -> tuple[dict[str, Tensor], list[str]]:
    """Rename entries of a family and join q, k and v, which are one layer here.

    Returns:
        The entries under our names, and the keys that fit no rule.

    Raises:
        ValueError: there is a ``k`` or ``v`` without a ``q``, or a ``q`` alone.
    """
    renamed, unknown = {}, []
    for key, value in entries.items():
        if re.fullmatch(family.unused, key):
            continue
        if key.startswith("head."):
            renamed[key] = value
            continue
        name = name_by(family.rules, key)
        if name is None:
            unknown.append(key)
            continue
        # Convolutions over tokens are 1x1 convolutions over maps here.
        renamed[name] = value.unsqueeze(-1) if value.ndim == 3 else value
    return join_qkv(renamed), unknown


def _has(pattern: str) -> Callable[[Entries], bool]:
    """A function that says whether any key of some entries starts with the pattern."""
    return lambda entries: any(re.match(pattern, key) for key in entries)


def _plain_arguments(position: str, first_conv: str, first_mlp: str) -> Callable[[Entries], dict]:
    """A reader of the arguments of Spikformer or SDT-V1, given the keys of the three weights whose shapes tell them."""

    def arguments(entries: Entries) -> dict:
        dim = entries[position].shape[0]
        return dict(
            depth=count_of(r"stages\.(\d+)\.", entries),  # a block is a stage
            dim=dim,
            num_heads=1,
            ratio=entries[first_mlp].shape[0] // dim,
            in_chans=entries[first_conv].shape[1],
            num_classes=classes_of(entries),
        )

    return arguments


def _pyramid_arguments(last: str, first_conv: str, first_mlp: str) -> Callable[[Entries], dict]:
    """A reader of the arguments of QKFormer or Max-Former, given the keys of the three weights whose shapes tell them."""

    def arguments(entries: Entries) -> dict:
        dim = entries[last].shape[0]
        return dict(
            depth=3 + count_of(r"stages\.2\.blocks\.(\d+)\.", entries),  # the first two stages have one block and two
            dim=dim,
            num_heads=1,
            ratio=entries[first_mlp].shape[0] // dim,
            in_chans=entries[first_conv].shape[1],
            num_classes=classes_of(entries),
        )

    return arguments


def _meta_arguments(entries: Entries) -> dict:
    dims = [entries[f"stages.{i}.downsample.conv_bn.conv.weight"].shape[0] for i in range(1, 5)]
    return dict(
        embed_dims=dims,
        num_heads=1,
        ratio=entries["stages.3.blocks.0.mlp.fc1.conv.weight"].shape[0] // dims[2],
        in_chans=entries["stages.0.downsample.conv_bn.conv.weight"].shape[1],
        num_classes=classes_of(entries),
    )


_STEM = r"stages.0.downsample."
_NOTHING = r"(?!)"  # a pattern that fits no key
# published module of Meta-SDT -> ours
_META_STAGES = {
    "downsample1_1": "stages.0.downsample",
    "downsample1_2": "stages.1.downsample",
    "downsample2": "stages.2.downsample",
    "downsample3": "stages.3.downsample",
    "downsample4": "stages.4.downsample",
    "ConvBlock1_1.0": "stages.0.blocks.0",
    "ConvBlock1_2.0": "stages.1.blocks.0",
    "ConvBlock2_1.0": "stages.2.blocks.0",
    "ConvBlock2_2.0": "stages.2.blocks.1",
}


def _meta_rules() -> Rules:
    rules = []
    for theirs, ours in _META_STAGES.items():
        prefix = re.escape(theirs) + r"\."
        if "downsample" in theirs:
            rules.append((prefix + r"encode_(conv|bn)\.(.*)", rf"{ours}.conv_bn.\1.\2"))
            continue
        rules += [
            (prefix + r"Conv\.pwconv([12])\.(.*)", rf"{ours}.sep_conv.pw\1.conv.\2"),
            (prefix + r"Conv\.bn([12])\.(.*)", rf"{ours}.sep_conv.pw\1.bn.\2"),
            (prefix + r"Conv\.dwconv\.(.*)", rf"{ours}.sep_conv.dw.\1"),
            (prefix + r"(conv|bn)([12])\.(.*)", rf"{ours}.conv\2.\1.\3"),
        ]
    for stage in (3, 4):
        block, ours = rf"block{stage}\.(\d+)\.", rf"stages.{stage}.blocks.\1."
        rep = block + r"attn\.(q|k|v|proj)_conv\."
        rules += [
            (rep + r"0\.body\.0\.(.*)", rf"{ours}attn.\2.conv1.\3"),
            (rep + r"0\.body\.1\.bn\.(.*)", rf"{ours}attn.\2.bn1.bn.\3"),
            (rep + r"0\.body\.2\.0\.(.*)", rf"{ours}attn.\2.dw.\3"),
            (rep + r"0\.body\.2\.1\.(.*)", rf"{ours}attn.\2.pw.conv.\3"),
            (rep + r"0\.body\.2\.2\.(.*)", rf"{ours}attn.\2.pw.bn.\3"),
            (rep + r"1\.(.*)", rf"{ours}attn.\2.bn2.\3"),
            (block + r"mlp\.fc([12])_(conv|bn)\.(.*)", rf"{ours}mlp.fc\2.\3.\4"),
        ]
    return rules


# The first family that matches counts. Max-Former stands before QKFormer, and SDT-V1 before Spikformer, whose tests they
# would pass as well. Most names of the latter two agree, but q is a convolution over maps (a weight of 4 axes) in SDT-V1,
# and over tokens (3 axes) in Spikformer.
FAMILIES = (
    Family(
        "Max-Former",
        _has(r"patch_embed1\.embed1\.|stages\.0\.blocks\.\d+\.attn\.dw\."),
        (
            *(
                (rf"patch_embed1\.{theirs}\.embed_(conv|bn)\.(.*)", _STEM + rf"{ours}.\1.\2")
                for theirs, ours in (
                    ("embed1", "conv1.conv_bn"),
                    ("embed2", "conv2.conv_bn"),
                    ("embed3", "conv3"),
                    ("embed4", "shortcut"),
                )
            ),
            *(
                (rf"patch_embed{n + 1}\.{theirs}\.embed_(conv|bn)\.(.*)", rf"stages.{n}.downsample.{ours}.\1.\2")
                for n in (1, 2)
                for theirs, ours in (("max_embed1", "conv1.conv_bn"), ("embed1", "conv2"), ("max_embed2", "shortcut"))
            ),
            (r"stage1\.(\d+)\.mixer\.conv5\.(.*)", r"stages.0.blocks.\1.attn.dw.conv.\2"),
            (r"stage1\.(\d+)\.mixer\.conv5_bn\.(.*)", r"stages.0.blocks.\1.attn.dw.bn.\2"),
            (r"stage2\.(\d+)\.mixer\.conv\.(.*)", r"stages.1.blocks.\1.attn.dw.conv.\2"),
            (r"stage2\.(\d+)\.mixer\.conv_bn\.(.*)", r"stages.1.blocks.\1.attn.dw.bn.\2"),
            (r"stage3\.(\d+)\.attn\.([qkv])_(conv|bn)\.(.*)", r"stages.2.blocks.\1.attn.\2.conv_bn.\3.\4"),
            (r"stage3\.(\d+)\.attn\.proj_(conv|bn)\.(.*)", r"stages.2.blocks.\1.attn.proj.\2.\3"),
            *(
                (rf"stage{n + 1}\.(\d+)\.mlp\.fc([12])_(conv|bn)\.(.*)", rf"stages.{n}.blocks.\1.mlp.fc\2.\3.\4")
                for n in (0, 1, 2)
            ),
        ),
        _NOTHING,
        _pyramid_arguments(
            "stages.2.downsample.conv2.conv.weight",
            _STEM + "conv1.conv_bn.conv.weight",
            "stages.2.blocks.0.mlp.fc1.conv.weight",
        ),
        MaxFormer,
    ),
    Family(
        "QKFormer",
        _has(r"patch_embed1\.|stages\.0\.downsample\.conv1\."),
        (
            (r"patch_embed1\.proj_(conv|bn)\.(.*)", _STEM + r"conv1.conv_bn.\1.\2"),
            (r"patch_embed1\.proj1_(conv|bn)\.(.*)", _STEM + r"conv2.conv_bn.\1.\2"),
            (r"patch_embed1\.proj2_(conv|bn)\.(.*)", _STEM + r"conv3.conv_bn.\1.\2"),
            (r"patch_embed1\.proj_res_(conv|bn)\.(.*)", _STEM + r"shortcut.conv_bn.\1.\2"),
            *(
                (rf"patch_embed{n + 1}\.{theirs}_(conv|bn)\.(.*)", rf"stages.{n}.downsample.{ours}.conv_bn.\1.\2")
                for n in (1, 2)
                for theirs, ours in (("proj3?", "conv1"), ("proj4", "conv2"), ("proj_res", "shortcut"))
            ),
            *(
                rule
                for n in (0, 1, 2)
                for rule in (
                    (
                        rf"stage{n + 1}\.(\d+)\.(?:tssa|attn)\.(q|k|v|proj)_(conv|bn)\.(.*)",
                        rf"stages.{n}.blocks.\1.attn.\2.conv_bn.\3.\4",
                    ),
                    (
                        rf"stage{n + 1}\.(\d+)\.mlp\.(?:mlp|fc)([12])_(conv|bn)\.(.*)",
                        rf"stages.{n}.blocks.\1.mlp.fc\2.conv_bn.\3.\4",
                    ),
                )
            ),
        ),
        _NOTHING,
        _pyramid_arguments(
            "stages.2.downsample.conv2.conv_bn.conv.weight",
            _STEM + "conv1.conv_bn.conv.weight",
            "stages.2.blocks.0.mlp.fc1.conv_bn.conv.weight",
        ),
        QKFormer,
    ),
    Family(
        "Meta-SDT",
        _has(r"block3\.\d+\.attn\.q_conv\.0\.body\.|stages\.3\.blocks\.\d+\.attn\.q\.conv1\."),
        _meta_rules(),
        _NOTHING,
        _meta_arguments,
        MetaSDT,
    ),
    Family(
        "SDT-V1",
        lambda e: (
            _has(r"stages\.0\.downsample\.last\.")(e)
            or ("patch_embed.rpe_conv.weight" in e and getattr(e.get("block.0.attn.q_conv.weight"), "ndim", 0) == 4)
        ),
        (
            (r"patch_embed\.proj_(conv|bn)\.(.*)", _STEM + r"convs.0.conv_bn.\1.\2"),
            (r"patch_embed\.proj_(conv|bn)([12])\.(.*)", _STEM + r"convs.\2.conv_bn.\1.\3"),
            (r"patch_embed\.proj_(conv|bn)3\.(.*)", _STEM + r"last.\1.\2"),
            (r"patch_embed\.rpe_(conv|bn)\.(.*)", _STEM + r"position.\1.\2"),
            (r"block\.(\d+)\.attn\.([qkv])_(conv|bn)\.(.*)", r"stages.\1.blocks.0.attn.\2.conv_bn.\3.\4"),
            (r"block\.(\d+)\.attn\.proj_(conv|bn)\.(.*)", r"stages.\1.blocks.0.attn.proj.\2.\3"),
            (r"block\.(\d+)\.mlp\.fc([12])_(conv|bn)\.(.*)", r"stages.\1.blocks.0.mlp.fc\2.\3.\4"),
        ),
        r"block\.\d+\.attn\.talking_heads\.weight",
        _plain_arguments(
            _STEM + "position.conv.weight",
            _STEM + "convs.0.conv_bn.conv.weight",
            "stages.0.blocks.0.mlp.fc1.conv.weight",
        ),
        SDTV1,
    ),
    Family(
        "Spikformer",
        _has(r"patch_embed\.rpe_conv\.weight|stages\.0\.downsample\.position\.conv_bn\."),
        (
            (r"patch_embed\.proj_(conv|bn)\.(.*)", _STEM + r"convs.0.conv_bn.\1.\2"),
            (r"patch_embed\.proj_(conv|bn)([123])\.(.*)", _STEM + r"convs.\2.conv_bn.\1.\3"),
            (r"patch_embed\.rpe_(conv|bn)\.(.*)", _STEM + r"position.conv_bn.\1.\2"),
            (r"block\.(\d+)\.attn\.(q|k|v|proj)_(conv|bn)\.(.*)", r"stages.\1.blocks.0.attn.\2.conv_bn.\3.\4"),
            (r"block\.(\d+)\.mlp\.fc([12])_(conv|bn)\.(.*)", r"stages.\1.blocks.0.mlp.fc\2.conv_bn.\3.\4"),
        ),
        r"block\.\d+\.norm[12]\.(weight|bias)",
        _plain_arguments(
            _STEM + "position.conv_bn.conv.weight",
            _STEM + "convs.0.conv_bn.conv.weight",
            "stages.0.blocks.0.mlp.fc1.conv_bn.conv.weight",
        ),
        Spikformer,
    ),
)
