"""A pytest plugin for timm's own tests: they run on the models that ``STERF_NAMES`` lists, and on no others.

timm's tests ask ``timm.list_models`` for names while they are collected. Some limit the answer to timm's modules that
have `forward_intermediates`, which all our models have.
"""

import os

import timm

import sterf_plugins.timm  # noqa: F401

NAMES = os.environ["STERF_NAMES"].split(",")
_list_models = timm.list_models


def list_models(filter="", module="", pretrained=False, **options):
    found = _list_models(filter, pretrained=pretrained, **options)
    return [name for name in found if name.partition(".")[0] in NAMES]


timm.list_models = list_models
timm.list_pretrained = lambda *arguments, **options: []
