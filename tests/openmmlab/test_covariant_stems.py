"""Covariant stems around mmdet's and mmseg's backbones: freezing, norms, pretrained weights, layers."""

import copy

import pytest
import torch
from torch import nn

import sterf_plugins

sterf_plugins.setup()

from mmdet.models.backbones import ResNet as DetResNet  # noqa: E402
from mmengine.runner import save_checkpoint  # noqa: E402
from mmseg.models.backbones import ResNet as SegResNet  # noqa: E402

from sterf_plugins.registry import MODELS  # noqa: E402
from sterf_plugins.stems import CovariantRFConv2d  # noqa: E402

SMALL = dict(type="sterf_plugins.CovariantStemResNet", depth=18, base="mmdet", norm_cfg=dict(type="BN"))
VARIANTS = {"plain": {}, "V1c": dict(deep_stem=True), "V1d": dict(deep_stem=True, avg_down=True)}


def stem_of(model):
    return model.stem[0] if model.deep_stem else model.conv1


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("base", "stock"), [("mmdet", DetResNet), ("mmseg", SegResNet)])
@pytest.mark.slow
def test_variants(variant, base, stock):
    options = dict(VARIANTS[variant], depth=18, norm_cfg=dict(type="BN"))
    model = MODELS.build(dict(options, type="sterf_plugins.CovariantStemResNet", base=base))
    model.init_weights()
    assert isinstance(model, stock)
    assert isinstance(stem_of(model), CovariantRFConv2d)
    x = torch.rand(1, 3, 70, 64)
    assert [y.shape for y in model(x)] == [y.shape for y in stock(**options)(x)]
    twin = copy.deepcopy(model).eval()
    torch.testing.assert_close(twin(x)[0], model.eval()(x)[0])


@pytest.mark.parametrize("variant", ["plain", "V1c"])
def test_freezing_leaves_the_stem_alone_unless_asked(variant):
    options = dict(SMALL, frozen_stages=1, norm_eval=True, **VARIANTS[variant])
    for freeze in (False, True):
        model = MODELS.build(dict(options, freeze_stem=freeze)).train().eval().train()
        norm = model.stem[1] if model.deep_stem else model.bn1
        assert all(p.requires_grad is not freeze for p in stem_of(model).parameters())
        assert norm.training is not freeze
        assert not any(p.requires_grad for p in model.layer1.parameters())
        assert not model.layer2[0].bn1.training


@pytest.mark.parametrize("init", ["rf", "rf-free"])
@pytest.mark.parametrize("variant", ["plain", "V1c"])
@pytest.mark.slow
def test_pretrained_weights_load_into_all_but_the_stem(tmp_path, variant, init):
    options = VARIANTS[variant]
    stock = DetResNet(18, norm_cfg=dict(type="BN"), **options)
    for p in stock.parameters():
        nn.init.normal_(p)
    for buffer in stock.buffers():
        buffer.fill_(3)
    file = tmp_path / "stock.pth"
    save_checkpoint(dict(state_dict=stock.state_dict()), str(file))
    pretrained = dict(type="Pretrained", checkpoint=str(file))
    for config in (
        dict(SMALL, stem=dict(init=init), init_cfg=pretrained, **options),
        dict(
            type="sterf_plugins.WithCovariantStem",
            backbone=dict(type="mmdet.ResNet", depth=18, norm_cfg=dict(type="BN"), init_cfg=pretrained, **options),
            target="stem.0" if options else "conv1",
            norm="stem.1" if options else "bn1",
            stem=dict(init=init),
        ),
    ):
        model = MODELS.build(config)
        start = {k: v.clone() for k, v in stem_of(getattr(model, "backbone", model)).state_dict().items()}
        model.init_weights()
        model = getattr(model, "backbone", model)
        for k, v in stem_of(model).state_dict().items():
            assert torch.equal(v, start[k])
        own = model.state_dict()
        loaded = [k for k, v in stock.state_dict().items() if k in own and torch.equal(own[k], v)]
        skipped = {"stem.0", "stem.1"} if options else {"conv1", "bn1"}
        expected = [k for k in stock.state_dict() if k.rpartition(".")[0] not in skipped]
        assert set(expected) <= set(loaded)
        norm = model.stem[1] if options else model.bn1
        assert norm.running_mean.abs().max() == 0
        assert (norm.running_var == 1).all()


def test_any_backbone():
    model = MODELS.build(
        dict(
            type="sterf_plugins.WithCovariantStem",
            backbone=dict(type="mmdet.SwinTransformer", embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)),
            target="patch_embed.projection",
        )
    )
    model.init_weights()
    assert len(model(torch.rand(1, 3, 64, 64))) == 4
    with pytest.raises(ValueError, match=r"no layer 'conv1'.*patch_embed\.projection"):
        MODELS.build(dict(type="sterf_plugins.WithCovariantStem", backbone=dict(type="mmdet.SwinTransformer")))


def test_the_layer_in_conv_modules():
    from mmcv.cnn import ConvModule

    options = dict(conv_cfg=dict(type="sterf_plugins.CovariantConv2d", learn=("sigma",)), norm_cfg=dict(type="BN"))
    for size, stride, padding in ((3, 1, 1), (3, 2, 1), (7, 2, 3)):
        x = torch.randn(2, 4, 17, 20)
        layer = ConvModule(4, 6, size, stride, padding, **options)
        assert isinstance(layer.conv, CovariantRFConv2d)
        assert layer(x).shape == ConvModule(4, 6, size, stride, padding)(x).shape
    assert type(ConvModule(4, 6, 1, **options).conv) is nn.Conv2d


def test_published_weights_under_another_stem(tmp_path):
    """A checkpoint of SDT-V3 knows the convolution stem alone; it fills all but another one."""
    stock = MODELS.build(dict(type="sterf_plugins.SDTV3", arch="nano"))
    torch.save({"state_dict": stock.state_dict()}, tmp_path / "nano.pth")
    model = MODELS.build(
        dict(
            type="sterf_plugins.SDTV3",
            arch="nano",
            stem=dict(type="covariant"),
            init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "nano.pth")),
        )
    )
    model.init_weights()
    kept = {k: v for k, v in stock.state_dict().items() if not k.startswith("stages.0.downsample.")}
    own = model.state_dict()
    assert all(torch.equal(own[k], v) for k, v in kept.items())
