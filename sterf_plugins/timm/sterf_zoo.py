"""Spikformer, SDT-V1, Meta-SDT (SDT-V2), QKFormer and Max-Former as timm models.

Papers: arXiv:2209.15425, arXiv:2307.01694, arXiv:2404.03663, arXiv:2403.16552, arXiv:2505.18608. All take images, held
for ``T`` steps (4 unless given), or event frames (T, B, C, H, W). No weights are shipped.
"""

from timm.models import generate_default_cfgs

from .. import backbones
from .contract import TimmContract, configuration, register

__all__ = ["SDTV1", "MaxFormer", "MetaSDT", "QKFormer", "Spikformer"]


class Spikformer(TimmContract, backbones.Spikformer):
    """``sterf_plugins.backbones.Spikformer`` under timm's model contract."""


class SDTV1(TimmContract, backbones.SDTV1):
    """``sterf_plugins.backbones.SDTV1`` under timm's model contract."""


class QKFormer(TimmContract, backbones.QKFormer):
    """``sterf_plugins.backbones.QKFormer`` under timm's model contract."""


class MaxFormer(TimmContract, backbones.MaxFormer):
    """``sterf_plugins.backbones.MaxFormer`` under timm's model contract."""


class MetaSDT(TimmContract, backbones.MetaSDT):
    """``sterf_plugins.backbones.MetaSDT`` under timm's model contract."""


VARIANTS: dict[str, tuple[type, dict]] = {
    "spikformer_8_384": (Spikformer, dict(depth=8, dim=384, num_heads=8)),
    "spikformer_8_512": (Spikformer, dict(depth=8, dim=512, num_heads=8)),
    "sdtv1_8_384": (SDTV1, dict(depth=8, dim=384, num_heads=8)),
    "sdtv1_8_512": (SDTV1, dict(depth=8, dim=512, num_heads=8)),
    "sdtv1_8_768": (SDTV1, dict(depth=8, dim=768, num_heads=8)),
    "meta_sdt_15m": (MetaSDT, dict(embed_dims=(64, 128, 256, 360), num_heads=8)),
    "meta_sdt_31m": (MetaSDT, dict(embed_dims=(96, 192, 384, 480), num_heads=8)),
    "meta_sdt_55m": (MetaSDT, dict(embed_dims=(128, 256, 512, 640), num_heads=8)),
    "qkformer_10_384": (QKFormer, dict(depth=10, dim=384, num_heads=6)),
    "qkformer_10_512": (QKFormer, dict(depth=10, dim=512, num_heads=8)),
    "qkformer_10_768": (QKFormer, dict(depth=10, dim=768, num_heads=12)),
    "max_former_10_384": (MaxFormer, dict(depth=10, dim=384, num_heads=6)),
    "max_former_10_512": (MaxFormer, dict(depth=10, dim=512, num_heads=8)),
    "max_former_10_768": (MaxFormer, dict(depth=10, dim=768, num_heads=12)),
}
# class -> name of the first convolution, paper, number of feature levels (in the plain models their depth)
_FACTS: dict[type, tuple[str, str, int | str]] = {
    Spikformer: ("stages.0.downsample.convs.0.conv_bn.conv", "arXiv:2209.15425", "depth"),
    SDTV1: ("stages.0.downsample.convs.0.conv_bn.conv", "arXiv:2307.01694", "depth"),
    MetaSDT: ("stages.0.downsample.conv_bn.conv", "arXiv:2404.03663", 5),
    QKFormer: ("stages.0.downsample.conv1.conv_bn.conv", "arXiv:2403.16552", 3),
    MaxFormer: ("stages.0.downsample.conv1.conv_bn.conv", "arXiv:2505.18608", 3),
}

default_cfgs = generate_default_cfgs(
    {f"{name}.untrained": configuration(*_FACTS[model][:2]) for name, (model, _) in VARIANTS.items()}
)

for _name, (_model, _options) in VARIANTS.items():
    register(_name, _model, _FACTS[_model][2], _model.__name__, **_options)
