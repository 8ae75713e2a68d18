"""Fields are never rounding noise."""

import numpy as np
import pytest
import timm
import torch
from by_autograd import field, leaves
from torch import nn

from sterf_plugins.erf import ERFResult, compute_erf
from sterf_plugins.erf.protocols import table


def bold(model):
    """The model with LayerNorms whose weights look trained."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 2)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    ("name", "layer", "constant"),
    [
        ("vit_tiny_patch16_224", "norm", (True, True)),
        ("vit_tiny_patch16_224", "blocks.1", (False, False)),
        ("edgenext_xx_small", "stages.0", (True, False)),  # its LayerNorm is in front of the blocks
        ("pvt_v2_b0", "stages.0", (True, True)),  # its LayerNorm is the last of the stage
        ("resnet18", "layer1", (False, False)),
    ],
)
def test_constant_sums_of_channels_are_projected(name, layer, constant, trained):
    torch.manual_seed(0)
    model = timm.create_model(name, **(dict(img_size=64) if "vit" in name else {}))
    model = bold(model) if trained else model
    x = torch.randn(2, 3, 64, 64)
    result = compute_erf(model, x, layer)
    assert (result.info["constant_sums"] == [layer]) == constant[trained]
    assert bool([note for note in result.notes if "random projections" in note]) == constant[trained]
    assert result.spatial[layer].max() > 1e-4
    channels = 8 if constant[trained] else "sum"
    assert np.array_equal(result.spatial[layer], compute_erf(model, x, layer, channels=channels).spatial[layer])


class Stage(nn.Module):
    """A stage that ends with a LayerNorm, or with another module behind it, over the channels or over the columns."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(3, 8, 3, padding=1)
        self.norm = bold(nn.Sequential(nn.LayerNorm(12 if kind == "columns" else 8)))[0]
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 145, 8))

    def forward(self, x):
        y = self.conv(x)
        y = self.norm(y) if self.kind == "columns" else self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.kind == "tokens":
            return y.flatten(2).transpose(1, 2).contiguous()
        if self.kind == "positions":
            return torch.cat([self.token.expand(len(y), -1, -1), y.flatten(2).transpose(1, 2)], 1) + self.places
        return y.tanh() if self.kind == "inside" else y


@pytest.mark.parametrize("kind", ["map", "tokens", "positions", "inside", "columns"])
def test_a_stage_that_ends_with_a_layer_norm_is_projected_as_the_norm_is(kind):
    torch.manual_seed(0)
    model, x = nn.Sequential(Stage(kind)).double(), torch.randn(2, 3, 12, 12).double()
    result = compute_erf(model, x, ["0", "0.norm"])
    assert ("0" in result.info["constant_sums"]) == (kind in ("map", "tokens", "positions"))
    if kind == "map":
        assert np.array_equal(result.spatial["0"], compute_erf(model, x, "0", channels=8).spatial["0"])


class OverTime(nn.Module):
    """Convolves each step, and normalises over the steps, over steps and channels, or not at all."""

    def __init__(self, norm):
        super().__init__()
        self.conv, self.out, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.Identity(), norm

    def forward(self, x):
        return self.out(self.norm(torch.stack([self.conv(step) for step in x])))


def over_steps_and_channels(y):
    return nn.functional.layer_norm(y.movedim((0, 2), (3, 4)), (len(y), 6)).movedim((3, 4), (0, 2))


def test_sums_over_time_steps_that_are_constant_are_no_field():
    torch.manual_seed(0)
    x = torch.randn(4, 2, 3, 8, 10).double()
    model = OverTime(lambda y: y.softmax(0)).double()
    with pytest.raises(
        ValueError, match=r"the sum of each channel over all time steps is constant, .* use time='each'"
    ):
        compute_erf(model, x, "out")
    assert compute_erf(model, x, "out", time="each").spatial["out"].max() > 1e-3
    assert "out" in compute_erf(model, x, "out", kinds=("temporal", "spatiotemporal")).temporal
    result = compute_erf(OverTime(over_steps_and_channels).double(), x, "out")
    assert result.info["constant_sums"] == ["out"] and result.spatial["out"].max() > 1e-3
    assert not compute_erf(OverTime(torch.tanh).double(), x, "out").info["constant_sums"]


class Softmax(nn.Module):
    """Over the places of each channel."""

    def forward(self, x):
        return x.flatten(2).softmax(2).view_as(x)


def convolutions(*last):
    """Two convolutions, and what follows them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 16, 3, 2, padding=1), *last).double()
    for module in model.modules():
        if isinstance(module, nn.Linear):  # made when this file was imported
            module.reset_parameters()
    return model


POOLED = (nn.AdaptiveAvgPool2d(1), nn.Flatten())

CONSTANT = {
    "a head of probabilities": ((*POOLED, nn.Linear(16, 10), nn.Softmax(1)), "center", True),
    "logits": ((*POOLED, nn.Linear(16, 10)), "center", False),
    "a norm over channels and places, pooled": ((nn.GroupNorm(1, 16), *POOLED), "center", True),
    "a norm over channels and places, everywhere": ((nn.GroupNorm(1, 16),), "all", True),
    "convolutions, everywhere": ((nn.Tanh(),), "all", False),
}


@pytest.mark.parametrize("kind", CONSTANT)
def test_sums_over_all_places_and_maps_of_one_place_are_compared_with_another_input(kind):
    last, position, constant = CONSTANT[kind]
    model, x = convolutions(*last), torch.randn(3, 3, 16, 16).double()
    (layer,) = list(dict(model.named_children()))[-1:]
    result = compute_erf(model, x, layer, position=position)
    assert (result.info["constant_sums"] == [layer]) == constant
    assert result.spatial[layer].max() > 1e-5  # the gradient of a constant sum is of size 1e-17
    try:
        noise = compute_erf(model, x, layer, position=position, channels="sum")
    except ValueError as error:  # rounding may leave zeros alone
        assert constant and "all gradients are zero" in str(error)
        return
    assert bool(noise.warnings) == constant and (noise.spatial[layer].max() < 1e-12) == constant


@pytest.mark.parametrize("last", [nn.InstanceNorm2d(16), Softmax()])
def test_a_sum_over_all_places_that_is_constant_in_each_channel_has_no_field(last):
    model, x = convolutions(last), torch.randn(3, 3, 16, 16).double()
    result = compute_erf(model, x, ["2", "3"], position="all")
    assert result.layers == ["2"] and "the sum of each channel over all positions is constant" in result.failed["3"]
    assert compute_erf(model, x, "3").spatial["3"].max() > 1e-5  # that of one place has one


NORM = (nn.InstanceNorm2d(16), *POOLED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("last", [NORM, (nn.GroupNorm(16, 16), *POOLED), (*NORM, nn.Linear(16, 8))])
def test_a_map_that_is_constant_in_each_channel_has_no_field(last, dtype):
    model, x = convolutions(*last).to(dtype), torch.randn(3, 3, 16, 16).to(dtype)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    (layer,) = list(dict(model.named_children()))[-1:]
    result = compute_erf(model, x, ["2", layer])
    assert result.layers == ["2"] and "same for another input, up to the rounding" in result.failed[layer]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_outputs_have_fields(dtype):
    model, x = convolutions(*POOLED, nn.Linear(16, 8)).to(dtype), torch.randn(3, 3, 16, 16).to(dtype)
    fields = []
    for factor in (1, 1e-6):
        with torch.no_grad():
            model[-1].weight.mul_(factor)
        fields.append(compute_erf(model, x, "5").spatial["5"])
    np.testing.assert_allclose(fields[1], fields[0] * 1e-6, rtol=1e-4)


def test_rounding_noise_that_was_asked_for_is_marked():
    torch.manual_seed(0)
    model, x = timm.create_model("pvt_v2_b0"), torch.randn(2, 3, 64, 64)
    result = compute_erf(model, x, "stages.0", channels="sum", batch_size=2)
    assert 0 < result.spatial["stages.0"].max() < 1e-5 and "rounding noise" in result.warnings[0]
    assert compute_erf(model, x, "stages.0").warnings == []


@pytest.mark.slow
def test_signed_maps_that_are_noise_are_marked(tmp_path):
    """The gradient of a square has either sign, as often as the other, and that of a convolution is the same for all inputs."""

    class Square(nn.Module):
        def forward(self, x):
            return x.square()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), Square())
    x = torch.randn(10, 1, 16, 16)
    for options in (dict(reduce="signed"), dict(protocol="luo")):
        result = compute_erf(model, x, ["0", "1"], **options)
        assert [result.doubtful(layer) for layer in "01"] == [False, True]
        (line,) = result.warnings
        assert line.startswith("1: gradients of either sign cancel")
        assert "† half of the signed field or more is noise of so few inputs, in 1" in result.notes
        loaded = ERFResult.load(result.save(tmp_path / "result.npz"))
        assert loaded.warnings == result.warnings
    assert not compute_erf(model, x, "1").warnings  # absolute values
    assert not compute_erf(model, x + 5, "1", reduce="signed").warnings  # one sign
    clips = torch.randn(3, 10, 1, 8, 8)
    assert compute_erf(nn.Sequential(Square()), clips, "0", reduce="signed", kinds="temporal").doubtful("0")
    published = compute_erf(model, x, "1", protocol="all")
    assert [layer for layer in published.layers if published.doubtful(layer)] == ["1@luo"]
    assert " luo † " in table(published) and " openerf † " not in table(published)


def test_gradients_that_float32_rounds_to_next_to_nothing_are_no_field():
    """Of 1e-42 there are ten bits, of 1e-45 one; the output, times a large number, has an exact one."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Conv2d(3, 3, 3, 1, 1, bias=False) for _ in range(3)])
    with torch.no_grad():
        for layer in model:
            layer.weight *= 1e-14
    x = torch.randn(2, 3, 16, 16)
    result = compute_erf(model, x, ["1", "2"])
    assert result.layers == ["1"] and "are too small for float32" in result.failed["2"]
    larger = compute_erf(model, x, "2", layout=lambda y: y * 1e20)
    (leaf,) = leaves(x.double())
    exact = field(model.double()(leaf), leaf)
    assert np.allclose(np.float64(larger.spatial["2"]) / 1e20, exact, rtol=1e-5, atol=0)
