"""Put another backbone or stem into a stock config, and adapt the settings of neck and heads that depend on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from mmengine.config import Config, ConfigDict

from ... import plugins
from ..backbones.timm_backbone import check_model_name
from .types import type_name

NECKS = ("FPN", "PAFPN", "ChannelMapper")


@dataclass(frozen=True)
class Pyramid:
    """Feature levels of a timm model that a neck or a head takes.

    Attributes:
        model_name: timm's name of the model.
        indices: which of the model's feature levels they are, counted as in ``out_indices``.
        channels: channels of each level.
        strides: stride of each level, in pixels of the image.
    """

    model_name: str
    indices: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]


def pyramid(model_name: str, levels: int = 4) -> Pyramid:
    """The last ``levels`` feature levels of a timm model, found without allocating its weights.

    Two kinds of model give fewer: one with the strides 4, 8 and 16 gives these three levels, and a plain transformer,
    whose levels all have stride 16, gives the last one.

    Raises:
        ValueError: timm does not know the model, or the model has no feature maps or no levels of growing stride.
    """
    check_model_name(model_name)
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(model_name, features_only=True)
            info = model.feature_info.info
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        raise ValueError(f"--backbone {model_name}: timm gives no feature maps of it ({error}).") from error
    strides = [int(level["reduction"]) for level in info]
    if len(set(strides)) == 1 and strides[0] == 16:  # a plain transformer: SimpleFPN needs its last map
        return Pyramid(model_name, (len(info) - 1,), (int(info[-1]["num_chs"]),), (16,))
    if strides == [4, 8, 16]:  # the neck makes the coarser ones
        levels = 3
    if len(info) < levels or len(set(strides)) == 1 or strides != sorted(strides):
        raise ValueError(
            f"--backbone {model_name}: its feature levels have strides {strides}; a stock neck needs {levels} levels "
            f"of growing stride, or all of stride 16 for a simple feature pyramid."
        )
    first = len(info) - levels
    chosen = info[first:]
    return Pyramid(
        model_name,
        tuple(range(first, len(info))),
        tuple(int(level["num_chs"]) for level in chosen),
        tuple(strides[first:]),
    )


def swap_backbone(config: Config, model_name: str) -> None:
    """Replace the backbone of a detector's or segmentor's config in place, and adapt all that depends on it.

    These are the input channels of the neck (of the decode heads, if there is no neck), and the strides of anchor
    generators, point heads, RoI extractors and FPN decode heads. Anchors keep their stock sizes in pixels, which are
    written to ``base_sizes``. FCOS's ``regress_ranges`` are left as they are, one for each level.

    Args:
        config: config of mmdet or mmseg, changed in place.
        model_name: any timm name, this package's included.

    Raises:
        ValueError: the model is unknown, or the config is of a kind that cannot be adapted; the message says why.
    """
    model = config.get("model")
    if not model or "backbone" not in model:
        raise ValueError("--backbone: the config has no model.backbone to replace.")
    neck = model.get("neck")
    if isinstance(neck, (list, tuple)) or (neck and type_name(neck) not in NECKS):
        kind = [type_name(n) for n in neck] if isinstance(neck, (list, tuple)) else type_name(neck)
        raise ValueError(f"--backbone: the config's neck is {kind}; only {', '.join(NECKS)} or none can be adapted.")
    old_strides = _stock_strides(model.backbone)
    heads = _decode_heads(model)
    if not neck and not heads:
        raise ValueError(
            "--backbone: the config has no neck and no decode head that names its input levels (a C4 or single-level "
            "detector); its heads are built for one ResNet stage and cannot be adapted."
        )
    levels = len(neck.in_channels) if neck else 4
    if levels != len(old_strides):
        raise ValueError(
            f"--backbone: the neck takes {levels} levels but the stock backbone gives {len(old_strides)}; "
            f"which of the new backbone's levels to use cannot be told."
        )
    new = pyramid(model_name, levels)
    model.backbone = ConfigDict(
        type="sterf_plugins.TIMMBackbone", model_name=model_name, out_indices=list(new.indices), pretrained=False
    )
    if model.get("pretrained"):
        model.pretrained = None  # mmseg would hand the stock backbone's weights to the new one
    if len(new.indices) < levels and (not neck or type_name(neck) != "FPN" or neck.get("start_level")):
        raise ValueError(
            f"--backbone {model_name}: it has {len(new.indices)} feature level(s) and the config has "
            f"{'the neck ' + type_name(neck) if neck else 'no neck'}; only an FPN from level 0 can make up for the others."
        )
    if len(new.indices) == 1:
        model.neck = ConfigDict(
            type="sterf_plugins.SimpleFPN",
            in_channels=new.channels[0],
            out_channels=neck.out_channels,
            num_outs=neck.num_outs,
        )
        return  # SimpleFPN gives the stock strides, so nothing else changes
    if neck:
        neck.in_channels = list(new.channels)
    _set_strides(model, neck, old_strides, new)
    if not neck:
        for head in heads:
            _set_head_channels(head, new)


def swap_stem(config: Config, name: str) -> None:
    """Put a stem plugin into a config's backbone, in place.

    SDT-V3 backbones take any stem plugin; stock ResNets and other timm models take "covariant" only.

    Raises:
        ValueError: the stem is unknown, or which layer is the backbone's first convolution is not known.
    """
    plugins.get("stems", name)
    backbone = (config.get("model") or {}).get("backbone")
    if not backbone:
        raise ValueError("--stem: the config has no model.backbone.")
    kind = type_name(backbone)
    any_stem = kind == "SDTV3" or (kind == "TIMMBackbone" and str(backbone.get("model_name")).startswith("sdtv3_"))
    if any_stem:
        backbone.stem = ConfigDict(type=name)
    elif name != "covariant":
        raise ValueError(f"--stem {name}: {kind} takes the stem 'covariant' only; SDT-V3 takes any plugin.")
    elif kind == "TIMMBackbone":
        backbone.stem = ConfigDict(init="rf")
    elif kind in ("ResNet", "ResNetV1c", "ResNetV1d"):
        backbone.type = "sterf_plugins.CovariantStemResNet"
        if kind != "ResNet":
            backbone.update(deep_stem=True, avg_down=kind == "ResNetV1d")
    else:
        raise ValueError(
            f"--stem {name}: the first convolution of {kind} is not known; write "
            f"backbone=dict(type='sterf_plugins.WithCovariantStem', backbone=dict(...), target='NAME') into the config."
        )
    if config.model.get("pretrained"):
        # mmseg hands it to the backbone as init_cfg; a checkpoint of the stock backbone fits all but the stem
        backbone.init_cfg = ConfigDict(type="Pretrained", checkpoint=config.model.pretrained)
        config.model.pretrained = None


def _stock_strides(backbone: ConfigDict) -> list[int]:
    """Strides of the stock backbone's outputs: 4, 8, 16, 32 for every hierarchical one in mmdet and mmseg."""
    indices = backbone.get("out_indices", (0, 1, 2, 3))
    return [4 * 2**i for i in indices]


def _decode_heads(model: ConfigDict) -> list[ConfigDict]:
    """The decode head and the auxiliary heads of a segmentor, as one list."""
    heads: list[ConfigDict] = []
    for name in ("decode_head", "auxiliary_head"):
        value = model.get(name)
        heads += value if isinstance(value, (list, tuple)) else [value] if value else []
    return heads


def _set_head_channels(head: ConfigDict, new: Pyramid) -> None:
    """Set the input channels of a decode head that takes the backbone's levels directly."""
    index = head.get("in_index", -1)
    if isinstance(index, (list, tuple)):
        head.in_channels = [new.channels[i] for i in index]
    else:
        head.in_channels = new.channels[index]


def _set_strides(model: ConfigDict, neck: ConfigDict | None, old: list[int], new: Pyramid) -> None:
    """Replace the stock strides by the new backbone's in every list of strides in the heads' configs.

    Raises:
        ValueError: a list does not start with the strides of the stock pyramid.
    """
    start = neck.get("start_level", 0) if neck else 0
    actual = list(new.strides[start:])
    stock = old[start:]

    def true_strides(strides: Sequence[int], where: str) -> list[int]:
        strides = list(strides)
        shared = min(len(strides), len(stock), len(actual))
        if strides[:shared] != stock[:shared]:
            raise ValueError(
                f"--backbone: {where} has strides {strides}, which do not start like the stock pyramid {stock}; "
                f"what they mean for another backbone cannot be told."
            )
        result = actual[:shared]
        while len(result) < len(strides):  # extra levels of the neck halve the last one
            result.append(result[-1] * 2)
        return result

    def walk(node, where: str) -> None:
        if isinstance(node, (list, tuple)):
            for i, item in enumerate(node):
                walk(item, f"{where}[{i}]")
            return
        if not isinstance(node, dict):
            return
        for key in list(node):
            value = node[key]
            if key.endswith("strides") and isinstance(value, (list, tuple)) and len(value) > 1:
                if key == "strides" and type_name(node).endswith("AnchorGenerator"):
                    node.setdefault("base_sizes", [min(s) if isinstance(s, (list, tuple)) else s for s in value])
                node[key] = true_strides(value, f"{where}.{key}")
            else:
                walk(value, f"{where}.{key}")

    for part in ("rpn_head", "bbox_head", "roi_head", "mask_head", "decode_head", "auxiliary_head"):
        if model.get(part):
            walk(model[part], f"model.{part}")
