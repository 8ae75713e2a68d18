"""The trial run: models of both libraries run once on made-up images, and what does not run is named."""

import random

import numpy as np
import pytest
import torch

import sterf_plugins

sterf_plugins.setup()

from mmengine.registry import DefaultScope  # noqa: E402

from sterf_plugins.openmmlab.configs.reading import load_config  # noqa: E402
from sterf_plugins.openmmlab.configs.trial import TrialError, try_backbone, try_model  # noqa: E402

SEGMENTOR = "mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py"


def test_nothing_is_left_of_a_trial():
    config = load_config(SEGMENTOR)
    before = config.pretty_text
    scope = DefaultScope.get_current_instance()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert try_model(config)
    assert config.pretty_text == before
    assert DefaultScope.get_current_instance() is scope
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


@pytest.mark.parametrize(
    ("changes", "stage", "cause"),
    [
        ({"backbone.depth": 19}, "build", "KeyError"),
        ({"backbone.in_channels": 4}, "loss", "RuntimeError"),  # the preprocessor has three means
        ({"backbone.stem": 5}, "build", "TypeError"),
        ({"neck": dict(type="FPN", in_channels=[9] * 4, out_channels=8, num_outs=4)}, "neck", "RuntimeError"),
        ({"decode_head.in_channels": 99}, "loss", "RuntimeError"),
        ({"decode_head.loss_decode.type": "Missing"}, "build", "KeyError"),
    ],
)
def test_the_step_that_fails_is_named(changes, stage, cause):
    with pytest.raises(TrialError, match=f"^{stage}: {cause}: [^\n]+$") as raised:
        try_model(load_config(SEGMENTOR, {f"model.{key}": value for key, value in changes.items()}))
    assert raised.value.stage == stage


def test_the_message_names_the_option():
    config = load_config(SEGMENTOR, {"model.decode_head.in_channels": 99})
    with pytest.raises(ValueError, match=r"^--backbone resnet18: the adapted model does not run .loss: RuntimeError: "):
        try_backbone(config, "--backbone resnet18")
