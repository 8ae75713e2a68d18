"""Adapt a stock neck and heads to the channels and strides of another backbone, where these are all that they depend on."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import MODELS

from ..backbones.timm_backbone import feature_levels
from .stock_interface import StockInterface
from .types import dicts_in, type_name

NECKS = ("FPN", "PAFPN", "ChannelMapper")
# Parts of a model in which every stride is in the config; others have factors between levels in their code.
HEADS = ("rpn_head", "bbox_head", "roi_head", "decode_head", "auxiliary_head", "track_head")


class NotExact(ValueError):
    """A config that cannot be adapted exactly; the message says why."""


@dataclass(frozen=True)
class Pyramid:
    """Feature levels of a timm model that a neck or a head takes.

    Attributes:
        indices: which of the model's feature levels they are, counted as in ``out_indices``.
        channels: channels of each level.
        strides: stride of each level, in pixels of the image.
    """

    indices: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]


def pyramid(model_name: str, levels: int = 4) -> Pyramid:
    """The last ``levels`` feature levels of a timm model, found without allocating its weights.

    Two kinds of model give fewer: one with the strides 4, 8 and 16 gives these three levels, and a plain transformer,
    whose levels all have stride 16, gives the last one.

    Raises:
        ValueError: timm does not know the model, or it has no feature levels.
        NotExact: the model has no levels of growing stride.
    """
    info = feature_levels(model_name)
    strides = [int(level["reduction"]) for level in info]
    if len(set(strides)) == 1 and strides[0] == 16:  # a plain transformer: SimpleFPN needs its last map
        return Pyramid((len(info) - 1,), (int(info[-1]["num_chs"]),), (16,))
    if strides == [4, 8, 16]:  # the neck makes the coarser ones
        levels = min(levels, 3)
    if len(info) < levels or len(set(strides)) == 1 or strides != sorted(strides):
        raise NotExact(
            f"{model_name} has feature levels with strides {strides}; a stock neck needs {levels} levels of growing "
            f"stride, or all of stride 16 for a simple feature pyramid."
        )
    first = len(info) - levels
    channels = tuple(int(level["num_chs"]) for level in info[first:])
    return Pyramid(tuple(range(first, len(info))), channels, tuple(strides[first:]))


def adapt_exactly(whole: ConfigDict, model: ConfigDict, stock: StockInterface, model_name: str, scope: str) -> Pyramid:
    """Put a timm model into the config of a detector or segmentor, and set all that depends on its channels and strides.

    These are the input channels of the neck (of the decode heads, if there is no neck), and the strides of anchor
    generators, point heads, RoI extractors and FPN decode heads. Anchors keep their stock sizes in pixels, which are
    written to ``base_sizes``. FCOS's ``regress_ranges`` are left as they are, one for each level.

    Args:
        whole: the config of the whole model, changed in place.
        model: the part of it that has the backbone: the whole, or the detector of a tracker or a semi-supervised training.
        stock: what the config's own backbone gives.
        model_name: any timm name, this package's included.
        scope: mmengine's default scope of the config, "mmdet" or "mmseg".

    Raises:
        NotExact: something else depends on the backbone. The config may be half changed then.
    """
    neck = model.get("neck")
    if neck and (isinstance(neck, (list, tuple)) or type_name(neck) not in NECKS):
        kinds = neck if isinstance(neck, (list, tuple)) else [neck]
        raise NotExact(f"the neck is {', '.join(map(type_name, kinds))}, not {', '.join(NECKS[:-1])} or {NECKS[-1]}")
    heads = decode_heads(model)
    if not neck and not heads:
        raise NotExact("there is no neck and no decode head that names its input levels")
    if not stock.is_pyramid:
        raise NotExact("the stock backbone gives more than one map of each level, from fine to coarse")
    levels = len(stock.levels)
    if neck and len(neck.in_channels) != levels:
        raise NotExact(f"the neck takes {len(neck.in_channels)} levels and the stock backbone gives {levels}")
    new = pyramid(model_name, levels)
    old_strides = [level.stride for level in stock.levels]
    same = list(new.strides) == old_strides
    if len(new.indices) < levels and (type_name(neck) != "FPN" or neck.get("start_level")):
        raise NotExact(
            f"{model_name} has {len(new.indices)} feature level(s), and only an FPN from level 0 makes up for the others"
        )
    if len(new.indices) == 1 < levels and (old_strides != [4, 8, 16, 32] or neck.num_outs < 4):
        raise NotExact(
            f"SimpleFPN makes at least the strides 4, 8, 16 and 32, and the config's neck makes {neck.num_outs} maps of "
            f"strides {old_strides}"
        )
    _check_fixed_factors(whole, model, neck, same)
    model.backbone = ConfigDict(
        type="sterf_plugins.TIMMBackbone", model_name=model_name, out_indices=list(new.indices), pretrained=False
    )
    if len(new.indices) == 1 < levels:
        model.neck = ConfigDict(
            type="sterf_plugins.SimpleFPN",
            in_channels=new.channels[0],
            out_channels=neck.out_channels,
            num_outs=neck.num_outs,
        )
        return new  # SimpleFPN gives the stock strides, so nothing else changes
    if neck:
        neck.in_channels = list(new.channels)
    else:
        if new.strides[0] != old_strides[0]:
            raise NotExact(
                f"the heads take a map of stride {old_strides[0]}, and {model_name} would give {new.strides[0]}"
            )
        for head in heads:
            _set_head_channels(head, new)
    if not same:
        parts = {name: part for holder in (model, whole) for name in HEADS if (part := holder.get(name))}
        _write_down_strides(list(parts.values()), scope)
        _set_strides(parts, neck, old_strides, new)
    return new


def decode_heads(model: ConfigDict) -> list[ConfigDict]:
    """The decode head and the auxiliary heads of a segmentor, as one list."""
    heads: list[ConfigDict] = []
    for name in ("decode_head", "auxiliary_head"):
        value = model.get(name)
        heads += value if isinstance(value, (list, tuple)) else [value] if value else []
    return heads


def _check_fixed_factors(whole: ConfigDict, model: ConfigDict, neck: ConfigDict | None, same_strides: bool) -> None:
    """Raise ``NotExact`` if the strides change and the code of the neck or of a head has factors between levels.

    So has a teacher's detector, whose maps are compared with those of the student.
    """
    heads = [name for holder in (model, whole) for name in holder if name.endswith("_head") and holder[name]]
    others = [name for name in dict.fromkeys(heads) if name not in HEADS]
    others += [name for name in ("teacher_config",) if model.get(name)]
    if neck and type_name(neck) == "PAFPN":
        others.append("neck")
    if others and not same_strides:
        raise NotExact(f"{', '.join(others)} takes the stock strides for granted")


def _set_head_channels(head: ConfigDict, new: Pyramid) -> None:
    """Set the input channels of a decode head that takes the backbone's levels directly.

    Raises:
        NotExact: the head does not name its levels, or has other settings that depend on their channels.
    """
    index, channels = head.get("in_index", -1), head.get("in_channels")
    others = {key for key in _keys(head) if key.endswith("in_channels")} - {"in_channels"}
    several = isinstance(channels, (list, tuple))
    if (
        others
        or channels is None
        or several != isinstance(index, (list, tuple))
        or _keys(head).count("in_channels") > 1
    ):
        raise NotExact(f"{type_name(head)} depends on channels of the backbone in more than one place")
    head.in_channels = [new.channels[i] for i in index] if several else new.channels[index]


def _keys(node: Any) -> list[str]:
    """All keys of a config, with those of the dicts inside it."""
    return [key for part in dicts_in(node) for key in part]


def _write_down_strides(node: Any, scope: str) -> None:
    """Write strides that are defaults of a head's class, such as those of VFNet's anchors, into its config, in place."""
    for part in dicts_in(node):
        with MODELS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(part["type"]) if isinstance(part.get("type"), str) else part.get("type")
        for owner in getattr(kind, "__mro__", ()):
            parameters = signature(owner.__init__).parameters if "__init__" in vars(owner) else {}
            found = {
                name: p.default for name, p in parameters.items() if any(map(_is_strides, _keys({name: p.default})))
            }
            for name, default in found.items():
                if default is not Parameter.empty:
                    part.setdefault(name, ConfigDict(copy.deepcopy({name: default}))[name])
            if found:  # its own strides take the place of those of its base classes
                break


def _is_strides(key: str) -> bool:
    """Whether the value of a key in a config is a list of strides, as of ``strides`` and ``featmap_strides``."""
    return key.endswith("strides")


def _set_strides(parts: Mapping[str, Any], neck: ConfigDict | None, old: list[int], new: Pyramid) -> None:
    """Replace the stock strides by the new backbone's in every list of strides in the configs of heads, given by name.

    Raises:
        NotExact: a list does not start with the strides of the stock pyramid.
    """
    start = neck.get("start_level", 0) if neck else 0
    actual = list(new.strides[start:])
    stock = old[start:]

    def true_strides(strides: Sequence[int], where: str) -> list[int]:
        strides = list(strides)
        shared = min(len(strides), len(stock), len(actual))
        if strides[:shared] != stock[:shared]:
            raise NotExact(f"{where} has strides {strides}, which do not start like the stock pyramid {stock}")
        result = actual[:shared]
        while len(result) < len(strides):  # extra levels of the neck halve the last one
            result.append(result[-1] * 2)
        return result

    def walk(node: Any, where: str) -> None:
        if isinstance(node, (list, tuple)):
            for i, item in enumerate(node):
                walk(item, f"{where}[{i}]")
            return
        if not isinstance(node, dict):
            return
        for key in list(node):
            value = node[key]
            if _is_strides(key) and isinstance(value, (list, tuple)) and len(value) > 1:
                if key == "strides" and type_name(node).endswith("AnchorGenerator"):
                    node.setdefault("base_sizes", [min(s) if isinstance(s, (list, tuple)) else s for s in value])
                node[key] = true_strides(value, f"{where}.{key}")
            else:
                walk(value, f"{where}.{key}")

    for name, part in parts.items():
        walk(part, f"model.{name}")
