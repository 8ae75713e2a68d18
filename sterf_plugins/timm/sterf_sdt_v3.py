"""SDT-V3 with conv, MLPixer and SRB mixers as timm models.

Papers: SDT-V3, arXiv:2411.16061; MLPixer and SRB, arXiv:2510.21403. No weights are shipped: ``pretrained=True`` is
refused by timm with its own message.
"""

from timm.models import generate_default_cfgs

from .. import backbones
from ..backbones.sdt_v3 import ARCHITECTURES, DEPTHS
from .contract import TimmContract, configuration, register

__all__ = ["SDTV3"]


class SDTV3(TimmContract, backbones.SDTV3):
    """``sterf_plugins.backbones.SDTV3`` under timm's model contract; (B, C, H, W) -> logits or pooled features."""


# Suffix of a timm name -> constructor arguments that it stands for. The plain names are for those who train: their
# mixers fire. The mixers of ``_released`` are those of the released checkpoints and, trained from random weights, never
# fire. ``_raster`` has the released layout, and fires.
_RELEASED = dict(layout="raster", norm_hidden=False)
_MIXERS: dict[str, dict] = {
    "": dict(mixer="conv", ratio=4),
    "_mlpixer": dict(mixer="mlpixer", ratio=4),
    "_mlpixer6": dict(mixer="mlpixer", ratio=6),
    "_srb": dict(mixer="srb", ratio=4),
    "_mlpixer_raster": dict(mixer="mlpixer", ratio=4, layout="raster"),
    "_mlpixer6_raster": dict(mixer="mlpixer", ratio=6, layout="raster"),
    "_srb_raster": dict(mixer="srb", ratio=4, layout="raster"),
    "_mlpixer_released": dict(mixer="mlpixer", ratio=4, **_RELEASED),
    "_mlpixer6_released": dict(mixer="mlpixer", ratio=6, **_RELEASED),
    "_srb_released": dict(mixer="srb", ratio=4, **_RELEASED),
}
VARIANTS: dict[str, dict] = {
    f"sdtv3_{arch}{suffix}": dict(arch=arch, **options) for arch in ARCHITECTURES for suffix, options in _MIXERS.items()
}


def _paper(mixer: str) -> str:
    return "arXiv:2411.16061" if mixer == "conv" else "arXiv:2510.21403"


default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": configuration("stages.0.downsample.conv", _paper(options["mixer"]))
        for name, options in VARIANTS.items()
    }
)

for _name, _options in VARIANTS.items():
    register(_name, SDTV3, len(DEPTHS), f"SDT-V3 {_options['arch']}, {_options['mixer']} mixer", **_options)
