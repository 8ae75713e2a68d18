"""Another backbone in stock configs, through adapters that give the stock backbone's outputs."""

import pytest
import timm
import torch

import sterf_plugins

sterf_plugins.setup()

from mmengine.registry import DefaultScope  # noqa: E402
from torch import nn  # noqa: E402

from sterf_plugins.layers import IntegerSpike  # noqa: E402
from sterf_plugins.openmmlab.backbones.drop_in import DropInBackbone, choose_levels  # noqa: E402
from sterf_plugins.openmmlab.backbones.timm_backbone import feature_levels  # noqa: E402
from sterf_plugins.openmmlab.configs.adapt import swap_backbone  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import load_config, revert_sync_bn  # noqa: E402
from sterf_plugins.openmmlab.configs.stem import swap_stem  # noqa: E402
from sterf_plugins.openmmlab.configs.stock_interface import build_stock, read_interface  # noqa: E402
from sterf_plugins.openmmlab.configs.trial import try_model  # noqa: E402
from sterf_plugins.registry import MODELS  # noqa: E402
from sterf_plugins.stems import CovariantRFConv2d  # noqa: E402

RETINANET = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
MASK_RCNN = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
C4 = "mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py"
DC5 = "mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py"
TRIDENT = "mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py"
RFP = "mmdet::detectors/cascade-rcnn_r50-rfp_1x_coco.py"
YOLOX = "mmdet::yolox/yolox_tiny_8xb8-300e_coco.py"
SSD = "mmdet::ssd/ssd300_coco.py"
DETR = "mmdet::detr/detr_r50_8xb2-150e_coco.py"
UNET = "mmseg::unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py"
PIDNET = "mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py"
BISENET = "mmseg::bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py"
DPT = "mmseg::dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py"
DEEPLAB = "mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py"
BEIT = "mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py"


def interface(name: str):
    config = load_config(name)
    return read_interface(config.model, config.default_scope)


@pytest.mark.parametrize(
    ("name", "levels"),
    [  # channels, stride, depth
        (RETINANET, [(64, 4, 4), (128, 8, 8), (256, 16, 16), (512, 32, 32)]),
        (C4, [(1024, 16, 16)]),
        (DC5, [(2048, 16, 32)]),
        (DETR, [(2048, 32, 32)]),
        (DEEPLAB, [(64, 4, 4), (128, 8, 8), (256, 8, 16), (512, 8, 32)]),  # dilated: as deep as without
        (UNET, [(1024, 16, 16), (512, 8, 16), (256, 4, 16), (128, 2, 16), (64, 1, 16)]),  # a decoder: all deep
        (BISENET, [(256, 8, 32), (128, 8, 32), (128, 16, 32)]),
    ],
)
@pytest.mark.slow
def test_what_a_stock_backbone_gives_is_read_from_it(name, levels):
    found = interface(name)
    assert [(level.channels, level.stride, level.depth) for level in found.levels] == levels
    assert found.outputs == found.eval_outputs == list(range(len(levels)))


@pytest.mark.slow
def test_peculiar_outputs_are_read():
    trident, rfp, pidnet, dpt = map(interface, (TRIDENT, RFP, PIDNET, DPT))
    assert (trident.copies, trident.eval_copies) == (3, 1)
    assert trident.attributes == {"num_branch": 3, "test_branch_idx": 1}
    assert rfp.outputs == ["image", 0, 1, 2, 3]
    assert (pidnet.outputs, pidnet.eval_outputs) == ([0, 1, 2], 1)
    assert dpt.outputs == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [level.kind for level in dpt.levels] == ["map", "vector"] * 4


def shapes(outputs):
    return outputs.shape if isinstance(outputs, torch.Tensor) else [shapes(y) for y in outputs]


@pytest.mark.slow
@pytest.mark.parametrize("name", [RETINANET, C4, DC5, TRIDENT, RFP, YOLOX, SSD, UNET, PIDNET, BISENET, DPT])
@pytest.mark.sweep
def test_the_drop_in_gives_the_shapes_of_the_stock_backbone(name):
    config = load_config(name)
    stock = build_stock(config.model.backbone, config.default_scope)
    drop_in = DropInBackbone("resnet18", **read_interface(config.model, config.default_scope).drop_in_arguments())
    refuse_odd_sizes = (UNET, DPT, YOLOX, PIDNET)
    sizes = [(64, 96)] if name in refuse_odd_sizes else [(64, 96), (91, 119)]
    for size in sizes:
        x = torch.rand(2, 3, *size)
        for mode in (True, False):
            stock.train(mode)
            drop_in.train(mode)
            with torch.no_grad():
                assert shapes(drop_in(x)) == shapes(stock(x)), (size, mode)


@pytest.mark.parametrize(
    ("strides", "stride", "depth", "chosen"),
    [
        ([2, 4, 8, 16, 16], 4, 4, [1]),
        ([2, 4, 8, 16, 16], 16, 16, [4]),  # of two with one stride the last
        ([2, 4, 8, 16, 16], 32, 32, [4]),
        ([2, 4, 8, 16, 32], 8, 32, [2, 3, 4]),
        ([2, 4, 8, 16, 32], 1, 16, [0, 1, 2, 3]),
        ([16, 16, 16], 4, 32, [2]),
        ([4, 8, 16], 8, 0, [1]),
    ],
)
def test_levels_that_an_output_is_made_of(strides, stride, depth, chosen):
    assert choose_levels(strides, stride, depth) == chosen


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["sdtv3_tiny_srb", "resnet18"])
@pytest.mark.parametrize("name", [C4, YOLOX, BISENET, UNET])
@pytest.mark.sweep
def test_gradients_reach_the_model_and_the_adapters_and_outputs_depend_on_the_image(name, backbone):
    config = load_config(name)
    stock = read_interface(config.model, config.default_scope)
    model = DropInBackbone(backbone, **stock.drop_in_arguments())
    outputs = model(torch.rand(2, 3, 64, 64))
    assert all((y[0] - y[1]).abs().max() > 0.01 for y in outputs)
    sum((y * torch.randn_like(y)).sum() for y in outputs).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert all(p.grad.any() for p in model.adapters.parameters())
    assert next(model.timm_model.parameters()).grad.any()
    spikes = [m for m in model.adapters.modules() if isinstance(m, IntegerSpike)]
    assert len(spikes) == (len(stock.levels) if backbone.startswith("sdtv3") else 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of mmdet and mmseg
@pytest.mark.parametrize("backbone", ["sdtv3_tiny_srb", "resnet18"])
@pytest.mark.parametrize("name", [C4, SSD, YOLOX, DETR, BISENET, PIDNET, DEEPLAB])
@pytest.mark.sweep
def test_stock_models_train_and_predict_with_it(name, backbone):
    config = load_config(name)
    swap_backbone(config, backbone)
    assert try_model(config) == ""


MORE = [
    "mmdet::pafpn/faster-rcnn_r50_pafpn_1x_coco.py",
    "mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py",
    "mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py",
    "mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py",
    "mmdet::detectors/detectors_htc-r50_1x_coco.py",
    TRIDENT,
    "mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py",
    "mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py",
    DPT,
    "mmseg::setr/setr_vit-l-mla_8xb1-160k_ade20k-512x512.py",
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(  # a spiking pyramid in all of them; another pyramid and a model of one level in turn
    ("name", "backbone"),
    [(n, b) for i, n in enumerate(MORE) for b in ("sdtv3_tiny_srb", ("resnet18", "spikformer_8_384")[i % 2])],
)
@pytest.mark.sweep
def test_more_stock_models_train_and_predict_with_it(name, backbone):
    config = load_config(name)
    swap_backbone(config, backbone)
    assert try_model(config) == ""


@pytest.mark.slow
def test_interface_option():
    def swapped(name, interface):
        config = load_config(name)
        swap_backbone(config, "sdtv3_tiny_srb", interface)
        return config.model

    stock = load_config(RETINANET).model
    assert swapped(RETINANET, "auto") == swapped(RETINANET, "exact")
    model = swapped(RETINANET, "stock")
    assert model.backbone.type == "sterf_plugins.DropInBackbone"
    assert {k: v for k, v in model.items() if k != "backbone"} == {k: v for k, v in stock.items() if k != "backbone"}
    assert swapped(YOLOX, "auto").backbone.type == "sterf_plugins.DropInBackbone"
    with pytest.raises(ValueError, match=r"--interface exact: the neck is YOLOXPAFPN, not FPN.*give --interface stock"):
        swapped(YOLOX, "exact")
    with pytest.raises(ValueError, match="--interface is 'own'; allowed: auto, exact, stock"):
        swapped(YOLOX, "own")


@pytest.mark.slow
def test_two_lines_say_what_was_done():
    lines = []
    config = load_config(C4)
    swap_backbone(config, "sdtv3_tiny_srb", tell=lines.append)
    assert lines == [
        "--backbone sdtv3_tiny_srb, stock interface (there is no neck and no decode head that names its input levels): "
        "channels 1024, strides 16, as neck and heads take them, by adapters with 198,656 parameters",
        "--backbone sdtv3_tiny_srb: of the stock backbone no longer hold: its weights "
        "open-mmlab://detectron2/resnet50_caffe; frozen_stages=1; norm_eval=True; why images are BGR with mean "
        "[103.53, 116.28, 123.675] and std [1.0, 1.0, 1.0], as they stay",
    ]
    assert 192 * 1024 + 2 * 1024 == 198_656
    swap_backbone(load_config(DETR), "resnet18", tell=lines.append)
    assert lines[-1].endswith("norm_eval=True; why its learning rate is 0.1 of the others', as it stays")


def test_a_failed_swap_leaves_the_config_as_it_was():
    config = load_config(
        "mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py", {"model.neck": dict(type="JPU")}
    )
    before = config.pretty_text
    with pytest.raises(ValueError, match="the neck is JPU"):
        swap_backbone(config, "resnet18", "exact")
    assert config.pretty_text == before
    swap_backbone(config, "resnet18", "stock")
    assert config.model.pretrained is None


@pytest.mark.slow
def test_one_level_stays_one_level_for_a_transformer():
    """DETR's neck takes one level; it is no reason for a simple pyramid."""
    for backbone, stride in (("sdtv3_tiny_srb", 16), ("resnet18", 32), ("spikformer_8_384", 16)):
        config = load_config(DETR)
        swap_backbone(config, backbone)
        assert config.model.neck.type == "ChannelMapper"
        model = MODELS.build(config.model.backbone)
        assert model.out_strides == (stride,)


@pytest.mark.slow
def test_learning_rates_by_layers_of_the_stock_backbone_are_taken_out():
    config = load_config(BEIT)
    assert config.optim_wrapper.constructor == "LayerDecayOptimizerConstructor"
    swap_backbone(config, "resnet18")
    assert "constructor" not in config.optim_wrapper
    assert not {"num_layers", "layer_decay_rate", "decay_rate", "decay_type"} & set(config.optim_wrapper.paramwise_cfg)


def test_a_semi_supervised_detector_has_its_backbone_inside():
    config = load_config("mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py")
    swap_backbone(config, "resnet18")
    assert config.model.detector.backbone.type == "sterf_plugins.TIMMBackbone"


@pytest.mark.slow
def test_strides_that_stand_elsewhere_are_replaced_too():
    """They are defaults of the head's class, or of a tracker's head beside the detector."""
    config = load_config("mmdet::vfnet/vfnet_r50_fpn_1x_coco.py")
    assert "anchor_generator" not in config.model.bbox_head
    swap_backbone(config, "sdtv3_nano_srb")
    anchors = config.model.bbox_head.anchor_generator
    assert anchors.strides == config.model.bbox_head.strides == [8, 16, 16, 32, 64]
    assert anchors.base_sizes == [8, 16, 32, 64, 128] and anchors.octave_base_scale == 8
    config = load_config("mmdet::cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py")
    swap_backbone(config, "sdtv3_nano_srb")
    assert [stage.anchor_generator.strides for stage in config.model.rpn_head.stages] == [[4, 8, 16, 16, 32]] * 2
    config, lines = load_config("mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base.py"), []
    swap_backbone(config, "sdtv3_nano_srb", tell=lines.append)
    assert config.model.track_head.roi_extractor.featmap_strides == [4, 8, 16, 16]
    assert config.model.detector.roi_head.bbox_roi_extractor.featmap_strides == [4, 8, 16, 16]
    assert config.model.detector.init_cfg is None and "faster_rcnn_r50_fpn_1x_coco-person_2020" in lines[-1]


def test_a_student_keeps_the_strides_of_its_teacher():
    config = load_config("mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py")
    with pytest.raises(ValueError, match="teacher_config takes the stock strides for granted"):
        swap_backbone(config, "sdtv3_nano_srb", "exact")


def test_synchronised_norms_stay_synchronised():
    config = load_config(DEEPLAB)
    swap_backbone(config, "resnet18")
    assert config.model.backbone.norm_cfg == dict(type="SyncBN")
    revert_sync_bn(config)
    assert config.model.backbone.norm_cfg == dict(type="BN")
    assert config.find_unused_parameters  # the head leaves one of four outputs alone, which DDP has to know


def test_norm_eval_and_frozen_stages_are_the_timm_models_alone():
    model = DropInBackbone(
        "resnet18", [dict(channels=8, stride=8), dict(channels=8, stride=16)], norm_eval=True, frozen_stages=1
    )
    model.train()
    assert model.out_strides == (8, 16)  # of five levels
    assert not any(m.training for m in model.timm_model.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(m.training for m in model.adapters.modules())
    assert all(p.requires_grad for p in model.adapters.parameters())
    assert not all(p.requires_grad for p in model.timm_model.parameters())


def test_only_what_timm_says_of_features_is_a_missing_feature():
    from timm.models import register_model
    from timm.models._builder import build_model_with_cfg

    class NoFeatures(nn.Module):
        def __init__(self, fault=None, **kwargs):
            super().__init__()
            if fault == "attribute":
                self.missing_attribute  # noqa: B018
            if fault == "runtime":
                raise RuntimeError("shapes differ")

    @register_model
    def sterf_test_no_features(pretrained=False, **kwargs):
        return build_model_with_cfg(NoFeatures, "sterf_test_no_features", pretrained, **kwargs)

    try:
        with pytest.raises(ValueError, match=r"timm gives no feature maps of it .*feature_info"):
            feature_levels("sterf_test_no_features")
        with pytest.raises(AttributeError, match="missing_attribute"):
            feature_levels("sterf_test_no_features", fault="attribute")
        with pytest.raises(RuntimeError, match="shapes differ"):
            feature_levels("sterf_test_no_features", fault="runtime")
    finally:
        timm.models._registry._model_entrypoints.pop("sterf_test_no_features")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "target", "norm"),
    [
        ("mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py", "conv1.conv", "conv1.bn"),
        ("mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py", "patch_embed.projection", None),
        ("mmdet::hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py", "conv1", "bn1"),
        (TRIDENT, "conv1", "bn1"),
        (PIDNET, "stem.0.conv", "stem.0.bn"),
    ],
)
def test_stem_option_finds_the_first_convolution(name, target, norm):
    config = load_config(name)
    stock = build_stock(config.model.backbone, config.default_scope)
    stock.eval()
    swap_stem(config, "covariant")
    assert (config.model.backbone.target, config.model.backbone.norm) == (target, norm)
    revert_sync_bn(config)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model.backbone)
    model.eval()
    assert isinstance(model.backbone.get_submodule(target), CovariantRFConv2d)
    x = torch.rand(1, 3, 64, 64)
    assert shapes(model(x)) == shapes(stock(x))
    assert getattr(model, "num_branch", None) == getattr(stock, "num_branch", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [(BISENET, "spatial_path"), (YOLOX, "CSPDarknet does not start with one convolution: none")],
)
def test_stem_option_refuses_two_first_convolutions_or_none(name, message):
    with pytest.raises(ValueError, match=message):
        swap_stem(load_config(name), "covariant")


@pytest.mark.parametrize("name", ["mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py", BISENET])
def test_the_number_of_image_channels_is_kept(name):
    key = "backbone_cfg.in_channels" if name == BISENET else "in_channels"
    config = load_config(name, {f"model.backbone.{key}": 4, "model.backbone.in_channels": 4})
    swap_backbone(config, "resnet18")
    assert MODELS.build(config.model.backbone)(torch.rand(2, 4, 64, 64))[0].shape[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("name", [MASK_RCNN, YOLOX])
@pytest.mark.sweep
def test_transformers_of_one_image_size_take_any(name, backbone):
    config = load_config(name)
    swap_backbone(config, backbone)
    model = MODELS.build(config.model.backbone)
    with torch.no_grad():
        maps = model(torch.rand(1, 3, 96, 64))
    widths = [level.channels for level in interface(YOLOX).levels] if name == YOLOX else list(model.out_channels)
    assert [y.shape[1] for y in maps] == widths
    assert [64 // y.shape[3] for y in maps] == ([8, 16, 32] if name == YOLOX else list(model.out_strides))


@pytest.mark.parametrize("interface", ["exact", "stock"])
def test_types_may_be_classes(interface):
    from mmdet.models import FPN, ResNet, RetinaNet

    config, named = load_config(RETINANET), load_config(RETINANET)
    config.model.type, config.model.backbone.type, config.model.neck.type = RetinaNet, ResNet, FPN
    swap_backbone(config, "resnet18", interface)
    swap_backbone(named, "resnet18", interface)
    assert config.model.backbone == named.model.backbone
    assert config.model.neck.in_channels == named.model.neck.in_channels
