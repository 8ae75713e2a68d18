"""Which operands are spikes, which are weights, and for how many time steps a layer runs: networks counted by hand."""

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from sterf_plugins.activity import count_operations, estimate_energy
from sterf_plugins.deploy import to_spike_driven
from sterf_plugins.layers import IntegerSpike, if_node


class Network(nn.Module):
    """A function of a module's parts and the input."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return self.function(self, x)


def spikes_behind(function, levels=1, **parts):
    """Binary spikes, and integer ones that no layer reads, in front of a convolution 2 -> 3 without bias."""

    def forward(self, x):
        self.other(x)
        return self.conv(function(self, self.spike(x)))

    conv = nn.Conv2d(parts.pop("channels", 2), 3, 1, bias=False)
    return Network(forward, spike=IntegerSpike(levels), other=IntegerSpike(4), conv=conv, **parts).eval()


# A 2x4x4 image of zeros and ones; channel 0 has 3 ones and channel 1 has 8.
IMAGE = torch.zeros(1, 2, 4, 4)
IMAGE[0, 0, 0, :3] = IMAGE[0, 1, :, ::2] = 1


def half(self, s):
    return torch.stack([s, torch.zeros_like(s)]).mean(0)


ANALOG = {
    "average pooling": lambda self, s: F.avg_pool2d(s, 2, 1),
    "bilinear": lambda self, s: F.interpolate(s, scale_factor=2, mode="bilinear"),
    "dropout": lambda self, s: F.dropout(s, training=True),
    "a learnt scale": lambda self, s: s * self.scale.weight.view(1, -1, 1, 1),
    "beside an analog map": lambda self, s: torch.cat([s[:, :1], s[:, 1:] + 0.0 * IMAGE[:, :1].cos()], 1),
    "mean": half,
    "whole numbers of a layer": lambda self, s: self.ones(s),
    "a gate of several spikes": lambda self, s: s * (s + s),
    "a difference": lambda self, s: s - IMAGE.flip(1) * s,
}


@pytest.mark.parametrize("name", ANALOG)
def test_what_is_computed_from_spikes_is_analog(name):
    """Though each value is a whole number of the spikes of D = 4, or 1, or 2."""
    ones = nn.Conv2d(2, 2, 1, groups=2, bias=False)
    ones.weight.data.fill_(1)
    network = spikes_behind(ANALOG[name], scale=nn.Embedding(1, 2, _weight=torch.ones(1, 2)), ones=ones)
    found = count_operations(network, IMAGE).layers["conv"]
    assert (found.acs, found.levels) == (0, 0) and found.macs == found.dense > 0


SPIKES = {  # the spikes, 3 + 8 of them at first, and the most of them in one value
    "max pooling": (lambda self, s: F.max_pool2d(s, 2), 2 + 4, 1),
    "nearest": (lambda self, s: F.interpolate(s, scale_factor=2), 4 * 11, 1),
    "padding": (lambda self, s: F.pad(s, (1, 2)), 11, 1),
    "dropout": (lambda self, s: F.dropout(s, training=self.training), 11, 1),
    "a residual": (lambda self, s: s + s, 22, 2),
    "a residual in place": (lambda self, s: s.add_(s.clone()), 22, 2),
    "half of them": (lambda self, s: 0.5 * s, 11, 1),
    "divided": (lambda self, s: s / 3, 11, 1),
    "channels": (lambda self, s: torch.cat([s[:, 1:], s[:, 1:]], 1), 16, 1),
    "beside zeros": (lambda self, s: torch.cat([s[:, :1], torch.zeros_like(s[:, 1:])], 1), 3, 1),
    "a gate": (lambda self, s: s * s.amax((2, 3), keepdim=True), 11, 1),
    "a mask": (lambda self, s: s * (s > 0), 11, 1),
    "written into a buffer": (lambda self, s: torch.empty_like(s).copy_(s), 11, 1),
    "sums over positions": (lambda self, s: s.sum((2, 3), keepdim=True), 11, 8),
    "half precision": (lambda self, s: s.bfloat16().float(), 11, 1),
    "as integers": (lambda self, s: s.int().float(), 11, 1),
    "chosen by indices": (lambda self, s: s.take_along_dim(s.argmax(3, keepdim=True), 3), 1 + 4, 1),
    "the largest": (lambda self, s: s.gather(3, s.topk(2).indices), 2 + 8, 1),
    "turned": (lambda self, s: s.rot90(1, (2, 3)), 11, 1),
}


@pytest.mark.parametrize("name", SPIKES)
def test_what_moves_selects_or_adds_spikes_leaves_spikes(name):
    function, spikes, levels = SPIKES[name]
    found = count_operations(spikes_behind(function), IMAGE).layers["conv"]
    assert (found.spikes, found.acs, found.macs, found.levels) == (spikes, 3 * spikes, 0, levels)


def test_spikes_of_two_sizes_are_analog():
    """A quarter, of D = 4, and 1 are no whole numbers of the same spike; integers of one size are."""
    function = lambda self, s: s + self.other(4 * s)  # noqa: E731
    assert count_operations(spikes_behind(function), IMAGE).layers["conv"].acs == 0
    found = count_operations(spikes_behind(function, levels=4), 4 * IMAGE).layers["conv"]
    assert (found.spikes, found.levels) == (2 * 4 * 11, 8)


def test_memory_that_was_spikes_holds_analog_numbers():
    def forward(self, x):
        s = self.spike(x)
        s += 0.5 * torch.ones_like(x)
        return self.conv(s)

    network = Network(forward, spike=IntegerSpike(2, norm=2), conv=nn.Conv2d(2, 3, 1, bias=False))
    assert count_operations(network, 2 * IMAGE).total.acs == 0


# By operator: what reads analog numbers of (T, B, N, C) = (4, 3, 5, 8), its parts, and MACs of a step for one input.
STEPS = {
    "linear": (lambda m, x: m.layer(x), nn.Linear(8, 6), 5 * 8 * 6),
    "linear without bias": (lambda m, x: m.layer(x), nn.Linear(8, 6, bias=False), 5 * 8 * 6),
    "linear of merged time": (lambda m, x: m.layer(x.flatten(0, 1)), nn.Linear(8, 6), 5 * 8 * 6),
    "linear of flat tokens": (lambda m, x: m.layer(x.flatten(0, 2)), nn.Linear(8, 6), 5 * 8 * 6),
    "linear of moved channels": (lambda m, x: m.layer(x.mT.contiguous().mT), nn.Linear(8, 6), 5 * 8 * 6),
    "linear of windows": (
        lambda m, x: m.layer(x.flatten(0, 1)[:, :4].unflatten(1, (2, 2)).flatten(0, 1)), nn.Linear(8, 6), 4 * 8 * 6,
    ),
    "vectors": (lambda m, x: m.layer(x.mean(2)), nn.Linear(8, 6), 8 * 6),
    "behind a norm": (lambda m, x: m.layer(F.layer_norm(x, (8,))), nn.Linear(8, 6), 5 * 8 * 6),
    "conv1d": (lambda m, x: m.layer(x.flatten(0, 1).mT), nn.Conv1d(8, 6, 1), 5 * 8 * 6),
    "conv2d": (lambda m, x: m.layer(x.flatten(0, 1)[:, None]), nn.Conv2d(1, 6, 1), 5 * 8 * 6),
    "conv2d of images": (lambda m, x: m.layer(x[:, :, None].flatten(0, 1)), nn.Conv2d(1, 6, 1), 5 * 8 * 6),
    "product of tokens": (lambda m, x: x @ x.mT, nn.Identity(), 5 * 5 * 8),
    "product of merged time": (lambda m, x: x.flatten(0, 1) @ x.flatten(0, 1).mT, nn.Identity(), 5 * 5 * 8),
    "product of heads": (
        lambda m, x: (y := x.unflatten(-1, (2, 4)).transpose(2, 3)) @ y.mT, nn.Identity(), 2 * 5 * 5 * 4,
    ),
    "einsum": (lambda m, x: torch.einsum("tbij,tbkj->tbik", x, x), nn.Identity(), 5 * 5 * 8),
    "attention": (lambda m, x: F.scaled_dot_product_attention(x, x, x), nn.Identity(), 2 * 5 * 5 * 8),
    "a step by itself": (lambda m, x: torch.stack([m.layer(step) for step in x]), nn.Linear(8, 6), 5 * 8 * 6),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("reads", ["numbers before neurons", "spikes", "numbers behind neurons"])
@pytest.mark.parametrize("inputs", [1, 3, 4])
def test_the_quantised_network_runs_once(name, reads, inputs):
    """Whatever operator reads what has T = 4 steps; spikes of T = 4 have 3 bits."""
    function, layer, macs = STEPS[name]

    def forward(self, x):
        x = x.squeeze(2)
        if reads == "numbers before neurons":
            return function(self, x), self.spike(x)
        spikes = self.spike(x)
        return function(self, spikes if reads == "spikes" else F.layer_norm(spikes, (8,)))

    torch.manual_seed(0)
    network = Network(forward, layer=layer, spike=neuron.IFNode(step_mode="m"))
    operations = count_operations(network, 2 * torch.rand(4, inputs, 1, 5, 8))
    (found,) = operations.layers.values()
    assert (found.steps, found.dense) == (4, 4 * inputs * macs)
    one = 3.7 * 3 / 32 + 0.9 if found.acs else 4.6
    assert (found.acs > 0) == (reads == "spikes" and name not in ("vectors", "behind a norm"))
    if name != "attention":  # its second product is driven by other numbers
        assert estimate_energy(operations, "compute")["total"].quantised == pytest.approx(inputs * macs * one)


ONCE = {
    "the mean over time": lambda m, x: m.layer(x.mean(0)),
    "the sum over time": lambda m, x: m.layer(x.sum(0)),
    "windows of the mean": lambda m, x: m.layer(x.mean(0)[:, :4].unflatten(1, (2, 2)).flatten(0, 1)),
    "the last step": lambda m, x: m.layer(x[-1]),
    "time among the channels": lambda m, x: m.layer(x.transpose(0, 1).flatten(1, 2).mT.contiguous()[:, :8, :8]),
}


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("inputs", [1, 3, 4])
def test_what_runs_once_has_one_step(name, inputs):
    network = Network(
        lambda m, x: ONCE[name](m, m.spike(x.squeeze(2))), spike=neuron.IFNode(step_mode="m"), layer=nn.Linear(8, 6)
    )
    found = count_operations(network, 2 * torch.rand(4, inputs, 1, 5, 8)).layers["layer"]
    assert found.steps == 1


def test_layers_of_a_loop_over_time():
    """An image goes four times through a convolution, a norm and neurons with a state, as in loops of snnTorch."""

    def forward(self, x):
        sent = [self.second(self.spike(self.norm(self.first(x)))) for _ in range(4)]
        return self.head(torch.stack(sent).mean((0, 3, 4)))

    network = Network(
        forward, first=nn.Conv2d(2, 3, 1), norm=nn.BatchNorm2d(3), spike=neuron.IFNode(), second=nn.Conv2d(3, 5, 1),
        head=nn.Linear(5, 7),
    )  # fmt: skip
    operations = count_operations(network, torch.rand(3, 2, 4, 4))
    assert {name: o.steps for name, o in operations.layers.items()} == {"first": 4, "second": 4, "head": 1}
    assert estimate_energy(operations, "compute")["first"].quantised == pytest.approx(3 * 16 * 6 * 4.6)


def test_the_spike_driven_form_is_compared_with_the_same_quantised_network():
    """D = 4 binary steps are one of the integer network's, and of its quantised equivalent."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), IntegerSpike(4), nn.Conv2d(2, 3, 2, bias=False)).eval()
    x = 4 * torch.rand(1, 1, 5, 5)
    whole, driven = (count_operations(m, x) for m in (model, to_spike_driven(model, x)))
    (layer,) = (o for name, o in driven.layers.items() if name.startswith("2"))
    assert (layer.levels, layer.steps, layer.acs) == (1, 4, whole.layers["2"].acs)
    for energy in ("compute", "memory"):
        found, expected = (estimate_energy(o, energy)["total"].quantised for o in (driven, whole))
        assert found == pytest.approx(expected)


def test_tokens_behind_their_norm_have_no_steps():
    """The norm gives (B*N, C), which is not (T*B, C) because N is a multiple of D = 4."""
    torch.manual_seed(0)
    norm = nn.Sequential(nn.Flatten(0, 1), nn.BatchNorm1d(6), nn.Unflatten(0, (2, 8)))
    layers = (nn.Linear(3, 6), IntegerSpike(4), nn.Linear(6, 6), norm, IntegerSpike(4), nn.Linear(6, 2))
    model, x = nn.Sequential(nn.Unflatten(1, (8, 3)), *layers).eval(), 9 * torch.rand(2, 24)
    whole, driven = (count_operations(m, x) for m in (model, to_spike_driven(model, x)))
    assert {name: o.steps for name, o in driven.layers.items()} == {"1": 1, "3.layer": 4, "6.layer": 4}
    found, expected = (estimate_energy(o, "compute")["total"].quantised for o in (driven, whole))
    assert found == pytest.approx(expected)


def test_levels_and_steps_are_those_of_the_neurons_in_front():
    """A sum of binary spikes of one step, in a network with other neurons of D = 8 and of T = 4."""
    network = Network(
        lambda m, x: (m.conv(2 * (y := m.spike(x))), m.sum(y + y), m.integers(x), m.held(x)),
        spike=IntegerSpike(1), integers=IntegerSpike(8), held=if_node(T=4), conv=nn.Conv2d(2, 3, 1), sum=nn.Conv2d(2, 3, 1),
    )  # fmt: skip
    layers = count_operations(network, IMAGE).layers
    assert [(layers[name].levels, layers[name].steps) for name in ("conv", "sum")] == [(1, 1), (2, 1)]


def weight_norm(layer):
    return parametrizations.weight_norm(layer)


WEIGHTS = {
    "weight_norm": weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": lambda layer: parametrizations.orthogonal(layer, use_trivialization=False),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_computed_anew_are_weights(name):
    """8 spikes of 2 channels and 3 outputs: no product of activations, and nothing of what makes the weight."""
    network = nn.Sequential(IntegerSpike(1), WEIGHTS[name](nn.Linear(4, 3)))
    operations = count_operations(network, torch.ones(2, 4))
    assert list(operations.layers) == ["1"]
    found = operations.layers["1"]
    assert (found.acs, found.macs, found.spikes, found.weights, found.biases) == (24, 0, 8, 15, 6)


@pytest.mark.parametrize("moved", [False, True])
def test_biases_of_a_linear_layer(moved):
    """16 tokens and 6 outputs, whether the channels are the last axis in memory or not."""
    function = lambda m, x: m.layer(x.flatten(2).mT.contiguous() if not moved else x.flatten(2).mT) + 1.0  # noqa: E731
    found = count_operations(Network(function, layer=nn.Linear(2, 6)), torch.rand(3, 2, 4, 4)).layers["layer"]
    assert (found.biases, found.weights, found.macs) == (3 * 16 * 6, 12 + 6, 3 * 16 * 12)


def test_a_state_in_a_buffer_is_no_weight():
    """Twice 33 MACs read the state of 11 numbers, which the input was written into."""

    def forward(self, x):
        self.state.copy_(x)
        return self.layer(self.layer(self.state) @ self.layer.weight)

    network = Network(forward, layer=nn.Linear(11, 3, bias=False))
    network.register_buffer("state", torch.zeros(1, 11))
    layers = count_operations(network, torch.rand(1, 11)).layers
    assert {name: o.macs for name, o in layers.items()} == {"Network": 33, "layer": 66}


def test_weights_in_another_precision():
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.conv(self.spike(x)).flatten(2) @ self.matrix.weight

    network = Network(forward, spike=IntegerSpike(1), conv=nn.Conv2d(2, 3, 1), matrix=nn.Linear(5, 16, bias=False))
    layers = count_operations(network, IMAGE).layers
    assert {name: (o.acs, o.macs, o.weights) for name, o in layers.items()} == {
        "conv": (33, 0, 9),
        "Network": (0, 3 * 16 * 5, 80),
    }


def test_a_weight_on_the_left_is_held_once():
    """W x of (B, C, N), for which PyTorch repeats W."""
    network = Network(lambda m, x: m.layer.weight @ m.spike(x).flatten(2), spike=IntegerSpike(1), layer=nn.Linear(2, 6))
    found = count_operations(network, IMAGE.repeat(3, 1, 1, 1)).layers["Network"]
    assert (found.acs, found.weights, found.product) == (3 * 11 * 6, 12, False)


def test_a_convolution_of_two_activations_is_a_product():
    """As the cross-correlation of a tracker's template with its search region."""
    network = Network(lambda m, x: F.conv2d(m.spike(x), m.spike(x)[:, :, :2, :2]), spike=IntegerSpike(1))
    operations = count_operations(network, IMAGE)
    assert list(operations.layers) == ["Network (product)"]
    assert operations.layers["Network (product)"].dense == 9 * 8


@pytest.mark.parametrize("flat", [False, True])
def test_integer_spikes_of_several_steps(flat):
    """D = 4 and T = 3, as (T, B, ...) and as (T*B, ...): the quantised network has 4 bits, for 13 values, and runs once."""
    merged = (
        (lambda m, x: m.conv(m.spike(x.flatten(0, 1)))) if flat else (lambda m, x: m.conv(m.spike(x).flatten(0, 1)))
    )
    network = Network(merged, spike=IntegerSpike(4), conv=nn.Conv2d(2, 6, 1, bias=False))
    operations = count_operations(network, 4 * torch.rand(3, 2, 2, 5, 5))
    assert operations.neurons["spike"].steps == operations.layers["conv"].steps == 3
    expected = 2 * 25 * 2 * 6 * (3.7 * 4 / 32 + 0.9)
    assert estimate_energy(operations, "compute")["conv"].quantised == pytest.approx(expected)


def test_volumes_have_no_time_steps():
    """(B, C, depth, H, W) of two images."""
    network = Network(
        lambda m, x: m.conv(m.spike(x.unflatten(1, (1, 4)))), spike=IntegerSpike(4), conv=nn.Conv3d(1, 5, 3)
    )
    operations = count_operations(network, torch.rand(2, 4, 6, 6))
    assert operations.neurons["spike"].steps == operations.layers["conv"].steps == 1


def test_volumes_of_five_axes_are_refused():
    """Two volumes of one channel would be one input of two time steps."""
    network = nn.Sequential(IntegerSpike(4), nn.Conv3d(1, 5, 3))
    with pytest.raises(ValueError, match="the model begins with a Conv3d; give"):
        count_operations(network, torch.rand(2, 1, 4, 6, 6))
    operations = count_operations(nn.Sequential(nn.Unflatten(1, (1, 4)), network), torch.rand(2, 4, 6, 6))
    assert operations.num_inputs == 2 and operations.layers["1.1"].steps == 1


def test_as_many_channels_as_images_are_no_time_steps():
    """(B, C, H, W) with B = C = 4 behind the mean and beside neurons of T = 4 steps."""
    network = Network(
        lambda m, x: (m.nodes(x), m.conv(m.spike(x[0]))), nodes=neuron.IFNode(step_mode="m"), spike=IntegerSpike(4),
        conv=nn.Conv2d(4, 6, 1),
    )  # fmt: skip
    assert count_operations(network, torch.rand(4, 4, 4, 5, 5)).layers["conv"].steps == 1


SEVERAL_WEIGHTS = {
    "LSTM": (nn.LSTM(8, 6, num_layers=2, bidirectional=True), lambda m, x: m(x)[0]),
    "GRU": (nn.GRU(8, 6), lambda m, x: m(x)[0]),
    "self-attention": (nn.MultiheadAttention(8, 2), lambda m, x: m(x, x, x)[0]),
    "cross-attention": (nn.MultiheadAttention(8, 2), lambda m, x: m(x, 2 * x, 3 * x)[0]),
    "attention of other widths": (
        nn.MultiheadAttention(8, 2, kdim=5, vdim=3),
        lambda m, x: m(x, x[..., :5], x[..., :3])[0],
    ),
}


@pytest.mark.parametrize("name", SEVERAL_WEIGHTS)
@pytest.mark.parametrize("passes", [1, 2])
def test_all_weights_of_a_layer_are_held(name, passes):
    """A layer of several matrices has all of them in its memory, each once, however often they are read."""
    layer, function = SEVERAL_WEIGHTS[name]
    network = Network(lambda m, x: function(m.layer, x.flatten(2).permute(2, 0, 1)), layer=layer)
    layers = count_operations(network, *torch.rand(passes, 3, 8, 2, 2)).layers
    weights = sum(o.weights for o in layers.values() if not o.product)
    assert weights == sum(p.numel() for p in layer.parameters())


def test_a_linear_layer_of_a_parameter_computes_a_weight():
    """Positions in the layout of maps pass a linear layer, whose bias is added on its own: neither is counted."""
    network = Network(
        lambda m, x: m.conv(m.spike(x)) + m.linear(m.positions.weight.view(1, 4, 9).mT).mT.unflatten(2, (3, 3)),
        positions=nn.Embedding(4, 9), linear=nn.Linear(4, 4), spike=IntegerSpike(1), conv=nn.Conv2d(4, 4, 1, bias=False),
    )  # fmt: skip
    layers = count_operations(network, torch.ones(2, 4, 3, 3)).layers
    assert {name: (o.acs, o.biases, o.weights) for name, o in layers.items()} == {"conv": (2 * 9 * 16, 0, 16)}
