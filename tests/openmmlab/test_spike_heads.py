"""Spiking necks and heads: what their layers see, time, and the released mismatch."""

import pytest
import torch
from torch import nn

import sterf_plugins

sterf_plugins.setup()

from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from sterf_plugins.activity import FiringRates, count_operations  # noqa: E402
from sterf_plugins.erf import calibrate  # noqa: E402
from sterf_plugins.openmmlab.configs.reading import load_config, revert_sync_bn  # noqa: E402
from sterf_plugins.registry import MODELS  # noqa: E402

NECK = dict(in_channels=[8, 8, 8, 8], out_channels=16, num_outs=4)


def maps(channels=8, time=None):
    lead = (2,) if time is None else (time, 2)
    return [torch.randn(*lead, channels, 32 // 2**i, 32 // 2**i) * 3 for i in range(4)]


def inputs_of(model, kinds, run):
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda m, a, y, name=name: seen.__setitem__(name, a[0]))
    run()
    return seen


def are_integers(x, most=4):
    return bool((x == x.round()).all() and x.min() >= 0 and x.max() <= most)


@pytest.mark.parametrize("kind", ["SpikeFPN", "SpikeSegFPN"])
def test_necks_convolve_integers_and_take_time(kind):
    neck = MODELS.build(dict(type=f"sterf_plugins.{kind}", **NECK)).eval()
    x = maps()
    seen = inputs_of(neck, nn.Conv2d, lambda: neck(x))
    assert len(seen) == 8 and all(map(are_integers, seen.values()))
    timed = neck([torch.stack([f, f * 0.5, f]) for f in x])
    for y, steps in zip(neck(x), timed, strict=True):
        assert torch.allclose(steps[0], y, atol=1e-5) and torch.allclose(steps[2], y, atol=1e-5)
        assert not torch.allclose(steps[1], y)


def test_the_neck_is_the_same_in_training_and_the_released_one_is_not():
    x = maps()
    for levels, same in ((None, True), (1, False)):
        neck = MODELS.build(dict(type="sterf_plugins.SpikeFPN", eval_levels=levels, **NECK))
        train, evaluated = neck.train()(x), neck.eval()(x)
        assert all(torch.equal(a, b) for a, b in zip(train, evaluated, strict=True)) == same


def test_the_whole_detector_and_segmentor_convolve_integers_only():
    for name, analog in (
        (
            "mask_rcnn/mask-rcnn_sdtv3-t-srb_spikefpn_ms-1x_coco.py",
            {"roi_head.bbox_head.fc_cls", "roi_head.bbox_head.fc_reg"},
        ),
        ("semantic_fpn/fpn_sdtv3-t-srb_spikefpn_4xb10-160k_ade20k-512x512.py", set()),
    ):
        config = load_config(f"sterf_plugins::{name}")
        revert_sync_bn(config)
        init_default_scope(config.default_scope)
        from mmengine.registry import MODELS as ROOT_MODELS

        model = ROOT_MODELS.build(config.model).eval()

        def run(model=model, name=name):
            with torch.no_grad():
                x = model.extract_feat(torch.randn(1, 3, 64, 64))
                if name.startswith("mask"):
                    model.rpn_head(x)
                    model.roi_head(x, [InstanceData(bboxes=torch.tensor([[4.0, 4, 40, 40]]))])
                else:
                    model.decode_head(x)

        kinds = (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)
        seen = {k: v for k, v in inputs_of(model, kinds, run).items() if not k.startswith("backbone.")}
        assert len(seen) > 15
        assert {k for k, v in seen.items() if not are_integers(v)} == analog


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_heads_average_over_time(scope):
    init_default_scope(scope)
    x = maps(16)
    timed = [torch.stack([f, f]) for f in x]
    if scope == "mmseg":
        head = MODELS.build(
            dict(
                type="sterf_plugins.SpikeFPNHead",
                in_channels=[16] * 4,
                in_index=[0, 1, 2, 3],
                feature_strides=[4, 8, 16, 32],
                channels=16,
                num_classes=3,
                norm_cfg=dict(type="BN"),
                align_corners=False,
            )
        ).eval()
        assert torch.allclose(head(x), head(timed), atol=1e-5)
        return
    config = load_config("sterf_plugins::shapes/mask-rcnn_sdtv3-t-srb_spikefpn_shapes.py").model
    config.rpn_head.update(in_channels=16, feat_channels=16)
    from mmengine.registry import MODELS as ROOT_MODELS

    config.roi_head.train_cfg, config.roi_head.test_cfg = config.train_cfg.rcnn, config.test_cfg.rcnn
    config.rpn_head.train_cfg, config.rpn_head.test_cfg = config.train_cfg.rpn, config.test_cfg.rpn
    rpn = ROOT_MODELS.build(config.rpn_head).eval()
    for a, b in zip(rpn(x), rpn(timed), strict=True):
        assert all(torch.allclose(m, n, atol=1e-5) for m, n in zip(a, b, strict=True))
    roi = ROOT_MODELS.build(config.roi_head).eval()
    wide = [torch.randn(2, 64, 16 // 2**i, 16 // 2**i) * 3 for i in range(4)]
    boxes = [InstanceData(bboxes=torch.tensor([b])) for b in ([4.0, 4, 40, 40], [2.0, 2, 30, 50])]
    still = tuple(torch.stack([f, f]) for f in wide)
    for a, b in zip(roi(tuple(wide), boxes), roi(still, boxes), strict=True):  # classes, boxes, masks
        assert torch.allclose(a, b, atol=1e-5)


def test_simple_fpn():
    neck = MODELS.build(dict(type="sterf_plugins.SimpleFPN", in_channels=64, out_channels=32, num_outs=5))
    sizes = [tuple(y.shape) for y in neck((torch.randn(2, 64, 8, 6),))]
    assert sizes == [(2, 32, 32, 24), (2, 32, 16, 12), (2, 32, 8, 6), (2, 32, 4, 3), (2, 32, 2, 2)]
    spiking = dict(
        type="sterf_plugins.SimpleFPN", in_channels=64, out_channels=32, act_cfg=dict(type="sterf_plugins.SpikingAct")
    )
    sum(y.sum() for y in MODELS.build(spiking)(torch.randn(1, 64, 4, 4))).backward()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(type="sterf_plugins.SimpleFPN", in_channels=30), "it must be a multiple of 4"),
        (dict(type="sterf_plugins.SimpleFPN", in_channels=64, num_outs=3), "it must be at least 4"),
        (dict(type="sterf_plugins.SpikeFPN", levels=0, **NECK), "`levels` is 0"),
        (dict(type="sterf_plugins.SpikeRPNHead", in_channels=8, num_convs=2), "`num_convs` is 2"),
    ],
)
def test_bad_arguments(settings, message):
    init_default_scope("mmdet")
    with pytest.raises(Exception, match=message):
        MODELS.build(settings)


PAFPNS = [("SpikeCSPNeXtPAFPN", False), ("SpikeCSPNeXtPAFPN", True), ("SpikeYOLOXPAFPN", False)]


@pytest.mark.parametrize(("kind", "depthwise"), PAFPNS)
def test_path_aggregating_necks_convolve_integers_and_take_time(kind, depthwise):
    init_default_scope("mmdet")
    torch.manual_seed(0)
    options = dict(in_channels=[8, 8, 8], out_channels=16, num_csp_blocks=1, use_depthwise=depthwise)
    neck = MODELS.build(dict(type=f"sterf_plugins.{kind}", **options))
    x = maps()[:3]
    with torch.no_grad():
        for norm in (m for m in neck.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.momentum = 1.0  # the statistics of these maps, with which all layers fire
        neck.train()(x)
        neck.eval()
        seen = inputs_of(neck, nn.Conv2d, lambda: neck(x))
        assert len(seen) > 25 and all(are_integers(s) and s.any() for s in seen.values())
        timed = neck([torch.stack([f, f * 0.5, f]) for f in x])
        for y, steps in zip(neck(x), timed, strict=True):
            assert torch.allclose(steps[0], y, atol=1e-5) and torch.allclose(steps[2], y, atol=1e-5)
            assert not torch.allclose(steps[1], y)


@pytest.mark.parametrize("kind", ["SpikeRTMDetSepBNHead", "SpikeYOLOXHead"])
def test_one_stage_heads_average_over_time(kind):
    init_default_scope("mmdet")
    head = MODELS.build(
        dict(type=f"sterf_plugins.{kind}", num_classes=3, in_channels=16, feat_channels=16, **GRID[kind])
    )
    x = [torch.randn(2, 16, 16 // 2**i, 16 // 2**i) * 3 for i in range(3)]
    with torch.no_grad():
        for norm in (m for m in head.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.momentum = 1.0
        head.train()(x)
        head.eval()
        single, double = head(x), head([f * 0.5 for f in x])
        timed = head([torch.stack([f, f * 0.5]) for f in x])
    for a, b, mean in zip(single, double, timed, strict=True):
        for m, n, both in zip(a, b, mean, strict=True):
            assert torch.allclose((m + n) / 2, both, atol=1e-5) and not torch.allclose(m, n)


GRID = {
    "SpikeRTMDetSepBNHead": dict(
        anchor_generator=dict(type="MlvlPointGenerator", offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type="DistancePointBBoxCoder"),
        with_objectness=True,
    ),
    "SpikeYOLOXHead": dict(),
}


class Predictions(nn.Module):
    """A one-stage detector as a function of images: what its head predicts, before boxes are made of it."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def forward(self, images):
        return self.detector.bbox_head(self.detector.extract_feat(images))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "rtmdet/rtmdet_sdtv3-t-srb_spikepafpn_8xb32-300e_coco.py",
        "yolox/yolox_sdtv3-t-srb_spikepafpn_8xb8-300e_coco.py",
        "shapes/rtmdet_sdtv3-t-srb_spikepafpn_shapes.py",
    ],
)
@pytest.mark.sweep
def test_one_stage_detectors_fire_and_multiply_in_the_first_layer_alone(name):
    """All products behind the first convolution are additions, one for each spike; neck and head have some everywhere."""
    config = load_config(f"sterf_plugins::{name}")
    revert_sync_bn(config)
    init_default_scope(config.default_scope)
    torch.manual_seed(0)
    model = Predictions(MODELS.build(config.model))
    model.detector.init_weights()
    images = torch.randn(4, 3, 64, 64)
    calibrate(model, images)
    with FiringRates(model) as rates:
        operations = count_operations(model, images)
    assert [layer for layer, o in operations.layers.items() if o.macs] == [next(iter(operations.layers))]
    behind = {layer: o for layer, o in operations.layers.items() if ".stages." not in layer}  # adapters, neck and head
    assert len(behind) > 35 and [layer for layer, o in behind.items() if not o.acs] == []
    neurons = [layer for key, layer in rates.layers.items() if ".neck" in key or ".bbox_head" in key]
    assert len(neurons) > 20 and not any(layer.silent or layer.saturated for layer in neurons)
