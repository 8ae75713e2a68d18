"""Small backbones whose neurons fire and whose norms have statistics, as after a training."""

import itertools

import torch
from torch import nn

from sterf_plugins.backbones import SDTV3
from sterf_plugins.erf import calibrate

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

NANO = dict(embed_dims=[8, 16, 24, 32], num_heads=4)

VARIANTS = {
    "conv": dict(mixer="conv"),
    "conv-layer-scale": dict(mixer="conv", layer_scale=0.5),
    **{
        f"{mixer}-{layout}{'-norm' if norm else ''}": dict(mixer=mixer, layout=layout, norm_hidden=norm)
        for mixer, layout, norm in itertools.product(("mlpixer", "srb"), ("raster", "channel"), (False, True))
    },
}


def trained(num_classes=0, dtype=torch.float32, arch=NANO, **options):
    """Random weights that let all neurons fire, norms with statistics and slopes of their own, logits that differ."""
    torch.manual_seed(0)
    model = SDTV3(arch, num_classes=num_classes, drop_rate=0.1, **options)
    for module in model.modules():
        if isinstance(module, NORMS):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.2, 0.3)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, module.in_features**-0.5)
    return calibrate(model, torch.randn(4, 3, 64, 64)).to(dtype)


def outputs(model, x):
    with torch.no_grad():
        return model(x)
