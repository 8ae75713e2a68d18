"""Spike-driven models have the numbers of those that they come from, and their layers see zeros and ones."""

import pytest
import torch
from torch import nn
from trained import VARIANTS, outputs, trained

from sterf_plugins.backbones import ScaleCovariantNet
from sterf_plugins.deploy import SpikeDrivenLayer, reparameterize, to_spike_driven
from sterf_plugins.deploy.probe import compared_values, largest_error
from sterf_plugins.erf import calibrate
from sterf_plugins.layers import IntegerSpike
from sterf_plugins.stems import CovariantRFConv2d


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "levels"), [*((name, 4) for name in VARIANTS), ("conv", 1), ("mlpixer-raster", 8), ("srb-raster", 8)]
)
@pytest.mark.sweep
def test_spike_driven_inference_gives_the_same_numbers(name, levels):
    model = trained(7, torch.float64, levels=levels, **VARIANTS[name])
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    driven, folded = to_spike_driven(model), to_spike_driven(reparameterize(model))
    expected = outputs(model, x)
    compared_values(expected[:1], expected[1:])
    for other in (driven, folded):
        assert largest_error(outputs(other, x), expected) < 1e-9
    for ours, theirs in zip(driven.run_stages(x), model.run_stages(x), strict=True):
        assert largest_error(ours, theirs) < 1e-9


def test_an_example_of_another_precision():
    """Only its shape and its values matter; a model in double precision took no example in single precision."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), IntegerSpike(), nn.Conv2d(4, 2, 1)).double()
    x = torch.randn(1, 3, 4, 4)
    driven = to_spike_driven(model, x)
    assert largest_error(outputs(driven, x.double()), outputs(model, x.double())) < 1e-12


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.slow
def test_in_single_precision_too(name):
    model = trained(**VARIANTS[name])
    x = torch.randn(1, 3, 32, 32)
    assert largest_error(outputs(to_spike_driven(model), x), outputs(model, x)) < 1e-4


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.slow
def test_every_weight_layer_but_the_first_sees_zeros_and_ones(name):
    model = to_spike_driven(trained(7, **VARIANTS[name]))
    seen = {}

    def look(layer):
        def hook(module, arguments, output):
            seen[layer] = arguments[0]

        return hook

    for layer, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Conv1d, nn.Linear)):
            module.register_forward_hook(look(layer))
    outputs(model, torch.randn(2, 3, 64, 64))
    analog = [layer for layer, x in seen.items() if not ((x == 0) | (x == 1)).all()]
    assert analog == ["stages.0.downsample.conv"]
    assert len(seen) > 60 and sum(bool(x.any()) for x in seen.values()) > 0.8 * len(seen)
    steps = {len(x) for layer, x in seen.items() if layer not in analog}
    assert steps == {2 * 4}  # B = 2 images times D = 4 steps


def test_bias_comes_once():
    layer = nn.Conv2d(3, 5, 3)
    spike = IntegerSpike(4)
    x = spike(torch.randn(2, 3, 6, 6))
    with torch.no_grad():
        assert torch.allclose(SpikeDrivenLayer(layer, 4, 4)(x), layer(x), atol=1e-6)


def test_a_layer_that_two_parts_share_is_driven_in_both():
    """As in the heads of RTMDet, whose levels have norms of their own around the same convolution."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6)
    shared = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), IntegerSpike(), shared, IntegerSpike(), shared)
    driven = to_spike_driven(model, x)
    assert isinstance(driven[2], SpikeDrivenLayer) and driven[2] is driven[4]
    torch.testing.assert_close(outputs(driven, x), outputs(model, x))
    model[3] = IntegerSpike(2)
    with pytest.raises(ValueError, match="layer '2' runs several times, behind neurons of D = 4 and of 2 spikes"):
        to_spike_driven(model, x)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2),
        CovariantRFConv2d(4, 5, bias=True),
        nn.Sequential(nn.Unflatten(1, (4, 1)), nn.Conv3d(4, 5, (1, 3, 3))),
    ],
)
def test_every_kind_of_convolution_is_driven(layer):
    """A layer of another kind would see whole counts, where the model is said to have binary spikes alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), IntegerSpike(4), layer).double().eval()
    x = 20 * torch.randn(2, 3, 7, 6, dtype=torch.float64)
    driven = to_spike_driven(model, x)
    assert sum(isinstance(module, SpikeDrivenLayer) for module in driven.modules()) == 1
    assert model(x).std() > 0.01
    torch.testing.assert_close(driven(x), model(x))


def test_a_layer_that_is_called_by_name_is_driven():
    """It was left as it was, and saw whole counts."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.spike, self.conv = nn.Conv2d(3, 4, 1), IntegerSpike(4), nn.Conv2d(4, 5, 3)

        def forward(self, x):
            return self.conv(input=self.spike(x=self.stem(x)))

    model, x = Model().double().eval(), 20 * torch.randn(2, 3, 7, 6, dtype=torch.float64)
    driven = to_spike_driven(model, x)
    assert isinstance(driven.conv, SpikeDrivenLayer) and model(x).std() > 0.01
    torch.testing.assert_close(driven(x), model(x))


def test_scale_channels_are_driven():
    """The stem sees the image in two sizes; each convolution behind it sees the spikes of both."""
    torch.manual_seed(0)
    model = ScaleCovariantNet((6, 8), (1, 1), (2, 2), (1, 2), neuron="integer", num_classes=5).double()
    calibrate(model, torch.rand(4, 3, 24, 24, dtype=torch.float64))
    x = torch.rand(2, 3, 24, 24, dtype=torch.float64)
    driven = to_spike_driven(model, x)
    kinds = (CovariantRFConv2d, nn.Linear)
    assert sum(isinstance(module, SpikeDrivenLayer) for module in driven.modules()) == 4
    assert sum(isinstance(module, kinds) for module in model.modules()) == 5
    assert model(x).std() > 0.001
    torch.testing.assert_close(driven(x), model(x))


def test_a_layer_that_sees_the_image_and_spikes_is_refused():
    """Driven by counts, it would round the image."""
    shared = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="layer '0' sees the image, and runs again on something else"):
        to_spike_driven(nn.Sequential(shared, IntegerSpike(), shared), torch.randn(1, 3, 4, 4))


@pytest.mark.parametrize("layer", [nn.MultiheadAttention(4, 2), nn.LSTM(4, 4), nn.GRUCell(4, 4), nn.Bilinear(4, 4, 2)])
def test_layers_of_several_products_are_refused(layer):
    """They were left as they were, and saw whole counts."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.spike, self.layer = nn.Linear(3, 4), IntegerSpike(4), layer

        def forward(self, x):
            x = self.spike(self.stem(x))
            return self.layer(x, x, x) if isinstance(layer, nn.MultiheadAttention) else self.layer(*[x] * two)

    two = 2 if isinstance(layer, nn.Bilinear) else 1
    with pytest.raises(ValueError, match=f"layer 'layer' is a {type(layer).__name__}, whose products are no layers"):
        to_spike_driven(Model(), torch.randn(2, 3))


class TwoNeurons(nn.Module):
    """Two neurons of different levels on one map; each feeds a layer, or their spikes are added in front of one."""

    def __init__(self, added: bool):
        super().__init__()
        self.stem, self.coarse, self.fine = nn.Conv2d(3, 4, 1), IntegerSpike(2), IntegerSpike(8)
        self.conv1, self.conv2, self.added = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), added

    def forward(self, x):
        x = self.stem(x)
        fine, coarse = self.fine(x), self.coarse(x)
        return self.conv1(coarse + coarse) if self.added else self.conv1(fine) + self.conv2(coarse)


def test_what_feeds_a_layer_is_found_where_the_neurons_are_silent():
    torch.manual_seed(0)
    black, x = torch.zeros(1, 3, 6, 6), 20 * torch.randn(2, 3, 6, 6)
    model = TwoNeurons(added=False).requires_grad_(False)
    model.stem.bias.zero_()
    driven = to_spike_driven(model, black)
    assert (driven.conv1.levels, driven.conv2.levels) == (8, 2)
    torch.testing.assert_close(outputs(driven, x), outputs(model, x))
    with pytest.raises(ValueError, match="layer 'conv1' is not fed by integer spikes"):
        to_spike_driven(TwoNeurons(added=True), black)


def test_the_sum_of_single_steps_products_is_another_number():
    """Why attention must wait for whole counts: per-step products of the binary steps do not add up to it."""
    from spikingjelly.activation_based.layer import SpikeCountToBinary

    q, k = torch.randint(0, 5, (2, 1, 4, 6)).float()
    steps = SpikeCountToBinary(4, always_convert=True)
    per_step = (steps(q) @ steps(k).transpose(-1, -2)).sum(0)
    assert not torch.allclose(per_step, (q @ k.transpose(-1, -2))[0])


def test_a_spike_driven_layer_has_a_bias_of_its_own():
    layer = nn.Conv2d(3, 4, 1)
    driven = SpikeDrivenLayer(layer, levels=4, norm=4)
    before = layer.bias.detach().clone()
    with torch.no_grad():
        driven.bias += 1
    assert torch.equal(layer.bias, before) and not torch.equal(driven.bias, before)
