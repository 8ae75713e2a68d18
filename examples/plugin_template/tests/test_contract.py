"""Do the mixer and the stem keep what a backbone expects of them, and do they train?"""

import timm
import torch

import sterf_plugins.timm  # noqa: F401  (registers the models)
from sterf_plugins.testing import check_mixer, check_stem


def test_the_mixer_keeps_the_contract():
    check_mixer("my_mixer")


def test_the_stem_keeps_the_contract():
    check_stem("my_stem")


def test_a_training_step_reaches_both():
    torch.manual_seed(0)
    model = timm.create_model("sdtv3_nano", mixer="my_mixer", stem="my_stem", num_classes=2)
    loss = torch.nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 0, 1]))
    loss.backward()
    for part in (model.stages[0].downsample, model.stages[0].blocks[0].mixer):
        assert all(p.grad.abs().sum() > 0 for p in part.parameters())
