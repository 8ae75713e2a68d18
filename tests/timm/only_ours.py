"""A pytest plugin for timm's own tests: they run on the models that ``STERF_NAMES`` lists, and on no others.

timm's tests ask ``timm.list_models`` for names while they are collected. Some limit the answer to timm's modules that
have `forward_intermediates`, which all our models have. Large ones are built with fewer blocks and channels.
"""

import os

import timm

import sterf_plugins.timm  # noqa: F401
from sterf_plugins.backbones import meta_sdt, sdt_v3

NAMES = os.environ["STERF_NAMES"].split(",")
PLAIN, PYRAMID = dict(depth=3, dim=96), dict(depth=4, dim=96)
SMALLER = {
    "spikformer_8_384": PLAIN,
    "sdtv1_8_384": PLAIN,
    "qkformer_10_384": PYRAMID,
    "max_former_10_384": PYRAMID,
    "meta_sdt_15m": dict(embed_dims=(16, 32, 64, 96)),
    "scale_covariant_net_spiking": dict(dims=(8, 16, 32, 64)),
}
sdt_v3.DEPTHS = meta_sdt.DEPTHS = (1, 1, 1, 1, 1)
_list_models, _create_model = timm.list_models, timm.create_model


def list_models(filter="", module="", pretrained=False, **options):
    found = _list_models(filter, pretrained=pretrained, **options)
    return [name for name in found if name.partition(".")[0] in NAMES]


def create_model(model_name, *arguments, **options):
    return _create_model(model_name, *arguments, **SMALLER.get(model_name.partition(".")[0], {}), **options)


timm.list_models = list_models
timm.create_model = create_model
timm.list_pretrained = lambda *arguments, **options: []
