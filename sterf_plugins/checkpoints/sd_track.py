"""Published checkpoints of SDTrack under our names."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .reading import state_dict_of
from .renaming import count_of, listing
from .sdt_v3 import infer_architecture, rename_entries

# The variants with time name the layers of a branch, and the variant without numbers them, as SDT-V3's releases do.
_NUMBERED = [
    (r"((?:Conv|conv)\.(?:pwconv[12]|dwconv))\.(weight|bias)$", r"\1.0.\2"),
    (r"((?:Conv|conv))\.bn1\.", r"\1.pwconv1.1."),
    (r"((?:Conv|conv))\.bn2\.", r"\1.dwconv.1."),
    (r"((?:Conv|conv))\.bn3\.", r"\1.pwconv2.1."),
    (r"(attn\.(?:[qkv]|proj)_conv)\.(weight|bias)$", r"\1.0.\2"),
    (r"(attn\.(?:[qkv]|proj))_BN\.", r"\1_conv.1."),
]
_BRANCHES = {"ctr": "score", "offset": "offset", "size": "size"}
_HEAD = re.compile(
    r"conv([1-5])_(ctr|offset|size)\.(?:(1|conv|2|bn)\.)?(weight|bias|running_mean|running_var|num_batches_tracked)"
)
_WITHOUT_TIME, _WITH_TIME = ("1x4",), ("2x2", "4x1")


def entries_of(checkpoint: Mapping) -> dict[str, Any]:
    """The state dict in a tracker's checkpoint (``net``), or in any that ``state_dict_of`` knows."""
    return state_dict_of(checkpoint["net"] if isinstance(checkpoint.get("net"), Mapping) else checkpoint)


def is_published_tracker(checkpoint: Mapping) -> bool:
    """Whether a checkpoint is a published SDTrack, or the classifier from which one starts, under the authors' names.

    Such a classifier is an SDT-V3 without separable convolutions in its transformer blocks, or with neurons that keep a state.
    """
    keys = {key.removeprefix("backbone.") for key in entries_of(checkpoint)}
    is_sdt_v3 = any(re.match(r"block3\.\d+\.attn\.q_(?:conv|BN)\.", key) for key in keys)
    plain = not any(re.match(r"block3\.\d+\.conv\.", key) for key in keys)
    return any(key.startswith("box_head.") for key in keys) or (is_sdt_v3 and (plain or _names_layers(keys)))


def variants_of(checkpoint: Mapping) -> tuple[str, ...]:
    """The variants, such as "1x4", that a published checkpoint may be of, as far as it tells.

    The variants with time have the same entries; a tracker's settings name its config, which has the variant in its name.
    """
    possible = _WITH_TIME if _names_layers(entries_of(checkpoint)) else _WITHOUT_TIME
    config = str(getattr(checkpoint.get("settings"), "config_name", ""))
    return tuple(variant for variant in possible if variant in config) or possible


def _names_layers(keys: Any) -> bool:
    return any(re.search(r"attn\.q_BN\.", key) for key in keys)


def convert_tracker(checkpoint: Mapping) -> dict[str, Tensor]:
    """Rename a published SDTrack checkpoint to the names of ``tracking.SDTrack``.

    Args:
        checkpoint: as ``read_checkpoint`` returns it: a tracker (``net``), or a classifier (``model``), from whose weights a
            tracker starts. All three variants are understood.

    Returns:
        Entries of the backbone and, of a tracker, of the head.

    Raises:
        ValueError: an entry is unknown; the message lists them.
    """
    entries = entries_of(checkpoint)
    if any(key.startswith(("backbone.stages.", "stages.")) for key in entries):
        return entries
    is_tracker = any(key.startswith("backbone.") for key in entries)
    backbone = {_numbered(k.removeprefix("backbone.")): v for k, v in entries.items() if not k.startswith("box_head.")}
    head = {k.removeprefix("box_head."): v for k, v in entries.items() if k.startswith("box_head.")}
    converted = {f"backbone.{key}": value for key, value in rename_entries(backbone).items()}
    unknown = []
    for key, value in head.items():
        match = _HEAD.fullmatch(key)
        if match is None:
            unknown.append(f"box_head.{key}")
            continue
        number, branch, layer, what = match.groups()
        ours = f"{2 * int(number) - 1}.{'conv' if layer in ('1', 'conv') else 'bn'}" if layer else "8"
        converted[f"head.branches.{_BRANCHES[branch]}.{ours}.{what}"] = value
    if unknown or (is_tracker and not head):
        raise ValueError(listing("the checkpoint is no SDTrack; unknown keys", unknown or ["no entry of box_head"]))
    return converted


def tracker_architecture(converted: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read off converted entries the arguments of the ``tracking.SDTrack`` that they fit.

    The number of heads and the variant are not in them; ``num_heads`` is 1, which gives the right shapes.

    Raises:
        ValueError: an entry that every SDTrack has is missing.
    """
    backbone = {k.removeprefix("backbone."): v for k, v in converted.items() if k.startswith("backbone.")}
    found = infer_architecture(backbone)
    depths = [count_of(rf"stages\.{i}\.blocks\.(\d+)\.", backbone) for i in range(5)]
    width = converted.get("head.branches.score.1.conv.weight")
    return dict(
        arch=dict(embed_dims=found["arch"]["embed_dims"], num_heads=1, depths=depths),
        **{key: found[key] for key in ("mixer", "ratio", "norm_hidden", "layout") if key in found},
        sep_conv="stages.3.blocks.0.sep_conv.dw.conv.weight" in backbone,
        **({} if width is None else dict(head_width=len(width))),
    )


def _numbered(key: str) -> str:
    for named, numbered in _NUMBERED:
        key = re.sub(named, numbered, key)
    return key
