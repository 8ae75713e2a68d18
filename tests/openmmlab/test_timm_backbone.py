"""``TIMMBackbone``: freezing, checkpointing, checkpoints, stems and channels, for our models and for timm's."""

import pytest
import timm
import torch
from live import equal, images, live, same
from torch import nn

import sterf_plugins

sterf_plugins.setup()

from mmengine.registry import MODELS  # noqa: E402

NANO = dict(arch=dict(embed_dims=[8, 16, 24, 32], num_heads=4))
MODELS_OF_ALL_KINDS = {
    "sdtv3_nano_srb": NANO,
    "spikformer_8_384": dict(depth=3, dim=32, num_heads=2, T=2),
    "meta_sdt_15m": dict(embed_dims=(8, 16, 32, 32), T=2),
    "covrf_resnet18": {},
    "resnet18": {},
    "efficientnet_b0": {},
    "vit_tiny_patch16_224": dict(img_size=64, depth=3),
}


def build(name, **options):
    return MODELS.build(dict(type="sterf_plugins.TIMMBackbone", model_name=name, **options))


def trained(net):
    return {name for name, p in net.named_parameters() if p.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS_OF_ALL_KINDS)
@pytest.mark.sweep
def test_frozen_stages_stay_as_they_are(name):
    net = live(build(name, frozen_stages=1, **MODELS_OF_ALL_KINDS[name])).train()
    levels = len(net.out_channels)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = images()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    early = net(x)[1].detach()
    sum(y.square().mean() for y in net(x)).backward()
    optimizer.step()
    after = net.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed and equal(early, net(x)[1])  # neither weights nor statistics of the first two levels have moved
    everything = build(name, **MODELS_OF_ALL_KINDS[name])
    assert trained(net) < trained(everything) == {k for k, _ in everything.named_parameters()}
    assert not trained(build(name, frozen_stages=levels - 1, **MODELS_OF_ALL_KINDS[name])) or "vit" not in name
    with pytest.raises(ValueError, match=f"`frozen_stages` is {levels}; give .* 0 to {levels - 1}"):
        build(name, frozen_stages=levels, **MODELS_OF_ALL_KINDS[name])


@pytest.mark.parametrize("name", ["sdtv3_nano_srb", "spikformer_8_384", "meta_sdt_15m", "covrf_resnet18"])
def test_mmcv_folds_norms_into_the_right_convolutions(name):
    """Its ``fuse_conv_bn``, as of mmdet's ``benchmark --fuse-conv-bn``, goes by the order in which layers are registered."""
    from mmcv.cnn import fuse_conv_bn

    net = live(build(name, **MODELS_OF_ALL_KINDS[name])).double().eval()
    x = images(1).double()
    with torch.no_grad():
        expected = net(x)
        for ours, theirs in zip(fuse_conv_bn(net)(x), expected, strict=True):
            assert theirs.std() > 0
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["sdtv3_nano_srb", "meta_sdt_15m"])
@pytest.mark.slow
def test_get_flops_sees_every_convolution(name, shallow):
    """mmengine, as ``get_flops`` of mmdet and mmseg, counts what ``torch.jit`` traces: no function of our own may hide one."""
    from mmengine.analysis import FlopAnalyzer

    net, x = build(name, **MODELS_OF_ALL_KINDS[name]).eval(), images(1)
    analyzer = FlopAnalyzer(net, (x,)).unsupported_ops_warnings(False).tracer_warnings("none")
    found = analyzer.by_operator()["conv"]
    products = 0

    def count(module, inputs, output):
        nonlocal products
        products += output.numel() * module.weight[0].numel()

    for module in net.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            module.register_forward_hook(count)
    net(x)
    assert found == products > 1e6


def test_frozen_stages_stay_frozen_as_sync_bn():
    net = nn.SyncBatchNorm.convert_sync_batchnorm(build("resnet18", frozen_stages=1)).train()
    modes = {name: m.training for name, m in net.named_modules() if isinstance(m, nn.SyncBatchNorm)}
    assert not modes["timm_model.bn1"] and not modes["timm_model.layer1.1.bn2"] and modes["timm_model.layer2.0.bn1"]


@pytest.mark.parametrize("name", MODELS_OF_ALL_KINDS)
def test_norm_eval(name):
    net = build(name, norm_eval=True, **MODELS_OF_ALL_KINDS[name]).train()
    norms = [m for m in net.modules() if hasattr(m, "running_mean")]
    assert net.training and not any(m.training for m in norms) and len(trained(net)) == len(list(net.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS_OF_ALL_KINDS)
@pytest.mark.sweep
def test_with_cp_changes_no_gradient(name):
    x = images()
    kept, grads = [], []
    for with_cp in (False, True):
        torch.manual_seed(0)
        net = live(build(name, with_cp=with_cp, norm_eval=True, **MODELS_OF_ALL_KINDS[name])).train()
        stored = 0

        def pack(t):
            nonlocal stored
            stored += t.numel()
            return t

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = sum(y.square().mean() for y in net(x))
        kept.append(stored)
        loss.backward()
        grads.append([p.grad for p in net.parameters() if p.grad is not None])
    assert kept[1] < kept[0]
    assert len(grads[0]) == len(grads[1]) > 0
    assert sum(bool(a.any()) for a in grads[0]) > len(grads[0]) / 4  # stock ResNets start with branches switched off
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_with_cp_where_timm_has_none():
    with pytest.raises(ValueError, match="`with_cp` is True, but timm has no gradient checkpointing for inception_v3"):
        build("inception_v3", feature_cls="getter", with_cp=True)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [10, 0])
@pytest.mark.parametrize("name", MODELS_OF_ALL_KINDS)
@pytest.mark.sweep
def test_a_checkpoint_is_loaded_strictly(name, classes, tmp_path):
    options = MODELS_OF_ALL_KINDS[name]
    model = timm.create_model(name, num_classes=classes, **options).eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.bias, 0.5)  # so that spikes reach the last level
    path = tmp_path / "weights.pth"
    torch.save(dict(state_dict=model.state_dict()), path)
    net = build(name, checkpoint_path=str(path), **options)
    net.init_weights()
    x = torch.randn(1, 3, 64, 64)
    levels = model.forward_intermediates(x, intermediates_only=True)
    # timm's feature nets of transformers leave the last norm out, too
    assert torch.allclose(net.eval()(x)[-1], levels[-1], atol=1e-5) and levels[-1].std() > 0
    broken = dict(list(model.state_dict().items())[1:])
    torch.save(broken, path)
    with pytest.raises((ValueError, RuntimeError), match="is not of this model"):
        build(name, checkpoint_path=str(path), **options)


def test_configs_of_mmsegs_own_class(tmp_path):
    net = build("sdtv3_nano", features_only=True, **NANO)
    assert len(net(images(1))) == 5
    with pytest.raises(ValueError, match="`features_only` is False; a backbone gives feature maps"):
        build("sdtv3_nano", features_only=False, **NANO)
    with pytest.raises(ValueError, match=r"`checkpoint_path`: there is no file .*none\.pth"):
        build("sdtv3_nano", checkpoint_path=str(tmp_path / "none.pth"), **NANO)


def test_a_published_checkpoint(golden, tmp_path):
    _, arrays, state = golden.case("bb_det_srb_t8")
    path = tmp_path / "published.pth"
    torch.save({"model": state}, path)
    net = build("sdtv3_nano_srb_released", checkpoint_path=str(path), out_indices=(1, 2, 3, 4), **NANO).eval()
    for i, y in enumerate(net(arrays["x"])):
        assert torch.allclose(y, arrays[f"y.{i}"][0], atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("stem", [None, dict(init="rf")])
@pytest.mark.parametrize("name", ["sdtv3_nano_srb", "meta_sdt_15m", "resnet18", "convnext_atto"])
def test_stems_and_channels(name, stem, channels):
    options = MODELS_OF_ALL_KINDS.get(name, {})
    net = build(name, stem=stem, in_channels=channels, **options)
    assert [y.shape[1] for y in net(torch.randn(1, channels, 64, 64))] == list(net.out_channels)
    kinds = {type(m).__name__ for m in net.modules()}
    assert ("CovariantRFConv2d" in kinds) == (stem is not None)


def test_levels_of_a_model_of_another_depth():
    net = build("spikformer_8_384", depth=2, dim=32, num_heads=2, T=1, out_indices=(1,))
    assert len(net(torch.randn(1, 3, 32, 32))) == 1
    with pytest.raises(ValueError, match=r"`out_indices` is \(2,\); spikformer_8_384 has 0 .* 1 \(stride 16"):
        build("spikformer_8_384", depth=2, dim=32, num_heads=2, out_indices=(2,))


@pytest.mark.parametrize("name", ["covrf_resnet18", "covrf_sdtv3_tiny_srb"])
def test_covariant_names_fit_a_stock_neck(name):
    from sterf_plugins.openmmlab.configs.exact import pyramid

    net = build(name, out_indices=pyramid(name).indices)
    assert net.out_strides == pyramid(name).strides and net.out_channels == pyramid(name).channels


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdtv3_nano_srb", "resnet18"])
@pytest.mark.parametrize("start", ["", "backbone.", "module.backbone.", "student.backbone."])
@pytest.mark.sweep
def test_pretrained_weights_load_whole_or_not_at_all(name, start, tmp_path):
    net = live(build(name))
    path = tmp_path / "own.pth"
    torch.save(dict(state_dict={f"{start}{k}": v for k, v in net.state_dict().items()}), path)
    init = dict(type="Pretrained", checkpoint=str(path))
    if start.startswith("student."):
        with pytest.raises(ValueError, match="is not of this backbone"):
            build(name, init_cfg=init).init_weights()
        init["prefix"] = "student.backbone"
    other = build(name, init_cfg=init)
    other.init_weights()
    assert same(net, other)
    state = net.state_dict()
    del state[next(iter(state))]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"1 of \d+ entries are missing.*`checkpoint_path`"):
        build(name, init_cfg=dict(type="Pretrained", checkpoint=str(path))).init_weights()


def test_a_checkpoint_under_timms_names_is_no_checkpoint_of_the_backbone(tmp_path):
    """mmengine would load nothing of it, and say so in a line of the log alone."""
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "timm.pth")
    with pytest.raises(ValueError, match=r"is not of this backbone.*goes into `checkpoint_path`"):
        build("resnet18", init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "timm.pth"))).init_weights()
