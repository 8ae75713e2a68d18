"""The trial run: models of both libraries run once on made-up images, and what does not run is named."""

import random

import numpy as np
import pytest
import torch

import sterf_plugins

sterf_plugins.setup()

from mmengine.logging import MessageHub  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402

from sterf_plugins.openmmlab.configs.adapt import swap_backbone  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import load_config, without_weight_files  # noqa: E402
from sterf_plugins.openmmlab.configs.trial import TrialError, _first_iteration, try_backbone, try_model  # noqa: E402

SEGMENTOR = "mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py"


@pytest.mark.slow
def test_nothing_is_left_of_a_trial():
    config = load_config(SEGMENTOR)
    before = config.pretty_text
    scope = getattr(DefaultScope.get_current_instance(), "scope_name", None)
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert try_model(config) == ""
    assert config.pretty_text == before
    assert getattr(DefaultScope.get_current_instance(), "scope_name", None) == scope
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_message_names_the_option():
    config = load_config(SEGMENTOR, {"model.decode_head.in_channels": 99})
    with pytest.raises(ValueError, match=r"^--backbone resnet18: the adapted model does not run .loss: RuntimeError: "):
        try_backbone(config, "--backbone resnet18")


TEN = [
    "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py",
    "mmdet::detr/detr_r18_8xb2-500e_coco.py",
    "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
    "mmdet::tood/tood_r50_fpn_1x_coco.py",
    "mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py",
    "mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py",
    "mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py",
    "mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py",
    "mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", TEN)
@pytest.mark.sweep
def test_stock_configs_run(name):
    assert try_model(load_config(name)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", TEN)
@pytest.mark.sweep
def test_stock_configs_run_with_a_spiking_backbone(name):
    config = load_config(name)
    swap_backbone(config, "sdtv3_tiny_srb")
    assert try_model(config) == ""


@pytest.mark.slow
def test_what_needs_large_images_is_tried_on_large_ones():
    name = "mmseg::mobilenet_v3/mobilenet-v3-d8-s_lraspp_4xb4-320k_cityscapes-512x1024.py"
    assert try_model(load_config(name)) == ""  # it pools over windows of 392 pixels


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py", "needs a teacher's checkpoint"),
        ("mmdet::glip/glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365.py", "needs texts"),
        ("mmdet::mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2019.py", "Mask2FormerVideo is no detector"),
    ],
)
def test_what_needs_more_than_images_is_not_tried(name, reason):
    assert try_model(load_config(name)).startswith(reason)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py",
        "mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base.py",
    ],
)
def test_the_detector_inside_is_tried(name):
    config = load_config(name)
    assert try_model(config) == ""
    config.model.detector.rpn_head.in_channels = 99
    with pytest.raises(TrialError, match=r"^loss: RuntimeError"):
        try_model(config)


def test_numbers_of_the_training_are_known_inside_only():
    hub = MessageHub.get_current_instance()
    before = dict(hub.runtime_info)
    with _first_iteration():
        assert hub.get_info("iter") == before.get("iter", 0)
        assert hub.get_info("epoch") == before.get("epoch", 0)
    assert dict(hub.runtime_info) == before


def test_no_file_of_weights_is_read():
    """PVT's checkpoint stands in an init_cfg without a type; another may stand in a list."""
    config = load_config("mmdet::pvt/retinanet_pvt-t_fpn_1x_coco.py")
    config.model.neck.init_cfg = [
        dict(type="Xavier", layer="Conv2d"),
        dict(type="Pretrained", checkpoint="missing.pth"),
    ]
    assert config.model.backbone.init_cfg.checkpoint.startswith("http")
    without_weight_files(config.model)
    assert config.model.backbone.init_cfg is None
    assert config.model.neck.init_cfg == [dict(type="Xavier", layer="Conv2d")]
