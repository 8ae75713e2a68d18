"""Fields in time: analytic kernels, lags, weights, neurons."""

import numpy as np
import pytest
import torch
from torch import nn

from sterf_plugins.backbones import SpikingCNN
from sterf_plugins.erf import compute_erf
from sterf_plugins.erf.numbers.lags import exponential_fit, half_life, lag_mass, mean_lag


class Leaky(nn.Module):
    """v[t] = decay * v[t - 1] + x[t], so that dv[t]/dx[t - lag] = decay ** lag."""

    def __init__(self, decay):
        super().__init__()
        self.decay = decay

    def forward(self, x):
        v, out = torch.zeros_like(x[0]), []
        for step in x:
            v = self.decay * v + step
            out.append(v)
        return torch.stack(out)


def inputs(steps=12, n=2, size=5):
    return torch.randn(steps, n, 1, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("decay", [0.5, 0.8, 0.9])
def test_a_leaky_integrator_is_an_exponential(decay):
    result = compute_erf(nn.Sequential(Leaky(decay)), inputs(), "0")
    curve = result.temporal["0"]
    assert np.allclose(curve, 25 * decay ** np.arange(12), rtol=1e-5)  # 25 positions, each its own
    field = result.spatiotemporal["0"]
    for t in range(12):
        assert np.allclose(field[t, : t + 1, 2, 2], decay ** np.arange(t + 1), rtol=1e-5)
        assert not field[t, t + 1 :].any()
    numbers = result.numbers("0")
    assert numbers["half_life"].value == pytest.approx(np.log(2) / -np.log(decay), rel=1e-4)
    assert numbers["time_constant"].value == pytest.approx(-1 / np.log(decay), rel=1e-4)
    assert numbers["exponential_r2"].value == pytest.approx(1)
    assert numbers["half_life"].error == pytest.approx(0, abs=1e-5)


def test_a_cascade_of_two_is_the_gamma_like_kernel():
    decay = 0.7
    result = compute_erf(nn.Sequential(Leaky(decay), Leaky(decay)), inputs(), ["0", "1"])
    lags = np.arange(12)
    assert np.allclose(result.temporal["1"], 25 * (lags + 1) * decay**lags, rtol=1e-5)
    assert result.numbers("1")["mean_lag"].value > result.numbers("0")["mean_lag"].value
    assert np.argmax(result.temporal["1"]) in (1, 2)  # it rises before it falls: decay 0.7 has its peak at 1.8


def test_the_spatial_field_sums_over_steps_and_lags():
    decay, steps = 0.5, 6
    model = nn.Sequential(Leaky(decay))
    total = sum(decay**lag for t in range(steps) for lag in range(t + 1)) / steps
    for time in ("sum", "each"):
        field = compute_erf(model, inputs(steps), "0", time=time).spatial["0"]
        assert field[2, 2] == pytest.approx(total, rel=1e-5)
    weighted = compute_erf(model, inputs(steps), "0", time="each", weight=lambda t, lag: float(lag == t - 1))
    assert weighted.spatial["0"][2, 2] == pytest.approx(sum(decay**t for t in range(steps)) / steps, rel=1e-5)
    array = np.eye(steps)  # w(t, lag) = 1 where lag = t - 1
    same = compute_erf(model, inputs(steps), "0", time="each", weight=array).spatial["0"]
    assert np.allclose(same, weighted.spatial["0"])


def test_absolute_values_are_taken_after_the_sum_over_time_or_before_it():
    """v[t] = x[t] - x[t - 1]: the sum over lags cancels all but one, the single derivatives do not."""

    class Difference(nn.Module):
        def forward(self, x):
            return x - torch.cat([torch.zeros_like(x[:1]), x[:-1]])

    model, x = nn.Sequential(Difference()), inputs(4)
    assert compute_erf(model, x, "0").spatial["0"][2, 2] == pytest.approx(1 / 4)
    assert compute_erf(model, x, "0", time="each").spatial["0"][2, 2] == pytest.approx(7 / 4)
    assert compute_erf(model, x, "0", reduce="signed").spatiotemporal["0"][2, 1, 2, 2] == -1


def test_kinds_are_chosen_by_the_inputs_or_by_name():
    model = nn.Sequential(Leaky(0.5))
    result = compute_erf(model, inputs(), "0", kinds="temporal")
    assert not result.spatial and not result.spatiotemporal and list(result.temporal) == ["0"]
    with pytest.raises(ValueError, match="no spatial field; compute it with kinds='spatial'"):
        result.area_ratio("0")
    assert not compute_erf(nn.Sequential(nn.Identity()), torch.randn(2, 1, 4, 4), "0").temporal


def test_images_are_repeated_on_demand():
    model = nn.Sequential(Leaky(0.5))
    still = torch.randn(2, 1, 5, 5)
    result = compute_erf(model, still, "0", time_steps=4)
    assert result.temporal["0"].shape == (4,) and result.info["input_shape"] == [4, 1, 5, 5]
    with pytest.raises(ValueError, match="`time_steps` is 3, but `inputs` have 12"):
        compute_erf(model, inputs(), "0", time_steps=3)


def test_a_network_that_loops_over_time_calls_its_layers_once_per_step():
    from spikingjelly.activation_based import neuron

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)
            self.node = neuron.LIFNode(tau=2.0, step_mode="s")

        def forward(self, x):
            return torch.stack([self.node(self.conv(step)) for step in x])

    class Multi(Loop):
        def forward(self, x):
            y = self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            self.node.step_mode = "m"
            return self.node(y)

    torch.manual_seed(0)
    loop, multi = Loop(), Multi()
    multi.load_state_dict(loop.state_dict())
    first, second = (compute_erf(m, inputs(4), ["conv", "node"]) for m in (loop, multi))
    assert first.layers == second.layers == ["conv", "node"]
    for kind in ("spatial", "temporal", "spatiotemporal"):
        for layer in first.layers:
            assert np.allclose(getattr(first, kind)[layer], getattr(second, kind)[layer], atol=1e-6), (kind, layer)


@pytest.mark.parametrize("attribute", [True, False])
def test_images_in_and_a_loop_over_time_inside(attribute):
    """All steps count, whether the model says its T or only has neurons with a state."""
    from spikingjelly.activation_based import neuron

    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.node = nn.Conv2d(1, 1, 1, bias=False), neuron.LIFNode(tau=2.0, step_mode="s")
            nn.init.constant_(self.conv.weight, 1.0)
            if attribute:
                self.T = 4

        def forward(self, x):
            return torch.stack([self.node(self.conv(x)) for _ in range(4)]).mean(0)

    x = torch.full((2, 1, 5, 5), 0.6)
    total = compute_erf(Inside(), x, "node").spatial["node"][2, 2]
    leaf, model = x.clone().requires_grad_(), Inside()
    model.T = 1
    (grad,) = torch.autograd.grad(
        torch.stack([model.node(model.conv(leaf)) for _ in range(4)])[:, 0, 0, 2, 2].sum(), leaf
    )
    assert total == pytest.approx(float(grad[0, 0, 2, 2].abs()) / 4, rel=1e-5)


def test_states_of_neurons_are_reset_inside_and_as_before_outside():
    from spikingjelly.activation_based import layer, neuron

    node = neuron.LIFNode(tau=2.0, step_mode="m")
    model = nn.Sequential(layer.Conv2d(1, 1, 3, padding=1, step_mode="m"), node)
    x = inputs(4)
    with torch.no_grad():
        model(x)  # leaves a membrane potential
    potential = node.v.clone()
    first = compute_erf(model, x, "1").temporal["1"]
    assert torch.equal(node.v, potential)
    node.reset()
    assert np.array_equal(compute_erf(model, x, "1").temporal["1"], first)
    assert node.v == 0.0


@pytest.mark.parametrize("name", ["if", "lif", "plif", "ilif", "izhikevich"])
@pytest.mark.parametrize("surrogate", ["ATan", "Sigmoid", "Rect", "PiecewiseQuadratic"])
def test_spikingjelly_neurons(name, surrogate):
    if name == "ilif" and surrogate != "ATan":
        pytest.skip("its surrogate is its own")
    torch.manual_seed(0)
    options = {} if name == "ilif" else dict(surrogate=surrogate, alpha=1.0)
    model = SpikingCNN(2, neuron=name, channels=8, T=5, mean=0.1, std=0.2, **options)
    x = torch.rand(2, 1, 9, 9) + 0.5
    result = compute_erf(model, x, "layers.1", time_steps=5, position="all")
    assert result.temporal["layers.1"].shape == (5,) and result.temporal["layers.1"].sum() > 0
    inside = compute_erf(model, x, "layers.1").spatial["layers.1"]  # its own T = 5
    assert np.count_nonzero(inside) <= 25


@pytest.mark.parametrize("name", ["none", "integer", "if", "ilif"])
def test_images_of_a_batch_are_no_time_steps(name):
    model = SpikingCNN(2, neuron=name, channels=4, std=0.5).double()
    images = torch.rand(3, 1, 5, 5).double()
    together, alone = model(images), torch.cat([model(image[None]) for image in images])
    assert torch.allclose(together, alone) and together.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(kinds="temporal"), r"have no time axis. Give \(T, N, C, H, W\), or time_steps=T"),
        (dict(kinds="temporl"), "`kinds` is 'temporl'; allowed"),
        (dict(kinds=()), "`kinds` is empty"),
        (dict(weight=lambda t, lag: 1.0), "`weight` needs time='each'"),
        (dict(weight=lambda t, lag: 1.0, time="each"), "`weight` needs inputs with a time axis"),
        (dict(weight=np.ones(3), time="each", time_steps=2), r"`weight` has shape \(3,\)"),
        (dict(time="all"), "`time` is 'all'; allowed: 'sum', 'each'"),
        (dict(time="each"), "`time` is 'each', but neither `inputs` nor the outputs of the layers have a time axis"),
        (dict(time_steps=0), "`time_steps` is 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        compute_erf(nn.Sequential(nn.Identity()), torch.randn(2, 1, 4, 4), "0", **options)


def test_bad_networks():
    with pytest.raises(ValueError, match="`surrogate` is 'Atan'; allowed: 'ATan'"):
        SpikingCNN(surrogate="Atan")
    with pytest.raises(ValueError, match="must be odd"):
        SpikingCNN(kernel_size=2)
    with pytest.raises(TypeError, match="`alpha` is '2'"):
        SpikingCNN(surrogate="ATan", alpha="2")
    with pytest.raises(ValueError, match="`std` is nan"):
        SpikingCNN(std=float("nan"))
    with pytest.raises(TypeError, match="`bias` is 'no'"):
        SpikingCNN(bias="no")
    with pytest.raises(ValueError, match="unknown neuron 'lifff'"):
        SpikingCNN(neuron="lifff")
    for name in ("none", "relu", "integer", "ilif"):
        with pytest.raises(ValueError, match=f"`surrogate` is 'ATan', and the neuron '{name}' has none"):
            SpikingCNN(neuron=name, surrogate="ATan")
        with pytest.raises(TypeError, match="has no option 'tauu'; it has "):
            SpikingCNN(neuron=name, tauu=2.0)


def test_numbers_of_curves():
    assert np.allclose(lag_mass(np.array([2.0, -2.0])), [0.5, 0.5])
    assert mean_lag(np.array([1.0, 0, 1.0])) == 1
    assert half_life(np.ones(4)) == np.inf
    assert half_life(np.array([0, 4.0, 1.0])) == pytest.approx(0.5)  # counted from the peak
    assert exponential_fit(np.array([1.0, 2.0, 4.0]))[0] == pytest.approx(-1 / np.log(2))  # grows with the lag
    assert np.isnan(exponential_fit(np.array([1.0, 0.0]))[0])
    for bad in (np.zeros(3), np.ones((2, 2)), np.zeros(0)):
        with pytest.raises(ValueError):
            lag_mass(bad)


def test_a_half_life_beyond_the_steps_has_no_error():
    """It is infinite, and what is not known is not given as exact."""
    field = compute_erf(nn.Sequential(nn.Identity()), torch.rand(4, 6, 1, 5, 5), "0", kinds="temporal")
    assert np.isfinite(field.numbers("0")["half_life"].value)

    class Sum(nn.Module):
        def forward(self, x):  # every step depends alike on all steps before it
            return x.cumsum(0)

    number = compute_erf(nn.Sequential(Sum()), torch.rand(4, 6, 1, 5, 5), "0", kinds="temporal").numbers("0")[
        "half_life"
    ]
    assert number.value == float("inf") and np.isnan(number.error)
