"""Models that the tools load."""

import pytest
import torch

from sterf_plugins.cli.loading import load_model


@pytest.mark.parametrize(
    "name", ["mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", "mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py"]
)
def test_without_a_checkpoint_a_config_gives_the_weights_that_a_training_starts_with(name):
    load_model(name)  # imports draw random numbers
    torch.manual_seed(0)
    model = load_model(name).model

    from mmengine.registry import MODELS, init_default_scope

    from sterf_plugins.openmmlab.configs.reading import load_config, revert_sync_bn

    config = load_config(name)
    revert_sync_bn(config)
    init_default_scope(config.default_scope)
    config.model.backbone.init_cfg, config.model.pretrained = None, None
    torch.manual_seed(0)
    started = MODELS.build({k: v for k, v in config.model.items() if k != "pretrained" or v})
    built = {k: v.clone() for k, v in started.state_dict().items()}
    started.init_weights()
    expected = started.state_dict()
    assert [k for k, v in model.state_dict().items() if not torch.equal(v, expected[k])] == []
    assert any(not torch.equal(v, built[k]) for k, v in expected.items())
