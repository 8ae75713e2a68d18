"""Stock models with covariant receptive fields as stems, under names of their own.

``pretrained=True`` loads the stock model's weights; the stem starts from its bank. Paper: Nat. Commun. 16:8231 (2025).
"""

import timm
from timm.models import generate_default_cfgs, register_model
from torch import nn

from .contract import configuration, register
from .stems import swap_stem
from .sterf_sdt_v3 import SDTV3, VARIANTS

STOCK = ("resnet18", "resnet50")

default_cfgs = generate_default_cfgs(
    {
        "covrf_sdtv3_tiny_srb.untrained": configuration("stages.0.downsample.conv", "arXiv:2510.21403"),
        **{f"covrf_{name}.untrained": {**configuration("conv1", ""), "classifier": "fc"} for name in STOCK},
    }
)


def _stock(name: str):
    """Register ``covrf_<name>``: timm's model of that name with receptive fields as its stem."""

    def create(
        pretrained: bool = False, in_chans: int = 3, rf_init: str = "rf", rf_learn: tuple[str, ...] = (), **kwargs
    ) -> nn.Module:
        # timm passes the configuration of the new name; the stock model needs its own.
        for key in ("pretrained_cfg", "pretrained_cfg_overlay"):
            kwargs.pop(key, None)
        model = timm.create_model(name, pretrained=pretrained, **kwargs)
        return swap_stem(model, in_chans=in_chans, init=rf_init, learn=rf_learn)

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
