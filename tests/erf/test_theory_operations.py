"""Theoretical fields of operations that hide or choose values: rectifiers, gates, masks, pooling, recurrence, attention."""

import copy
from math import inf, isnan

import numpy as np
import pytest
import torch
import torchvision
from spikingjelly.activation_based import neuron
from torch import nn
from torch.nn import functional as F

from sterf_plugins.erf import compute_erf, theoretical_rf
from sterf_plugins.erf.theory.dependence import dependence
from sterf_plugins.layers import IntegerSpike


def test_weights_of_zero_and_dead_activations_do_not_matter():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1))
    model += nn.Sequential(IntegerSpike(4), nn.Conv2d(2, 2, 3, padding=1), nn.Hardtanh(), nn.MaxPool2d(3, 2, 1))
    for name, p in model.named_parameters():
        nn.init.constant_(p, -50.0 if name == "0.bias" else 0.0)
    before = copy.deepcopy(model.state_dict())
    field = theoretical_rf(model, (32, 32), "7", in_channels=1)["7"]
    assert field.size == (9, 9) and field.area == 81 / 32**2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


class Between(nn.Module):
    """Some function between two convolutions."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.first, self.last = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def assigned(y, mask):
    y = y.clone()
    y[mask] = 0.0
    return y


def field_of(model, size):
    x = torch.randn(1, 1, *size)
    with dependence(model, [model.last]):
        return compute_erf(model, x, "last", channels="sum").spatial["last"] > 0


@pytest.mark.parametrize(
    "rectifier",
    [
        lambda y: torch.where(y > 2, y, 0.0),
        lambda y: y.masked_fill(y < 2, 0.0),
        lambda y: y * (y > 2).float(),
        lambda y: y * (1 - (y.detach() < 2).to(y)),
        lambda y: assigned(y, y < 2),
        lambda y: torch.where((y > 2) & torch.ones_like(y).bool(), y, y.new_zeros(y.shape)),
    ],
)
def test_rectifiers_written_by_hand_hide_nothing(rectifier):
    assert field_of(Between(rectifier), (9, 9)).sum() == 25


def test_a_constant_mask_hides_what_it_hides():
    mask = torch.arange(9) < 4
    for function in (lambda y: torch.where(mask, y, 0.0), lambda y: y * mask, lambda y: y.masked_fill(~mask, 0.0)):
        assert np.flatnonzero(field_of(Between(function), (9, 9)).any(0)).tolist() == [2, 3, 4]


def test_extrema_and_products_look_at_all_that_they_are_of():
    patches = lambda y: nn.functional.unfold(y, 3, padding=1).unflatten(1, (1, 9))  # noqa: E731
    image = lambda y: y.unflatten(2, (9, 9))  # noqa: E731
    for function in (
        lambda y: image(torch.linalg.vector_norm(patches(y), float("inf"), dim=2)),
        lambda y: image(patches(y).mode(2)[0]),
        lambda y: image(patches(y - 9).relu().prod(2)),
    ):
        assert field_of(Between(function), (9, 9)).sum() == 49
    for function in (lambda y: y.cummax(3)[0], lambda y: y.cummin(-1)[0], lambda y: (y - 9).relu().cumprod(3)):
        assert np.argwhere(field_of(Between(function), (9, 9))).max(0).tolist() == [6, 6]
        assert field_of(Between(function), (9, 9)).sum() == 5 * 7
    pool = lambda y: nn.functional.adaptive_max_pool3d(y[:, :, None], (1, 3, 3))[:, :, 0]  # noqa: E731
    assert field_of(Between(pool), (18, 18)).all()


def test_gates_and_interpolations_hide_nothing_behind_dead_activations():
    dead = lambda y: (y - 1e9).relu()  # noqa: E731
    for function in (
        lambda y: nn.functional.glu(torch.cat([dead(y), y.roll(1, 3)], 1), 1),
        lambda y: torch.addcmul(y, dead(y), y.roll(1, 3)),
        lambda y: torch.lerp(y, y.roll(1, 3), dead(y)),
    ):
        assert field_of(Between(function), (9, 9)).sum() == 5 * 6


def test_fractional_pooling_sees_what_its_drawn_windows_can_see():
    """Of 22 rows, 14 windows of two that begin 20/13 rows further each time, at the row before or at that behind: 10 or 11."""
    model = nn.Sequential(nn.FractionalMaxPool2d((2, 1), output_size=(14, 22)))
    assert theoretical_rf(model, (22, 22), "0", in_channels=1)["0"].area == 3 / 22**2
    seen = torch.zeros(22, 22, dtype=torch.bool)
    for _ in range(40):  # the places of maxima over many draws
        x = torch.randn(1, 1, 22, 22, requires_grad=True)
        seen |= torch.autograd.grad(model(x)[0, 0, 7, 11], x)[0][0, 0] > 0
    assert seen.nonzero().tolist() == [[10, 11], [11, 11], [12, 11]]


def test_unpooling_may_put_a_maximum_anywhere():
    def function(y):
        y, places = nn.functional.max_pool2d(y, 2, 2, return_indices=True)
        return nn.functional.max_unpool2d(y, places, 2)

    found = field_of(Between(function), (16, 16))
    assert found.sum() == 6 * 6  # of two windows each way: four pixels, and one more on either side


def test_recurrent_layers_see_however_far_back():
    lstm = nn.LSTM(1, 2, batch_first=True)
    nn.init.constant_(lstm.bias_hh_l0, -3.0)  # forgets 95 % in each step
    along = lambda y: lstm(y.flatten(0, 2)[..., None])[0][None].permute(0, 3, 1, 2).sum(1, keepdim=True)  # noqa: E731
    model = Between(along)
    model.lstm = lstm
    assert field_of(model, (3, 80)).sum() == 3 * 43  # the middle, the columns before it, and two beyond
    assert torch.backends.mkldnn.enabled


class Difference(nn.Module):
    """Two branches that cancel each other for these weights."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1), nn.Identity()
        self.b.load_state_dict(self.a.state_dict())

    def forward(self, x):
        return self.out(torch.add(self.a(x), self.b(x), alpha=-1) + (x - x) * x)


def test_branches_that_cancel_count():
    model = Difference()
    with pytest.raises(ValueError, match="all gradients are zero"):
        compute_erf(model, torch.zeros(1, 1, 16, 16), "out")
    assert theoretical_rf(model, (16, 16), "out", in_channels=1)["out"].size == (3, 3)


class Attention(nn.Module):
    """Attention of patches of 8x8, of spikes that never fire (``spikes``), or by softmax in windows of two rows."""

    def __init__(self, spikes: bool):
        super().__init__()
        self.spikes = spikes
        self.fire = IntegerSpike(4)
        self.patch = nn.Conv2d(3, 4, 8, 8)
        self.out = nn.Identity()

    def forward(self, x):
        x = self.patch(x)
        tokens = x.flatten(2).mT
        if self.spikes:
            q = self.fire(tokens - 100)
            y = (q @ q.mT) @ q
        else:
            row = torch.arange(tokens.shape[1]) // x.shape[-1] // 2
            mask = torch.where(row[:, None] == row, 0.0, -100.0)
            y = (tokens @ tokens.mT + mask).softmax(-1) @ tokens
        return self.out(y.mT.unflatten(2, x.shape[2:]))


@pytest.mark.slow
def test_attention_sees_what_its_mask_allows_and_silent_spikes_hide_nothing():
    spiking = theoretical_rf(Attention(True), (64, 64), "out")["out"]
    assert spiking.size == (inf, inf) and spiking.area == 1
    windows = theoretical_rf(Attention(False), (64, 64), "out")["out"]
    assert windows.size == (16, inf) and windows.area == 16 / 64


@pytest.mark.parametrize(
    "layer", [nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.GroupNorm(1, 2), nn.InstanceNorm2d(2)]
)
def test_whole_image(layer):
    field = theoretical_rf(nn.Sequential(nn.Conv2d(3, 2, 3), layer), (20, 20), "1")["1"]
    assert field.size == (inf, inf) and field.area == 1 and isnan(field.padding[0]) and str(field) == "whole image"


def test_neurons_with_time():
    class Net(nn.Sequential):
        def forward(self, x):
            return torch.stack([nn.Sequential.forward(self, frame) for frame in x])

    model = Net(nn.Conv2d(3, 2, 3, padding=1), neuron.LIFNode(), nn.Conv2d(2, 2, 3, 2, 1), neuron.LIFNode())
    field = theoretical_rf(model, (16, 16), "3", time_steps=3)["3"]
    assert (field.size, field.stride, field.padding) == ((5, 5), (2, 2), (2, 2))


class Sampled(nn.Module):
    """Reads its map at places that it computes: between pixels, at offsets of a convolution, or by an order of its values."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.embed, self.places = kind, nn.Conv2d(3, 1, 3, 1, 1), nn.Conv2d(1, 18, 1)
        self.deform, self.out = torchvision.ops.DeformConv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1)

    def forward(self, x):
        x = self.embed(x)
        if self.kind == "deformable":
            return self.out(self.deform(x, self.places(x)))
        if self.kind == "order":
            flat = x.flatten(2)
            return self.out(flat.gather(2, flat.argsort(2)).view_as(x))
        axes = [torch.linspace(-1, 1, n).to(x) for n in x.shape[:1:-1]]
        grid = torch.stack(torch.meshgrid(*axes, indexing="xy"), -1).expand(len(x), -1, -1, -1)
        if self.kind == "grid":
            grid = grid + 0.1 * self.places(x)[:, :2].permute(0, 2, 3, 1)
        return self.out(F.grid_sample(x, grid, align_corners=True))


@pytest.mark.parametrize(
    ("kind", "size"), [("deformable", np.inf), ("grid", np.inf), ("order", np.inf), ("fixed grid", 5)]
)
@pytest.mark.slow
def test_places_that_are_computed_from_the_image_may_be_anywhere(kind, size):
    """Those of one image alone were in the field: that of another image could be larger."""
    torch.manual_seed(0)
    field = theoretical_rf(Sampled(kind), (32, 32), ["embed", "out"])
    assert field["embed"].size == (3, 3) and np.all(np.array(field["out"].size) <= size)
    assert np.isfinite(field["out"].side) == np.isfinite(size)
