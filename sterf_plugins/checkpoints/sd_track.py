"""Published checkpoints of SDTrack under our names."""

import re
from collections.abc import Mapping

from torch import Tensor

from .reading import state_dict_of
from .sdt_v3 import listing, rename_entries

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
    entries = state_dict_of(checkpoint["net"] if isinstance(checkpoint.get("net"), Mapping) else checkpoint)
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
        place = f"{2 * int(number) - 1}.{'conv' if layer in ('1', 'conv') else 'bn'}" if layer else "8"
        converted[f"head.branches.{_BRANCHES[branch]}.{place}.{what}"] = value
    if unknown or (is_tracker and not head):
        raise ValueError(listing("the checkpoint is no SDTrack; unknown keys", unknown or ["no entry of box_head"]))
    return converted


def _numbered(key: str) -> str:
    for named, numbered in _NUMBERED:
        key = re.sub(named, numbered, key)
    return key
