"""Put a stem into a stock config's backbone, whose first convolution is found by running it."""

from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from torch import nn

from ... import plugins
from ...checks import has_statistics
from ...undisturbed import hooked
from .adapt import detector_config
from .stock_interface import SIDE, build_stock, image_channels
from .types import type_name


def swap_stem(config: Config, name: str) -> None:
    """Put a stem plugin into a config's backbone, in place.

    SDT-V3 backbones take any stem plugin; every other backbone that starts with one convolution takes "covariant".

    Args:
        config: config of mmdet or mmseg, changed in place.
        name: name of the stem plugin.

    Raises:
        ValueError: the stem is unknown, or the backbone does not start with one convolution.
    """
    plugins.get("stems", name)
    model = detector_config(config, "--stem")
    backbone = model.backbone
    kind = type_name(backbone)
    is_timm = kind in ("TIMMBackbone", "DropInBackbone")
    if kind == "SDTV3" or (is_timm and str(backbone.get("model_name")).startswith("sdtv3_")):
        backbone.stem = ConfigDict(type=name)
    elif name != "covariant":
        raise ValueError(f"--stem {name}: {kind} takes the stem 'covariant' only; SDT-V3 takes any plugin.")
    elif is_timm:
        backbone.stem = ConfigDict(init="rf")
    elif kind in ("ResNet", "ResNetV1c", "ResNetV1d"):
        backbone.type = "sterf_plugins.CovariantStemResNet"
        if kind != "ResNet":
            backbone.update(deep_stem=True, avg_down=kind == "ResNetV1d")
    else:
        target, norm = first_convolution(
            build_stock(backbone, config.get("default_scope") or "mmengine"), image_channels(backbone)
        )
        model.backbone = ConfigDict(type="sterf_plugins.WithCovariantStem", backbone=backbone, target=target, norm=norm)
    if model.get("pretrained"):
        # mmseg hands it to the backbone as init_cfg; a checkpoint of the stock backbone fits all but the stem
        inner = model.backbone.get("backbone") or model.backbone
        inner.init_cfg = ConfigDict(type="Pretrained", checkpoint=model.pretrained)
        model.pretrained = None


def first_convolution(backbone: Any, channels: int = 3) -> tuple[str, str | None]:
    """Names of the one convolution that reads the image, and of the norm with statistics behind it, if there is one.

    Args:
        backbone: the backbone, which is run once on an empty image.
        channels: image channels.

    Raises:
        ValueError: several convolutions read the image, or none does.
    """
    side = getattr(backbone, "img_size", None) or SIDE
    image = torch.zeros(1, channels, *((side, side) if isinstance(side, int) else side))
    readers: list[str] = []
    outputs: list[torch.Tensor] = []
    norms: list[str] = []

    def note(name: str):
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
            if isinstance(module, nn.Conv2d) and inputs[0] is image:
                readers.append(name)
                outputs.append(output)
            elif has_statistics(module) and any(inputs[0] is y for y in outputs):
                norms.append(name)

        return hook

    backbone.eval()
    hooks = [module.register_forward_hook(note(name)) for name, module in backbone.named_modules()]
    with hooked(hooks), torch.no_grad():
        backbone(image)
    if len(readers) != 1:
        raise ValueError(
            f"--stem covariant: {type(backbone).__name__} does not start with one convolution: "
            f"{', '.join(readers) or 'none'} read the image. Write backbone=dict(type='sterf_plugins.WithCovariantStem', "
            f"backbone=dict(...), target='NAME') into the config to choose one."
        )
    return readers[0], norms[0] if norms else None
