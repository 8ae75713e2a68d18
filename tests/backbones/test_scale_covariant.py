"""Scale channels with shared weights: what they see, what they share, and what stays the same when the image grows."""

import math

import pytest
import timm
import torch
from live import images, live
from torch import nn

import sterf_plugins.timm  # noqa: F401
from sterf_plugins.backbones import ScaleCovariantNet
from sterf_plugins.layers import IntegerSpike
from sterf_plugins.stems import CovariantRFConv2d

SMALL = dict(dims=(6, 8), depths=(1, 0), strides=(2, 2), in_chans=1)


def blobs(size, grow=1.0):
    """Two images (2, 1, size, size) of smooth blobs that are ``grow`` times as large around the middle, in closed form."""
    line = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / grow
    y, x = torch.meshgrid(line, line, indexing="ij")
    drawn = []
    for centres in (((4, -6, 5), (-7, 3, 4)), ((-3, -5, 6), (6, 6, 4))):
        drawn.append(sum(torch.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * s * s)) for a, b, s in centres))
    return torch.stack(drawn)[:, None]


def net(seed=0, **options):
    torch.manual_seed(seed)
    model = ScaleCovariantNet(**{**SMALL, **options}).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.bias)
    return model.eval()


def test_a_channel_sees_of_the_enlarged_image_what_the_finer_one_saw():
    """Twice the image, twice the scale: the same maps, up to the sampling of the pixel grid."""
    model = net(scales=(1, 2))
    fine, _ = model.run_stages(blobs(96))[-1]
    _, coarse = model.run_stages(blobs(192, 2))[-1]
    assert fine.shape == coarse.shape and fine.std() > 0.1
    inside = (..., slice(6, -6), slice(6, -6))
    error = (fine - coarse)[inside].abs().max() / fine[inside].abs().max()
    unrelated = (fine - model.run_stages(blobs(96, 2))[-1][0])[inside].abs().max() / fine[inside].abs().max()
    assert error < 0.05 < 0.3 < unrelated


@pytest.mark.slow
@torch.no_grad()
def test_the_classes_stay_the_same_while_the_image_grows():
    """The matching channel holds the maximum, so that networks of several scales change less than those of one scale."""
    small, large = blobs(128), blobs(128, 2)
    change = {1: 0.0, 4: 0.0}
    for seed in range(3):
        for scales in ((1,), (0.5, 1, 2, 4)):
            model = net(seed, scales=scales, num_classes=200)  # few classes would be few samples
            nn.init.normal_(model.head.weight)
            y, z = model(small), model(large)
            assert y.shape == (2, 200)
            change[len(scales)] += ((y - z).norm() / (y - y.mean(1, keepdim=True)).norm()).item()
    assert change[4] < 0.5 * change[1]


def test_norms_take_their_statistics_from_all_scales():
    model = ScaleCovariantNet(**SMALL, scales=(1, 2, 4)).train()
    x = torch.randn(2, 1, 32, 32) + 3
    layer = model.stages[0].downsample
    maps = layer(model.enter(x))
    pixels = torch.cat([m.flatten(2) for m in maps], 2)
    assert torch.allclose(pixels.mean((0, 2)), torch.zeros(6), atol=1e-5)
    assert torch.allclose(pixels.var((0, 2), unbiased=False), torch.ones(6), atol=1e-2)
    assert max(m.mean((0, 2, 3)).abs().max() for m in maps) > 0.1  # a norm of each scale alone would give 0
    assert len(maps) == 3 and [tuple(m.shape[2:]) for m in maps] == [(16, 16), (8, 8), (4, 4)]


def test_feature_maps_are_pooled_on_the_finest_grid():
    model = net(scales=(1, 2))
    x = blobs(33)
    points = model(x)
    assert model.out_channels == (6, 8) and model.out_strides == (2, 4)
    assert [tuple(y.shape) for y in points] == [(2, 6, 17, 17), (2, 8, 9, 9)]
    fine, coarse = model.run_stages(x)[0]
    rows = (torch.arange(17, dtype=torch.float64) + 0.5).mul(coarse.shape[-1] / 17).long()
    assert torch.equal(points[0], fine.maximum(coarse[..., rows[:, None], rows]))
    smooth = net(scales=(1, 2), pool="logsumexp")(x)[0]
    assert torch.allclose(smooth, torch.stack([fine, coarse[..., rows[:, None], rows]]).logsumexp(0))


def test_windows_are_seen_by_the_classifier_in_training_and_by_nothing_else():
    model, x = net(scales=(1, 2), zoom=4, num_classes=3), blobs(33)
    assert len(model.enter(x)) == 2
    maps = model.train().enter(x)
    assert [tuple(m.shape) for m in maps] == [(2, 1, n, n) for n in (33, 16, 33, 33)]
    assert not torch.equal(maps[2], maps[3]) and torch.equal(model.leave(maps), model.leave(maps[:2]))
    *last, window = model.run_stages(x)[-1]
    last.append(window + 100)
    assert not torch.equal(model.classify(last), model.classify(last[:2]))


def test_windows_are_of_what_the_finest_channel_sees():
    """Hardly enlarged, they are its image; so enlarging by up to ``zoom`` reaches from there to ``zoom`` times its size."""
    maps = net(scales=(2, 4), zoom=1 + 1e-9).train().enter(blobs(32))
    assert len(maps) == 4 and torch.equal(maps[2], maps[0]) and torch.equal(maps[3], maps[0])


def test_channels_can_be_added_after_a_training():
    """They share all weights. With a channel at half the scale, what is half as large looks like what was trained."""
    coarse, fine = net(scales=(2, 4), num_classes=3), net(seed=1, scales=(1, 2, 4), num_classes=3)
    fine.load_state_dict(coarse.state_dict())
    smaller, trained = fine.run_stages(blobs(64))[-1], coarse.run_stages(blobs(128, 2))[-1]
    for fine_map, coarse_map in zip(smaller[:2], trained, strict=True):
        assert (fine_map - coarse_map).abs().max() < 0.05 * coarse_map.std()


def test_only_the_first_convolution_reads_anything_but_spikes():
    model = live(timm.create_model("scale_covariant_net_spiking", dims=(8, 8, 8, 8), scales=(1, 2), num_classes=5))
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, CovariantRFConv2d | nn.Linear):
            module.register_forward_hook(lambda m, args, y, name=name: seen.setdefault(name, []).append(args[0]))
    model(images())
    first, *others = seen
    assert len(seen[first]) == 2 and len(others) == 8  # each layer once for each scale; the head
    for name in others:
        counts = torch.cat([x.flatten() for x in seen[name]]) * 4
        assert torch.equal(counts, counts.round()) and counts.unique().numel() > 1, name


def test_neurons_with_a_time_axis():
    model = net(scales=(1, 2), neuron=dict(type="lif", T=3), num_classes=4)
    assert model(blobs(32)).shape == (2, 4)
    assert not any(isinstance(m, IntegerSpike | nn.ReLU) for m in model.modules())


@pytest.mark.parametrize("attribute", ["grad_checkpointing", "memory_efficient"])
def test_recomputation_changes_nothing(attribute):
    gradients = []
    for value in (False, True):
        model = net(scales=(1, 2), num_classes=3, neuron="integer").train()
        setattr(model, attribute, value)
        model(blobs(32)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()] + [b.double() for b in model.buffers()])
    assert all(torch.allclose(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(scales=()), "`scales` is"),
        (dict(scales=(2, 1)), "`scales` is"),
        (dict(scales=(0, 1)), "`scales` is"),
        (dict(pool="mean"), "`pool` is 'mean'"),
        (dict(scales=(1, math.inf)), "`scales` is inf"),
        (dict(zoom=0.5), "`zoom` is 0.5"),
        (dict(zoom=math.inf), "`zoom` is inf"),
        (dict(depths=(-1, 0)), r"`depths` is \(-1, 0\)"),
        (dict(depths=(1,)), "one entry per stage"),
        (dict(neuron="relus"), "relus"),
        (dict(neuron="lif"), "`neuron` is a LIFNode without `T`"),
        (dict(neuron="ilif", dims=(4,), depths=(0,), strides=(2,)), "`neuron` is a ILIFNode without `T`"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        ScaleCovariantNet(**{**SMALL, **options})


def test_half_precision():
    model, x = net(scales=(1, 2), num_classes=4).float(), blobs(32).float()
    with torch.no_grad():
        expected, found = model(x), model.bfloat16()(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), expected, atol=0.02 * expected.abs().max().item())


def test_wrong_inputs():
    with pytest.raises(ValueError, match=r"takes \(B, 1, H, W\)"):
        net()(torch.randn(1, 3, 32, 32))
