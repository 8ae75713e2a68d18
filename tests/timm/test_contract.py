"""timm's model contract on our models. (timm's own tests run in ``test_timms_own.py``.)"""

import numpy as np
import pytest
import timm
import torch
from live import equal, images, live
from torch import nn

import sterf_plugins.timm
from sterf_plugins.activity import FiringRates
from sterf_plugins.mixers import TokenMixer

NAMES = [
    f"sdtv3_{arch}{suffix}"
    for arch in ("nano", "tiny", "medium", "base")
    for suffix in (
        "",
        *(f"_{m}{form}" for m in ("mlpixer", "mlpixer6", "srb") for form in ("", "_raster", "_released")),
    )
]
SMALL = [n for n in NAMES if n.startswith("sdtv3_nano")]
DIMS = (12, 24, 48, 96, 128)


def create(name, **options):
    return timm.create_model(name, **options).eval()


def test_all_names_are_registered_and_nothing_else_is_replaced():
    assert sorted(timm.list_models("sdtv3*")) == sorted(NAMES)
    assert type(timm.create_model("resnet18")).__module__ == "timm.models.resnet"
    assert sterf_plugins.timm.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_configuration(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    parameters = dict(model.named_parameters())
    cfg = model.default_cfg
    assert f"{cfg['first_conv']}.weight" in parameters and f"{cfg['classifier']}.weight" in parameters
    assert model.num_classes == 1000 and model.num_features == model.head_hidden_size == model.stage_dims[-1]
    assert cfg["input_size"] == (3, 224, 224) and cfg["pool_size"] == (14, 14)
    mixers = [m for m in model.modules() if isinstance(m, TokenMixer)]
    assert bool(mixers) == ("mlpixer" in name or "srb" in name)
    assert {m.layout for m in mixers} <= {"raster" if name.endswith(("_raster", "_released")) else "channel"}
    assert all(isinstance(m.bn1, nn.Identity) == name.endswith("_released") for m in mixers)
    if "mlpixer6" in name:
        assert all(m.hidden == 6 * m.dim for m in mixers)


@pytest.mark.parametrize("name", [n for n in SMALL if n != "sdtv3_nano"])
def test_hidden_spikes_fire_but_for_the_released_form(name):
    """The mixers' hidden spikes at random weights, with the statistics of the batch, as a training starts."""
    torch.manual_seed(0)
    model = timm.create_model(name).train()
    with FiringRates(model) as rates:
        model(torch.randn(4, 3, 64, 64))
    hidden = [layer.rate for key, layer in rates.layers.items() if key.endswith("mixer.spike2")]
    assert len(hidden) == 4
    if name.endswith("_released"):
        assert max(hidden) == 0
    else:
        assert min(hidden) > 0.05


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.slow
def test_forward_backward_and_statelessness(name):
    model, x = live(create(name, num_classes=10)), images()
    first = model(x)
    assert first.shape == (3, 10) and equal(first, model(x))
    model.train()(x).mean().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_features_only(name):
    model = create(name, features_only=True)
    assert model.feature_info.channels() == list(DIMS)
    assert model.feature_info.reduction() == [2, 4, 8, 16, 16]
    outputs = model(torch.randn(1, 3, 64, 64))
    for y, channels, stride in zip(outputs, DIMS, (2, 4, 8, 16, 16), strict=True):
        assert y.shape == (1, channels, 64 // stride, 64 // stride)


def test_out_indices():
    model = create("sdtv3_nano_srb", features_only=True, out_indices=(1, 3))
    assert model.feature_info.channels() == [24, 96]
    assert [y.shape[1] for y in model(torch.randn(1, 3, 32, 32))] == [24, 96]
    assert [
        y.shape[1] for y in create("sdtv3_nano", features_only=True, out_indices=(-1,))(torch.randn(1, 3, 32, 32))
    ] == [128]


def test_out_indices_are_for_feature_maps():
    with pytest.raises(TypeError, match="`out_indices` chooses feature maps: give features_only=True"):
        create("sdtv3_nano", num_classes=0, out_indices=(1,))


def test_forward_intermediates():
    model = create("sdtv3_nano_srb")
    x = torch.randn(1, 3, 64, 64)
    final, intermediates = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x)) and torch.equal(final, intermediates[-1])
    assert [i.shape[1] for i in intermediates] == list(DIMS)
    two = model.forward_intermediates(x, indices=2, intermediates_only=True)
    assert torch.equal(two[0], intermediates[3])
    early = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
    assert torch.equal(early[0], intermediates[1])
    with pytest.raises(ValueError, match="`output_fmt` is 'NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")
    for indices in ([7], [1.0], [], 6, 0):
        with pytest.raises(ValueError, match="stages 0 to 4"):
            model.forward_intermediates(x, indices=indices)
    with pytest.raises(TypeError, match="`indices` is '12'"):
        model.forward_intermediates(x, indices="12")
    for indices in (torch.tensor([1]), np.array([1, 3]), torch.tensor([1, 3])):  # a tensor of one number is no last one
        chosen = model.forward_intermediates(x, indices=indices, intermediates_only=True)
        assert [y.shape[1] for y in chosen] == [DIMS[i] for i in indices]


def test_prune_intermediate_layers():
    model = create("sdtv3_nano")
    x = torch.randn(1, 3, 64, 64)
    expected = model.forward_intermediates(x, indices=[1, 2], intermediates_only=True)
    assert model.prune_intermediate_layers([1, 2]) == [1, 2]
    assert len(model.stages) == 3 and model.num_features == 48
    pruned = model.forward_intermediates(x, indices=[1, 2], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(expected, pruned, strict=True))
    model.reset_classifier(7)
    assert model(x).shape == (1, 7) and model.out_channels == (24, 48)


def test_a_pruned_model_whose_maps_are_modules_runs():
    model = create("scale_covariant_net", dims=(4, 6, 8), depths=(0, 0, 0), strides=(2, 2, 2), scales=(1.0, 2.0))
    x = torch.randn(1, 3, 32, 32)
    expected = model.forward_intermediates(x, indices=[0, 1], intermediates_only=True)
    model.prune_intermediate_layers([0, 1])
    assert torch.equal(model(x), expected[-1])
    model.reset_classifier(7)
    assert model(x).shape == (1, 7)


def test_no_classes_gives_pooled_features():
    x = torch.randn(2, 3, 64, 64)
    model = create("sdtv3_nano", num_classes=0)
    assert model(x).shape == (2, 128)
    full = create("sdtv3_nano")
    assert full.forward_head(full.forward_features(x), pre_logits=True).shape == (2, 128)
    assert create("sdtv3_nano", num_classes=0, global_pool="")(x).shape == (2, 128, 4, 4)


def test_reset_classifier():
    model = create("sdtv3_nano", num_classes=5).double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.get_classifier().weight.dtype == torch.float64
    model.reset_classifier(0)
    assert model(x).shape == (2, 128)
    model.reset_classifier(0, "")
    assert model(x).shape == (2, 128, 2, 2)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_in_chans(channels):
    assert create("sdtv3_nano_srb", in_chans=channels)(torch.randn(1, channels, 32, 32)).shape == (1, 1000)


def test_grad_checkpointing_changes_nothing():
    model, x = live(create("sdtv3_nano_srb", num_classes=3)), images()
    before = model(x)
    model.set_grad_checkpointing()
    assert equal(before, model(x))
    model(x).sum().backward()
    assert model.stages[0].downsample.conv.weight.grad is not None


def test_layer_groups_and_weight_decay():
    from timm.models import group_parameters
    from timm.optim import param_groups_layer_decay

    model = create("sdtv3_nano_srb", layer_scale=1e-6)
    groups = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    assert len(set(groups.values())) > 5
    assert any("layer_scale" in n for n in model.no_weight_decay())
    learned = create("sdtv3_nano", stem=dict(type="covariant", learn=("frame",)))
    assert learned.no_weight_decay() == {"stages.0.downsample.conv.bank.frame"}
    assert len(param_groups_layer_decay(model, layer_decay=0.7)) > 5


def test_model_options():
    model = create("sdtv3_nano_srb", levels=8, layout="channel", norm_hidden=True, drop_rate=0.1, attn_factor=1.0)
    mixer = model.stages[0].blocks[0].mixer
    assert (mixer.spike1.levels, mixer.layout, mixer.drop1.p) == (8, "channel", 0.1)
    assert create("sdtv3_nano", mixer="mlpixer").stages[0].blocks[0].mixer.layout == "channel"
    with pytest.raises(TypeError):
        create("sdtv3_nano", not_an_argument=1)


def test_no_weights_to_download():
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        create("sdtv3_tiny_srb", pretrained=True)


def test_a_local_published_checkpoint(golden, tmp_path):
    state = golden.case("bb_cls_base_t8")[2]
    path = tmp_path / "published.pth"
    torch.save({"model": state, "epoch": 199}, path)
    arch = dict(embed_dims=[8, 16, 24, 32], num_heads=4)
    options = dict(arch=arch, num_classes=10, pretrained_cfg_overlay=dict(file=str(path), num_classes=10))
    model = create("sdtv3_nano", pretrained=True, **options)
    arrays = golden.case("bb_cls_base_t8")[1]
    assert torch.allclose(model(arrays["x"]), arrays["y.0"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.sweep
def test_gradient_of_one_sample_is_the_same_in_a_batch(name):
    """PyTorch's CPU BatchNorm is wrong at batch 1 for the gradients of these models; ours must not be."""
    torch.manual_seed(0)
    model = create(name, num_classes=3).double()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    grads = []
    for batch in (1, 2):
        leaf = x.repeat(batch, 1, 1, 1).requires_grad_()
        tokens = model.forward_features(leaf)[:1].flatten(2).transpose(1, 2).contiguous()
        (grad,) = torch.autograd.grad(tokens.square().sum(), leaf)
        grads.append(grad[0])
    assert (grads[0] - grads[1]).norm() <= 1e-9 * grads[1].norm()
