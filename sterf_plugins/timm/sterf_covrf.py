"""Models of covariant receptive fields: stock models with such stems, and networks of scale channels.

Of a stock model ``pretrained=True`` loads the weights; the stem starts from its bank. A checkpoint that is named
(``pretrained_cfg_overlay=dict(file=FILE)``, ``local-dir:``, ``hf-hub:``, ``checkpoint_path``) is one of the model with
its covariant stem. Papers: Nat. Commun. 16:8231 (2025); of scale channels, arXiv:2106.06418.
"""

from dataclasses import asdict

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, resolve_pretrained_cfg
from torch import nn

from .. import backbones
from .contract import TimmContract, checked_entries, configuration, register
from .stems import swap_stem
from .sterf_sdt_v3 import SDTV3, VARIANTS

__all__ = ["ScaleCovariantNet"]

STOCK = ("resnet18", "resnet50")
SCALE_CHANNELS: dict[str, dict] = {
    "scale_covariant_net": dict(dims=(32, 64, 128, 256), neuron="relu"),
    "scale_covariant_net_spiking": dict(dims=(32, 64, 128, 256), neuron="integer"),
}


class ScaleCovariantNet(TimmContract, backbones.ScaleCovariantNet):
    """``sterf_plugins.backbones.ScaleCovariantNet`` under timm's model contract.

    Feature map i, which is pooled over scales, is the output of the module ``maps.i``; a stage gives one map per scale.
    """

    POOLS = ("max", "")

    def __init__(self, num_classes: int = 1000, global_pool: str = "max", **kwargs):
        super().__init__(num_classes, global_pool, **kwargs)
        self.expose_maps()


# There is no first convolution whose weight timm could adapt to other channels: receptive fields take its place.
NO_CONV: tuple[str, ...] = ()


def _configuration(name: str) -> dict:
    """The stock model's ``default_cfg`` without the place of its weights, which are not those of ``covrf_<name>``."""
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    changes = dict(url="", hf_hub_id=None, architecture=None, tag=None, first_conv=NO_CONV)
    return {**asdict(config), **changes}


default_cfgs = generate_default_cfgs(
    {
        "covrf_sdtv3_tiny_srb.untrained": configuration(NO_CONV, "arXiv:2510.21403"),
        **{f"covrf_{name}.untrained": _configuration(name) for name in STOCK},
        **{f"{name}.untrained": configuration(NO_CONV, "arXiv:2106.06418") for name in SCALE_CHANNELS},
    }
)


def _stock(name: str):
    """Register ``covrf_<name>``: timm's model of that name with receptive fields as its stem."""

    def create(
        pretrained: bool = False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs
    ) -> nn.Module:
        config = resolve_pretrained_cfg(f"covrf_{name}", pretrained_cfg, pretrained_cfg_overlay)
        own_weights = bool(config.has_weights or config.state_dict)

        def build(rf_init: str = "rf", rf_learn: tuple[str, ...] = (), **options) -> nn.Module:
            stock = timm.create_model(name, pretrained=pretrained and not own_weights, cache_dir=cache_dir, **options)
            return swap_stem(stock, init=rf_init, learn=rf_learn)

        return build_model_with_cfg(
            build,
            f"covrf_{name}",
            pretrained and own_weights,
            pretrained_cfg=pretrained_cfg,
            pretrained_cfg_overlay=pretrained_cfg_overlay,
            pretrained_filter_fn=checked_entries,
            cache_dir=cache_dir,
            **kwargs,
        )

    create.__name__ = create.__qualname__ = f"covrf_{name}"
    create.__module__ = __name__
    create.__doc__ = f"timm's {name} with a covariant stem; ``rf_init`` and ``rf_learn`` as of ``swap_stem``."
    return register_model(create)


for _name in STOCK:
    _stock(_name)

register(
    "covrf_sdtv3_tiny_srb",
    SDTV3,
    5,
    "SDT-V3 tiny, srb mixer, covariant stem",
    module=__name__,
    stem={"type": "covariant"},
    **VARIANTS["sdtv3_tiny_srb"],
)

for _name, _options in SCALE_CHANNELS.items():
    register(_name, ScaleCovariantNet, "dims", "Scale channels with shared weights", **_options)
