"""Stock configs of mmdet and mmseg with another backbone or stem: what is adapted, what trains, and what is refused."""

import pytest
import torch

import sterf_plugins

sterf_plugins.setup()

from mmengine.config import ConfigDict  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from small_training import on_small_data, train_an_iteration  # noqa: E402

from sterf_plugins.openmmlab.configs.adapt import swap_backbone  # noqa: E402
from sterf_plugins.openmmlab.configs.exact import pyramid  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import load_config, revert_sync_bn, without_weight_files  # noqa: E402
from sterf_plugins.openmmlab.configs.stem import swap_stem  # noqa: E402
from sterf_plugins.registry import MODELS  # noqa: E402
from sterf_plugins.stems import CovariantRFConv2d  # noqa: E402

STOCK = {
    "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py": dict(rpn=[4, 8, 16, 16, 32], sizes=[4, 8, 16, 32, 64]),
    "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py": dict(rpn=[4, 8, 16, 16, 32], sizes=[4, 8, 16, 32, 64]),
    "mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py": dict(rpn=[4, 8, 16, 16, 32], sizes=[4, 8, 16, 32, 64]),
    "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py": dict(dense=[8, 16, 16, 32, 64], sizes=[8, 16, 32, 64, 128]),
    "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py": dict(points=[8, 16, 16, 32, 64]),
    "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py": dict(head=[4, 8, 16, 16]),
    "mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py": dict(channels=[24, 48, 96, 128]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STOCK)
@pytest.mark.sweep
def test_backbone_option_adapts_and_trains_stock_configs(name, shapes, tmp_path):
    config, expected = load_config(name), STOCK[name]
    swap_backbone(config, "sdtv3_nano_srb")
    model = config.model
    if "rpn" in expected:
        assert model.rpn_head.anchor_generator.strides == expected["rpn"]
        assert model.rpn_head.anchor_generator.base_sizes == expected["sizes"]
        assert model.roi_head.bbox_roi_extractor.featmap_strides == [4, 8, 16, 16]
    if "dense" in expected:
        assert model.bbox_head.anchor_generator.strides == expected["dense"]
        assert model.bbox_head.anchor_generator.base_sizes == expected["sizes"]
    if "points" in expected:
        assert model.bbox_head.strides == expected["points"]
        assert "regress_ranges" not in model.bbox_head  # per level, as in the stock head's default
    if "head" in expected:
        assert model.decode_head.feature_strides == expected["head"]
    if "channels" in expected:
        assert model.decode_head.in_channels == expected["channels"]
        assert model.auxiliary_head.in_channels == expected["channels"][2]
    if model.get("neck"):
        assert model.neck.in_channels == [24, 48, 96, 128]
    runner = train_an_iteration(on_small_data(config, shapes, tmp_path))
    # What the heads were told is what the features are.

    features = runner.model.backbone(torch.zeros(1, 3, 64, 64))
    assert [64 // f.shape[-1] for f in features] == list(runner.model.backbone.out_strides) == [4, 8, 16, 16]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.dropout. is deprecated")  # in mmseg
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py", marks=pytest.mark.whole),
        "mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py",
    ],
)
def test_backbone_option_trains_stock_configs_through_adapters(name, shapes, tmp_path):
    config = load_config(name)
    swap_backbone(config, "sdtv3_nano_srb")
    without_weight_files(config.model)  # the C4 detector's head loads a part of a ResNet
    runner = train_an_iteration(on_small_data(config, shapes, tmp_path))
    assert type(runner.model.backbone).__name__ == "DropInBackbone"


def test_anchors_of_all_levels_lie_on_the_image():
    """With true strides every anchor centre of a level is inside the image, as in the stock detector."""
    from mmdet.models.task_modules import AnchorGenerator

    config = load_config("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py")
    swap_backbone(config, "sdtv3_nano_srb")
    settings = {k: v for k, v in config.model.rpn_head.anchor_generator.items() if k != "type"}
    anchors = AnchorGenerator(**settings).grid_priors(
        [(128, 128), (64, 64), (32, 32), (32, 32), (16, 16)], device="cpu"
    )
    for level in anchors:
        centres = (level[:, :2] + level[:, 2:]) / 2
        assert torch.all((centres >= 0) & (centres < 512))
    widths = [float((level[:, 2] - level[:, 0]).median()) for level in anchors]
    assert widths == pytest.approx([32, 64, 128, 256, 512], rel=0.01)  # the stock sizes


@pytest.mark.parametrize(
    ("config", "backbone", "message"),
    [
        (
            "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
            "sdtv3_tiny_sbr",
            "unknown timm model 'sdtv3_tiny_sbr'; near",
        ),
        ("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", "vit_small_patch32_224", "a stock neck needs 4 levels"),
        ("mmdet::ssd/ssd300_coco.py", "sdtv3_tiny", "the neck is SSDNeck"),
        ("mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py", "sdtv3_tiny", "no neck and no decode head"),
        ("mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py", "spikformer_8_384", "only an FPN from level 0"),
    ],
)
def test_what_cannot_be_adapted_says_why(config, backbone, message):
    with pytest.raises(ValueError, match=message):
        swap_backbone(load_config(config), backbone, "exact")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stock", "backbone"),
    [
        ("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", None),
        ("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", "resnet18"),
        ("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", "sdtv3_tiny_srb"),
        ("mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py", None),
    ],
)
@pytest.mark.sweep
def test_stem_option(stock, backbone):
    config = load_config(stock)
    if backbone:
        swap_backbone(config, backbone)
    swap_stem(config, "covariant")
    config.model.backbone.pop("init_cfg", None)
    revert_sync_bn(config)
    init_default_scope(config.default_scope)
    model = MODELS.build(config.model)
    assert [m for m in model.backbone.modules() if isinstance(m, CovariantRFConv2d)]
    assert len(model.backbone(torch.rand(1, 3, 64, 64))) == 4


def test_stem_option_refuses_what_it_cannot_do():
    config = load_config("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py")
    with pytest.raises(ValueError, match="'covariant' only"):
        swap_stem(config, "conv")
    with pytest.raises(ValueError, match="known: conv, covariant"):
        swap_stem(config, "nothing")
    config.model.backbone = ConfigDict(type="mmdet.CSPDarknet")
    with pytest.raises(ValueError, match="WithCovariantStem"):
        swap_stem(config, "covariant")


def test_any_timm_pyramid_works():
    assert pyramid("resnet50").strides == (4, 8, 16, 32)
    assert pyramid("sdtv3_base_mlpixer").channels == (64, 128, 256, 360)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["spikformer_8_384", "sdtv1_8_384", "qkformer_10_384", "meta_sdt_15m", "max_former_10_384"]
)
@pytest.mark.parametrize(
    "stock", ["mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py"]
)
@pytest.mark.sweep
def test_the_other_models_in_stock_configs(stock, name):
    """Every map has the stride that heads are told; plain models get a simple pyramid."""
    config = load_config(stock)
    swap_backbone(config, name)
    revert_sync_bn(config)
    init_default_scope(config.default_scope)
    config.model.backbone.T = 1
    model = MODELS.build(config.model).eval()
    with torch.no_grad():
        maps = model.extract_feat(torch.randn(1, 3, 64, 64))
    if config.default_scope == "mmdet":
        told = config.model.rpn_head.anchor_generator.strides
    else:
        told = config.model.decode_head.feature_strides
    assert [64 // y.shape[-1] for y in maps] == list(told)
    assert (config.model.neck.type == "sterf_plugins.SimpleFPN") == name.startswith(("spikformer", "sdtv1"))
