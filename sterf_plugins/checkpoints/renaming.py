"""What all conversions of published checkpoints share: renaming by rules, q, k and v in one layer, and what does not fit."""

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

Rules = Sequence[tuple[str, str]]  # a regular expression that fits a whole published key, and our name for it


def name_by(rules: Rules, key: str) -> str | None:
    """Our name of a published key, by the first rule that fits it; ``None`` if none does."""
    return next((re.sub(pattern, ours, key) for pattern, ours in rules if re.fullmatch(pattern, key)), None)


def join_qkv(entries: Mapping[str, Tensor], complete: Sequence[str] = ("qk", "qkv")) -> dict[str, Tensor]:
    """Concatenate the entries of the layers q, k and v of each attention into those of one layer, as we have it.

    Args:
        entries: under our names, such as ``stages.3.blocks.0.attn.q.conv.weight``.
        complete: which of the three layers an attention may have.

    Raises:
        ValueError: one of them is missing.
    """
    joined: dict[str, Tensor] = {}
    for key, value in entries.items():
        match = re.fullmatch(r"(.*\.attn\.)([qkv])(\.(?:conv|bn|conv_bn)\..*)", key)
        if match is None:
            joined[key] = value
            continue
        there = "".join(name for name in "qkv" if f"{match[1]}{name}{match[3]}" in entries)
        if there not in complete:
            raise ValueError(f"{match[1]}{{q,k,v}}{match[3]}: the checkpoint has {' and '.join(there)} alone.")
        parts = [entries[f"{match[1]}{name}{match[3]}"] for name in there]
        joined[f"{match[1]}{there}{match[3]}"] = value if value.ndim == 0 else torch.cat(parts)
    return joined


def count_of(pattern: str, keys: Iterable[str]) -> int:
    """How many parts are numbered from 0 on where a pattern, at the start of keys, finds the number; 0 without any."""
    return 1 + max((int(match[1]) for match in (re.match(pattern, key) for key in keys) if match), default=-1)


def classes_of(entries: Mapping[str, Tensor]) -> int:
    """Width of the classifier of entries under our names, 0 if there is none."""
    return entries["head.weight"].shape[0] if "head.weight" in entries else 0


def check_entries(converted: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Check that the entries have the names and shapes of the expected ones.

    Args:
        converted: entries of a checkpoint under our names.
        expected: the state dict of the model that they are for.
        what: the model's name in the error message.

    Raises:
        ValueError: entries are missing, unexpected or of another shape; the message lists them.
    """
    problems = [f"{k}: missing" for k in expected if k not in converted]
    problems += [f"{k}: not of this model" for k in converted if k not in expected]
    problems += [
        f"{k}: shape {tuple(converted[k].shape)}, expected {tuple(v.shape)}"
        for k, v in expected.items()
        if k in converted and converted[k].shape != v.shape
    ]
    if problems:
        raise ValueError(listing(f"the checkpoint does not fit a {what}", problems))


def listing(what: str, items: list[str], limit: int = 10) -> str:
    """An error message: ``what``, the number of items, and the first ``limit`` of them, one a line."""
    rest = f"\n  ... and {len(items) - limit} more" if len(items) > limit else ""
    return f"{what} ({len(items)}):\n  " + "\n  ".join(items[:limit]) + rest
