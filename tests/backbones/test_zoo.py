"""Spikformer, SDT-V1, Meta-SDT, QKFormer and Max-Former: published sizes, two kinds of input, no state, live surrogates."""

import copy

import pytest
import timm
import torch
from live import equal, images, live
from torch import nn

import sterf_plugins.timm  # noqa: F401
from sterf_plugins.backbones import SDTV1, MaxFormer, MetaSDT, QKFormer, Spikformer
from sterf_plugins.backbones.meta_sdt import BorderedBatchNorm
from sterf_plugins.testing import check_backbone

SMALL = {
    "spikformer": lambda **o: Spikformer(depth=2, dim=32, num_heads=4, **o),
    "sdtv1": lambda **o: SDTV1(depth=2, dim=32, num_heads=4, **o),
    "qkformer": lambda **o: QKFormer(depth=4, dim=64, num_heads=4, **o),
    "meta_sdt": lambda **o: MetaSDT(embed_dims=(8, 16, 32, 48), num_heads=4, **o),
    "max_former": lambda **o: MaxFormer(depth=4, dim=64, num_heads=4, **o),
}


def alive(model, size=64, dtype=None):
    """Weights that let the neurons fire, and the BatchNorm statistics of a batch of noise.

    A channel that never fires has no variance, and three norms in a row would then scale a gradient by 316 each.
    """
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = None
    model.to(dtype or torch.float32).train()
    with torch.no_grad():
        model(torch.randn(4, 3, size, size, dtype=dtype))
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_var.clamp_(min=0.01)
    return model.eval()


# Parameters measured by instantiating the released models with 1000 classes, and how many of them no forward uses: two
# LayerNorms per block of Spikformer, a 1x1 convolution over 8 heads per block of SDT-V1.
@pytest.mark.parametrize(
    ("build", "published", "dead"),
    [
        (lambda **o: Spikformer(8, 512, **o), 29705768, 8 * 4 * 512),
        (lambda **o: Spikformer(8, 384, **o), 16828312, 8 * 4 * 384),
        (lambda **o: Spikformer(6, 512, **o), 23385640, 6 * 4 * 512),
        (lambda **o: Spikformer(8, 768, **o), 66363208, 8 * 4 * 768),
        (lambda **o: SDTV1(8, 384, **o), 16816536, 8 * 64),
        (lambda **o: SDTV1(10, 384, **o), 20374040, 10 * 64),
        (lambda **o: SDTV1(6, 512, **o), 23373736, 6 * 64),
        (lambda **o: SDTV1(8, 512, **o), 29689896, 8 * 64),
        (lambda **o: SDTV1(10, 512, **o), 36006056, 10 * 64),
        (lambda **o: SDTV1(8, 768, **o), 66339144, 8 * 64),
        (lambda **o: QKFormer(10, 384, 6, **o), 16473688, 0),
        (lambda **o: QKFormer(10, 512, 8, **o), 29079336, 0),
        (lambda **o: QKFormer(10, 768, 12, **o), 64962760, 0),
        (lambda **o: MetaSDT((64, 128, 256, 360), **o), 15112208, 0),
        (lambda **o: MetaSDT((96, 192, 384, 480), **o), 31333864, 0),
        (lambda **o: MetaSDT((128, 256, 512, 640), **o), 55350248, 0),
        (lambda **o: MetaSDT((192, 384, 768, 960), **o), 123741160, 0),
    ],
)
def test_published_parameter_counts(build, published, dead):
    with torch.device("meta"):
        model = build(num_classes=1000)
    assert sum(p.numel() for p in model.parameters()) + dead == published


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.slow
def test_images_are_held_and_event_frames_bring_their_time(name):
    model = alive(SMALL[name]())
    x = torch.randn(2, 3, 64, 96)
    for y, of_frames in zip(model(x), model(x.expand(4, *x.shape).clone()), strict=True):
        assert torch.allclose(y, of_frames, atol=1e-5)
    model.keep_time = True
    frames = torch.randn(3, 2, 3, 64, 96)
    for y, c, s in zip(model(frames), model.out_channels, model.out_strides, strict=True):
        assert y.shape == (3, 2, c, 64 // s, 96 // s)
    # What comes later changes nothing before.
    changed = frames.clone()
    changed[2] = 0
    for y, z in zip(model(frames), model(changed), strict=True):
        assert torch.equal(y[:2], z[:2])
    assert not torch.equal(model(frames)[-1][2], model(changed)[-1][2])


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.sweep
def test_stateless_alive_in_eval_and_trainable(name):
    model, x = live(SMALL[name](num_classes=5)), images().requires_grad_()
    first, second = model(x), model(x)
    assert equal(first, second) and first.shape == (3, 5)
    (grad,) = torch.autograd.grad(first.sum(), x)
    assert grad.norm() > 0
    clone = copy.deepcopy(model)
    clone.load_state_dict(model.state_dict())
    assert torch.equal(clone(x), first)
    model.grad_checkpointing = True
    assert torch.equal(model(x), first)
    model.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.slow
def test_the_backbone_contract(name):
    check_backbone(SMALL[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.sweep
def test_frozen_models_give_the_same_input_gradient(name):
    """For receptive fields, whose parameters are frozen, convolution and BN have one backward pass together."""
    model = alive(SMALL[name](), dtype=torch.float64)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    grads = []
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        (grad,) = torch.autograd.grad(sum(y.square().sum() for y in model(x)), x)
        grads.append(grad)
    assert grads[0].norm() > 0
    assert torch.allclose(*grads, rtol=1e-9, atol=1e-12)


def test_the_bordered_norm_is_a_norm_of_a_padded_map():
    norm = BorderedBatchNorm(3)
    norm.train()(torch.randn(8, 3, 5, 5) * 2 + 1)
    nn.init.normal_(norm.bn.weight)
    nn.init.normal_(norm.bn.bias)
    x = torch.randn(2, 3, 4, 6)
    plain = nn.BatchNorm2d(3)
    plain.load_state_dict(norm.bn.state_dict())
    expected = plain.eval()(nn.functional.pad(x, (1, 1, 1, 1)))
    assert torch.allclose(norm.eval()(x), expected, atol=1e-6)
    norm.train().bn.eval()  # the other way to the border, with the same statistics
    assert torch.allclose(norm(x), expected, atol=1e-6)


NAMES = [
    *("spikformer_8_384", "spikformer_8_512", "sdtv1_8_384", "sdtv1_8_512", "sdtv1_8_768"),
    *("meta_sdt_15m", "meta_sdt_31m", "meta_sdt_55m", "qkformer_10_384", "qkformer_10_512", "qkformer_10_768"),
    *("max_former_10_384", "max_former_10_512", "max_former_10_768"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_timm_configuration(name):
    with torch.device("meta"):
        model = timm.create_model(name)
        features = timm.create_model(name, features_only=True)
    parameters = dict(model.named_parameters())
    cfg = model.default_cfg
    assert f"{cfg['first_conv']}.weight" in parameters and f"{cfg['classifier']}.weight" in parameters
    assert parameters[f"{cfg['first_conv']}.weight"].shape[1] == 3
    assert model.num_classes == 1000 and model.T == 4
    assert features.feature_info.reduction() == list(model.stage_strides)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["spikformer_8_384", "sdtv1_8_384", "meta_sdt_15m", "qkformer_10_384", "max_former_10_384"]
)
@pytest.mark.sweep
def test_timm_contract(name):
    model, x = live(timm.create_model(name, num_classes=3, T=2)), images(2)
    assert model(x).shape == (2, 3)
    final, intermediates = model.forward_intermediates(x)
    assert final.shape == (2, model.num_features, 4, 4) and equal(final, intermediates[-1])
    assert equal(final, model.forward_features(x))
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    model.reset_classifier(0, "")
    assert model(x).shape == (2, model.num_features, 4, 4)
    chosen = timm.create_model(name, features_only=True, out_indices=(-1,), T=1)
    assert chosen(torch.randn(2, 1, 3, 64, 64))[0].shape == (1, model.num_features, 4, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Spikformer(dim=30), "`dim` is 30; it must be a multiple of 8"),
        (lambda: Spikformer(dim=32, num_heads=3), r"`dim` \(=32\) must be divisible by `num_heads` \(=3\)"),
        (lambda: SDTV1(T=0), "`T` is 0"),
        (lambda: QKFormer(depth=3), "`depth` is 3; it must be at least 4"),
        (lambda: MaxFormer(depth=3), "`depth` is 3; it must be at least 4"),
        (lambda: MaxFormer(dim=64, num_heads=7), r"`dim` \(=64\) must be divisible by `num_heads` \(=7\)"),
        (lambda: MetaSDT((1, 2, 3)), "it must be four ints"),
        (lambda: MetaSDT(out_indices=(5,)), r"out of 0, 1, 2, 3, 4 \(strides 2, 4, 8, 16, 16\)"),
        (lambda: SMALL["sdtv1"]()(torch.randn(2, 4, 32, 32)), r"takes images \(B, 3, H, W\) or event frames"),
        (lambda: SMALL["sdtv1"]()(torch.randn(3, 32, 32)), r"takes images \(B, 3, H, W\)"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("network", [MaxFormer, MetaSDT, QKFormer, SDTV1, Spikformer])
@pytest.mark.parametrize(
    "argument",
    [
        dict(num_heads=0),
        dict(ratio=0),
        dict(ratio=1.5),
        dict(in_chans=1.0),
        dict(out_indices=1),
        dict(num_classes=-1),
        dict(keep_time="no"),
    ],
    ids=str,
)
def test_every_network_names_the_argument_that_is_wrong(network, argument):
    ((name, value),) = argument.items()
    with torch.device("meta"), pytest.raises((TypeError, ValueError), match=f"`{name}` is {value!r}"):
        network(**argument)


def test_what_reaches_the_projections_are_spikes():
    """Attention of SDT-V1 lets channels of q pass where the mask spikes, which it does for some channels only."""
    model = alive(SMALL["sdtv1"]())
    seen = {}
    for name, module in model.named_modules():
        if name.endswith(("attn.proj", "attn.mask")):
            module.register_forward_pre_hook(lambda m, args, name=name: seen.update({name: args[0].detach()}))
            module.register_forward_hook(lambda m, args, y, name=name: seen.update({name + ".out": y.detach()}))
    torch.manual_seed(1)
    model(torch.randn(2, 3, 64, 64))
    names = [name for name in seen if name.endswith("proj")]
    assert len(names) == 2
    for name in names:
        passed, mask = seen[name], seen[name.replace("proj", "mask.out")]
        assert set(passed.unique().tolist()) == {0.0, 1.0}
        assert 0 < mask.mean() < 1 and not passed[(mask == 0).expand_as(passed)].any()


def synchronised(model: nn.Module) -> nn.Module:
    """A copy whose norms synchronise their statistics over processes; the seam is PyTorch's own."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))


def check_synchronised(model: nn.Module, x: torch.Tensor) -> None:
    """With converted norms a model gives what it gave before, in training and in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the statistics become those of the images, with which neurons fire
    model.train()
    with torch.no_grad():
        model(x)
        converted = synchronised(model)
        kinds = {type(m) for m in converted.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
        assert kinds == {nn.SyncBatchNorm}
        for mode in (True, False):
            maps, others = model.train(mode)(x), converted.train(mode)(x)
            assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(maps, others, strict=True))
            assert all(y.std() > 0 for y in maps)


FIRST = {  # of each family one, and what makes it small
    "spikformer_8_384": dict(depth=2, dim=64),
    "sdtv1_8_384": dict(depth=2, dim=64),
    "qkformer_10_384": dict(depth=4, dim=96),
    "meta_sdt_15m": dict(embed_dims=(8, 16, 32, 48)),
    "max_former_10_384": dict(depth=4, dim=96),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST)
def test_norms_can_be_synchronised(name):
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True, **FIRST[name]).double()
    check_synchronised(model, torch.randn(2, 3, 32, 32, dtype=torch.float64))


OURS = [n for n in timm.list_models() if timm.models.model_entrypoint(n).__module__.startswith("sterf_plugins.")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in OURS if n not in FIRST])
@pytest.mark.usefixtures("shallow")
@pytest.mark.sweep
def test_norms_of_every_registered_model_can_be_synchronised(name):
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True).double()
    check_synchronised(model, torch.randn(2, 3, 32, 32, dtype=torch.float64))


@pytest.mark.parametrize("name", ["spikformer", "sdtv1", "qkformer"])  # whose head sees spikes with these weights
def test_dropout_takes_a_channel_in_all_time_steps_or_in_none(name):
    model = alive(SMALL[name](T=4, num_classes=3, drop_rate=0.5)).eval()
    taken: list[torch.Tensor] = []
    x = torch.randn(3, 3, 64, 64)  # as those of the statistics
    model.head.register_forward_pre_hook(lambda module, inputs: taken.append(inputs[0] != 0))
    with torch.no_grad():
        model(x)
        model.head_drop.train()
        model(x)
    before, after = (x.permute(1, 2, 0).flatten(0, 1) for x in taken)  # (B * C, T): what fires
    kept = after.any(1)
    assert torch.equal(after, before & kept[:, None])
    firing = before.any(1).unflatten(0, (3, -1))
    share = (kept.unflatten(0, (3, -1)) & firing).sum(1) / firing.sum(1)
    assert (share > 0.1).all() and (share < 0.9).all()  # in each sample some channels go and some stay
