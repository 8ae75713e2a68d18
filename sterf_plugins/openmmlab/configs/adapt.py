"""Put another backbone into a stock config, so that its neck and heads go with it."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from ...registry import MODELS
from ..backbones.timm_backbone import any_image_size, check_model_name
from .exact import NotExact, adapt_exactly
from .stock_interface import StockInterface, image_channels, read_interface
from .types import type_name

INTERFACES = ("auto", "exact", "stock")
LOG = partial(print_log, logger="current")


def swap_backbone(
    config: Config,
    model_name: str,
    interface: str = "auto",
    tell: Callable[[str], None] = LOG,
) -> None:
    """Replace the backbone of a detector's or segmentor's config in place, and tell what was done.

    Args:
        config: config of mmdet or mmseg, changed in place.
        model_name: any timm name, this package's included.
        interface: "exact" sets the channels and strides of the neck and heads to the new backbone's (``adapt_exactly``);
            "stock" puts adapters behind the backbone that give the stock backbone's outputs (``DropInBackbone``);
            "auto" is "exact" where all that depends on the backbone is known, and "stock" otherwise.
        tell: function that is called with each line about it; the log by default.

    Raises:
        ValueError: the model is unknown, the config has no backbone that can be built here, or "exact" is not possible.
    """
    if interface not in INTERFACES:
        raise ValueError(f"--interface is {interface!r}; allowed: {', '.join(INTERFACES)}.")
    model = detector_config(config, "--backbone")
    check_model_name(model_name)
    stock = read_interface(model, config.get("default_scope") or "mmengine")
    changed, done = _adapted(config, stock, model_name, interface)
    adapted = detector_config(changed, "--backbone")
    adapted.backbone.update(any_image_size(model_name))
    if image_channels(model.backbone) != 3:
        adapted.backbone.in_channels = image_channels(model.backbone)
    if type_name(adapted.backbone) == "DropInBackbone":
        config.find_unused_parameters = True  # for DDP: a head may leave an output, and so its adapter, unused
    lost = _take_out_what_belongs_to_weights(config, model, adapted) or ["nothing"]
    for name, part in changed.model.items():
        config.model[name] = part
    tell(f"--backbone {model_name}, {done}")
    tell(f"--backbone {model_name}: of the stock backbone no longer hold: {'; '.join(lost)}")


def _adapted(config: Config, stock: StockInterface, model_name: str, interface: str) -> tuple[ConfigDict, str]:
    """A config with a copy of the model that has the other backbone, and what was done, in words."""
    reason = "--interface stock"
    if interface != "stock":
        changed = ConfigDict(model=copy.deepcopy(config.model))
        model = detector_config(changed, "--backbone")
        try:
            new = adapt_exactly(changed.model, model, stock, model_name, config.get("default_scope") or "mmengine")
        except NotExact as error:
            if interface == "exact":
                raise ValueError(
                    f"--backbone {model_name} --interface exact: {error}; give --interface stock, or auto."
                ) from error
            reason = str(error)
        else:
            simple = len(new.indices) == 1 < len(stock.levels)
            rest = "SimpleFPN makes the stock strides of it" if simple else "neck and heads are set to these"
            return changed, f"exact: channels {_listed(new.channels)}, strides {_listed(new.strides)}; {rest}"
    changed = ConfigDict(model=copy.deepcopy(config.model))
    model = detector_config(changed, "--backbone")
    synchronised = "Sync" in type_name(model.backbone.get("norm_cfg"))
    model.backbone = ConfigDict(
        type="sterf_plugins.DropInBackbone", model_name=model_name, pretrained=False, **stock.drop_in_arguments()
    )
    with torch.device("meta"):
        adapters = MODELS.build(model.backbone).adapters
    if synchronised:
        model.backbone.norm_cfg = ConfigDict(type="SyncBN")
    return changed, (
        f"stock interface ({reason}): channels {_listed(level.channels for level in stock.levels)}, strides "
        f"{_listed(level.stride for level in stock.levels)}, as neck and heads take them, by adapters with "
        f"{sum(p.numel() for p in adapters.parameters()):,} parameters"
    )


def detector_config(config: Config | ConfigDict, option: str) -> ConfigDict:
    """The part of a config that has the backbone: the model, or the detector of a tracker or a semi-supervised training.

    Raises:
        ValueError: there is none.
    """
    model = config.get("model") or {}
    for holder in (model, model.get("detector") or {}):
        if holder.get("backbone"):
            return holder
    raise ValueError(f"{option}: the config has no model.backbone to replace.")


def _take_out_what_belongs_to_weights(config: Config, model: ConfigDict, adapted: ConfigDict) -> list[str]:
    """Take out what belongs to the stock backbone's weights and layers, and say what that was.

    The new backbone starts from random weights, so nothing of it is frozen. Nor do neck and heads start from a checkpoint of
    the whole model.

    Args:
        config: the whole config.
        model: the part of it with the stock backbone.
        adapted: its copy with the other backbone.
    """
    backbone = model.backbone
    files = [model.get("pretrained"), *_files(backbone), *_files(model)]
    lost = [f"its weights {file}" for file in files if file]
    if model.get("pretrained"):
        adapted.pretrained = None  # mmseg would hand them to the new backbone
    if _files(model):
        adapted.init_cfg = None
    if backbone.get("frozen_stages", -1) >= 0:
        lost.append(f"frozen_stages={backbone.frozen_stages}")
    for name in ("norm_eval", "with_cp"):
        if backbone.get(name):
            lost.append(f"{name}=True")
    optimizer: Any = config.get("optim_wrapper") or {}
    rates = optimizer.get("paramwise_cfg") or {}
    if any(name.endswith("decay_rate") for name in rates):  # of the stock backbone's layers, which are known by name
        lost.append(f"{type_name(dict(type=optimizer.pop('constructor', '')))} with learning rates by its layers")
        for name in ("num_layers", "decay_rate", "decay_type", "layer_decay_rate"):
            rates.pop(name, None)
    slower = ((rates.get("custom_keys") or {}).get("backbone") or {}).get("lr_mult", 1)
    if slower != 1:
        lost.append(f"why its learning rate is {slower} of the others', as it stays")
    images: Any = config.model.get("data_preprocessor") or {}
    if images.get("mean") and not images.get("bgr_to_rgb"):
        lost.append(f"why images are BGR with mean {images.mean} and std {images.std}, as they stay")
    return lost


def _files(part: ConfigDict) -> list[str]:
    """The checkpoints from which a part of a model starts, by its ``init_cfg``."""
    inits = part.get("init_cfg") or []
    return [
        init.checkpoint for init in (inits if isinstance(inits, (list, tuple)) else [inits]) if "checkpoint" in init
    ]


def _listed(numbers: Any) -> str:
    return ", ".join(map(str, numbers))
