"""Covariant stems on timm's models."""

import pytest
import timm
import torch

from sterf_plugins.stems import CovariantRFConv2d, CovariantStem, RFBank
from sterf_plugins.timm import CovariantPatchEmbed, swap_stem

FAMILIES = {
    "resnet18": "conv1",
    "resnet18d": "conv1.0",
    "convnext_atto": "stem.0",
    "vit_tiny_patch16_224": "patch_embed.proj",
    "swin_tiny_patch4_window7_224": "patch_embed.proj",
    "efficientnet_b0": "conv_stem",
    "tf_efficientnet_b0": "conv_stem",
    "mobilenetv3_small_100": "conv_stem",
    "regnety_002": "stem.conv",
    "levit_128s": "stem.conv1.linear",
    "poolformer_s12": "stem.conv",
    "densenet121": "features.conv0",
    "hrnet_w18_small": "conv1",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.sweep
def test_every_family(name):
    model = timm.create_model(name, num_classes=5).train()
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    old = model.get_submodule(FAMILIES[name])
    new = swap_stem(model).get_submodule(FAMILIES[name])
    assert isinstance(new, CovariantRFConv2d)
    x = torch.randn(2, 3, 224, 224)
    assert new(x).shape == old(x).shape
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in kept.items() if not k.startswith(FAMILIES[name]))
    y = model.eval()(x[:1])
    y.sum().backward()
    assert y.shape == (1, 5)
    assert torch.isfinite(new.mix.grad).all()


def test_parallel_branches_are_refused():
    with pytest.raises(ValueError, match="several parallel convolutions"):
        swap_stem(timm.create_model("fastvit_t8"))


def test_hooks_of_the_old_convolution_are_told():
    model = timm.create_model("resnet18")
    model.conv1.register_forward_hook(lambda module, inputs, output: None)
    model.conv1.register_forward_pre_hook(lambda module, inputs: None)
    with pytest.warns(UserWarning, match="the 2 hook.s. of 'conv1' stay with the old convolution"):
        swap_stem(model)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_feature_models_and_other_channels(name):
    model = timm.create_model(name, features_only=True)
    shapes = [y.shape for y in model(torch.randn(1, 3, 64, 64))]
    swap_stem(model, in_chans=2, learn=("sigma",))
    assert [y.shape for y in model(torch.randn(1, 2, 64, 64))] == shapes
    whole = swap_stem(timm.create_model(name), in_chans=16)
    assert whole.pretrained_cfg["input_size"][0] == 16
    assert timm.create_model(name).pretrained_cfg["input_size"][0] == 3


def test_a_module_of_ones_own_needs_a_target():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.ReLU())
    with pytest.raises(ValueError, match=r"pass target=.*'0'"):
        swap_stem(model)
    with pytest.raises(ValueError, match="does not have"):
        swap_stem(model, target="conv9")
    assert swap_stem(model, RFBank.for_kernel_size(9), target="0")(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    "options",
    [
        dict(kernel_size=3, padding="valid"),
        dict(kernel_size=7, padding="valid"),
        dict(kernel_size=5, padding="same"),
        dict(kernel_size=7, padding=3, padding_mode="circular"),
        dict(kernel_size=3, stride=2, padding=1, padding_mode="reflect"),
    ],
)
def test_sizes_and_borders_stay(options):
    old = torch.nn.Conv2d(3, 4, **options).eval()
    new = swap_stem(torch.nn.Sequential(old).eval(), target="0")[0]
    x = torch.randn(1, 3, 24, 33)
    assert new(x).shape == old(x).shape and not new.training
    plain = new.fuse().requires_grad_(False)
    assert plain.padding_mode == old.padding_mode
    torch.testing.assert_close(plain(x), new(x))
    if new.padding_mode == "circular":  # nothing happens at the borders but a shift
        torch.testing.assert_close(new(x.roll(5, -1)), new(x).roll(5, -1))


@pytest.mark.parametrize("options", [dict(bank=RFBank.for_kernel_size(7)), dict(init="uniform"), dict(init="rf-free")])
def test_learned_fields_that_would_not_be_there_are_refused(options):
    with pytest.raises(ValueError, match=r"`learn` is \('sigma',\)"):
        swap_stem(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), target="0", learn=("sigma",), **options)
    with pytest.raises(ValueError, match=r"`learn` is \('sigma',\)"):
        CovariantStem(3, 4, learn=("sigma",), **options)


def test_a_fused_convolution_is_trained_if_the_fields_were():
    conv = CovariantRFConv2d(3, 4)
    assert conv.fuse().weight.requires_grad
    assert not conv.requires_grad_(False).fuse().weight.requires_grad


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_patch_embedding(name):
    model = timm.create_model(name, embed_layer=CovariantPatchEmbed, num_classes=4)
    assert isinstance(model.patch_embed.proj, CovariantRFConv2d)
    assert model(torch.randn(1, 3, 224, 224)).shape == (1, 4)
    with pytest.raises(ValueError, match="cannot be resampled"):
        model.patch_embed.set_input_size(patch_size=8)


@pytest.mark.parametrize("name", ["covrf_resnet18", "covrf_resnet50", "covrf_sdtv3_tiny_srb"])
def test_registered_names(name):
    assert name in timm.list_models("covrf_*")
    model = timm.create_model(name, num_classes=3, in_chans=2)
    assert model(torch.randn(2, 2, 64, 64)).shape == (2, 3)
    features = timm.create_model(name, features_only=True)
    found = features(torch.randn(1, 3, 64, 64))
    assert [y.shape[1] for y in found] == features.feature_info.channels()
    assert [64 // y.shape[2] for y in found] == features.feature_info.reduction()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(model="resnet18"), r"`model` is 'resnet18' .*timm.create_model\('resnet18'\)"),
        (dict(bank="covariant"), r"`bank` is 'covariant' \(str\); it must be an RFBank"),
        (dict(bank=dict(sigma=[2.0])), r"`bank` has 'sigma', which RFBank does not take; allowed: sigmas, ratios, "),
        (dict(in_chans=2.0), "`in_chans` is 2.0"),
    ],
)
def test_arguments_of_another_type(arguments, message):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1))
    with pytest.raises(TypeError, match=message):
        swap_stem(**{"model": model, "target": "0"} | arguments)
    with pytest.raises(ValueError, match="`in_chans` is 0"):
        swap_stem(model, in_chans=0, target="0")
