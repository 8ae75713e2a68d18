"""Neurons of all libraries are counted: how they are called, what they remember, and which layers are none."""

import pytest
import torch
import torch.utils.checkpoint
from spikingjelly.activation_based import neuron
from torch import nn

from sterf_plugins.activity import FiringMaps, FiringRates, count_operations
from sterf_plugins.firing import neuron_layers
from sterf_plugins.layers import IntegerSpike
from sterf_plugins.stems import TemporalRF


class ByName(nn.Module):
    """Calls its neuron with the input by name."""

    def __init__(self, spike):
        super().__init__()
        self.spike, self.linear = spike, nn.Linear(3, 2, bias=False)

    def forward(self, x):
        return self.linear(self.spike(x=x))


@pytest.mark.parametrize("spike", [IntegerSpike(4), neuron.IFNode(v_threshold=0.7)])
def test_neurons_that_are_called_by_name(spike):
    x = torch.tensor([[0.0, 1.0, 2.0]])
    with FiringRates(ByName(spike)) as rates, FiringMaps(rates._model) as maps:
        found = count_operations(rates._model, x)
    spikes = 3 if isinstance(spike, IntegerSpike) else 2
    assert (found.neurons["spike"].spikes, found.layers["linear"].acs) == (spikes, 2 * spikes)
    assert maps.layers["spike"].never.tolist() == [True, False, False]
    for context in (FiringRates(rates._model), FiringMaps(rates._model)):
        with context, pytest.raises(ValueError, match=r"the neurons of layer 'spike' .* NaN"):
            rates._model(x.log() * 0)


def test_a_state_that_was_left_in_a_neuron_does_not_enter_the_count():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), neuron.IFNode(v_threshold=0.7), nn.Linear(16, 2))
    x = torch.rand(4, 8)
    expected = count_operations(model, x).total.acs
    model(x)
    left = model[1].v.clone()
    assert left.abs().max() > 0 and expected > 0
    assert count_operations(model, x).total.acs == expected
    assert torch.equal(model[1].v, left)  # and it is still there


def test_neurons_of_other_libraries_are_spikes_with_their_states():
    """Two steps of a constant current that fires in the second: one spike per neuron; states and leaks by hand."""
    snntorch = pytest.importorskip("snntorch", reason="snntorch is part of the extra `dev`")
    norse = pytest.importorskip("norse.torch", reason="norse is part of the extra `dev`")

    class Net(nn.Module):
        def __init__(self, node, current):
            super().__init__()
            self.node, self.out, self.current = node, nn.Linear(3, 2), current

        def forward(self, x):
            state = ()
            for _ in range(2):
                spikes, *state = self.node(self.current + 0 * x, *state)
                y = self.out(spikes)
            return y

    graded = snntorch.Leaky(1.0, graded_spikes_factor=0.5)
    for node, current, states in ((graded, 0.6, 1), (snntorch.Synaptic(0.5, 0.9), 0.6, 2), (norse.LIFCell(), 6.0, 2)):
        model, x = Net(node, current), torch.zeros(1, 3)
        with FiringRates(model) as rates, FiringMaps(model) as maps:
            found = count_operations(model, x)
        neuron = found.neurons["node"]
        assert (neuron.outputs, neuron.spikes, neuron.steps, neuron.states, neuron.leaks) == (6, 3, 2, states, True)
        assert (found.layers["out"].acs, found.layers["out"].macs) == (3 * 2, 0)
        assert rates.layers["node"].rate == 0.5 and not maps.layers["node"].never.any()
    assert not neuron_layers(
        nn.ModuleList([snntorch.StateLeaky(0.9, 3, output=False), norse.LICell()])
    )  # give potentials


def test_layers_of_norse_run_all_steps():
    """Four steps in one call: a constant current of 6 fires in the second one and the fourth one, in two of three channels."""
    norse = pytest.importorskip("norse.torch", reason="norse is part of the extra `dev`")
    model, x = norse.SequentialState(norse.LIF(), nn.Linear(3, 2)), torch.tensor([6.0, 6.0, 0.0]).expand(4, 1, 3)

    class Output(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net(x.flatten(1).unflatten(1, (1, 3)))[0]

    frames = x.reshape(4, 1, 3, 1, 1)
    model = Output()
    with FiringRates(model) as rates, FiringMaps(model) as maps:
        found = count_operations(model, frames)
    neurons, linear = found.neurons["net.0"], found.layers["net.1"]
    assert (neurons.outputs, neurons.steps, linear.steps) == (12, 4, 4)
    assert linear.acs == 2 * neurons.spikes > 0 == linear.macs
    assert rates.layers["net.0"].fired.tolist() == [True, True, False]
    assert maps.layers["net.0"].never.tolist() == [False, False, True]


@pytest.mark.parametrize("kind", ["lif", "norse:lif"])
@pytest.mark.parametrize("combine", ["stack", "sum", "mix", "last"])
def test_lif_neurons_of_temporal_fields_are_counted(kind, combine):
    """Two steps of an input of 1: potentials of .5 and .75, and a spike at .6, of three channels at two scales."""
    if kind == "norse:lif":
        pytest.importorskip("norse.torch", reason="norse is part of the extra `dev`")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.time = TemporalRF((2.0, 2.0), kind, method="euler", combine=combine, th=0.6)
            self.out = nn.Conv2d(3 if combine in ("sum", "mix") else 6, 2, 1)

        def forward(self, x):
            return self.out(self.time(x)[0].flatten(0, -4))

    model, x = Net(), torch.ones(2, 1, 3, 1, 1)
    with FiringRates(model) as rates, FiringMaps(model) as maps:
        found = count_operations(model, x)
    neurons = found.neurons["time.neurons"]
    assert (neurons.outputs, neurons.spikes, neurons.steps, neurons.states, neurons.leaks) == (12, 6, 2, 1, True)
    assert rates.layers["time.neurons"].rate == 0.5 and rates.layers["time.neurons"].fired.size == 3
    assert not maps.layers["time.neurons"].never.any()
    # A mean of spikes with learned weights is no spikes.
    assert (found.layers["out"].acs, found.layers["out"].macs) == ((0, 12) if combine == "mix" else (12, 0))


def test_leaky_integrators_are_no_neurons():
    assert not neuron_layers(TemporalRF((2.0,)))
