"""Energy models counted by hand, beside SpikingJelly's own counters, and maps of silent and saturated neurons."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from spikingjelly.activation_based.op_counter import (
    DispatchCounterMode,
    LemaireEnergyConfig,
    MACCounter,
    NeuromorphicMemoryAccessCounter,
    NeuronStateCounter,
    SynOpCounter,
    estimate_lemaire_energy,
    estimate_neuromc_runtime_energy,
    estimate_simple_energy,
    estimate_spikesim_energy,
)
from spikingjelly.activation_based.op_counter.base import ModuleCounterMode
from torch import nn

from sterf_plugins.activity import (
    bits,
    count_operations,
    estimate_energy,
)
from sterf_plugins.deploy import to_spike_driven
from sterf_plugins.layers import IntegerSpike, lif_node

MAC, AC, WORD = 4.6, 0.9, 99.84  # pJ: 45 nm, and 3.12 pJ a bit
ADD, MUL = 0.1, 3.1  # pJ: 32-bit integers


def sram(numbers: float) -> float:
    """Lemaire's energy of 32 bits in a memory of 32-bit numbers: 10 pJ at 8 KB, 20 at 32 KB, 100 at 1 MB, linear between."""
    return float(np.interp(4 * numbers, [0, 8 * 2**10, 32 * 2**10, 2**20], [0, 10, 20, 100]))


def integer_network():
    """Pixels [[0, 1], [2, 3]] become spikes [[0, 1], [2, 3]] and [[0, 2], [4, 4]] of D = 4, 16 in all."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), IntegerSpike(4), nn.Conv2d(2, 3, 2, bias=False))
    model[0].weight.data = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    return model, torch.tensor([[0.0, 1.0], [2.0, 3.0]]).view(1, 1, 2, 2)


def spike_network():
    """Three channels of one pixel over T = 4: LIF neurons, a 1x1 convolution 3 -> 5 with bias, IF neurons.

    The input 2 makes a LIF neuron (tau 2, threshold 1) fire in each step, 1.2 in the third one, and 0 never.
    """
    model = nn.Sequential(
        neuron.LIFNode(step_mode="m"), layer.Conv2d(3, 5, 1, step_mode="m"), neuron.IFNode(step_mode="m")
    ).eval()
    model[1].weight.data.fill_(0.3)
    model[1].bias.data.zero_()
    return model, torch.tensor([2.0, 1.2, 0.0]).view(1, 1, 3, 1, 1).expand(4, 1, 3, 1, 1).contiguous()


def test_integer_spikes_by_hand():
    """8 MACs; then 48 ACs of 16 spikes with D = 4, for which a dense layer takes 24 MACs on 3 bits."""
    model, x = integer_network()
    operations = count_operations(model, x)
    conv, sent = operations.layers["2"], operations.neurons["1"]
    assert (conv.spikes, conv.inputs, conv.outputs, conv.weights, conv.kernel) == (16, 8, 3, 24, 12)
    assert (conv.levels, conv.steps, conv.acs, conv.dense) == (4, 1, 48, 24)
    assert (sent.outputs, sent.spikes, sent.levels, sent.steps, sent.states, sent.leaks) == (8, 16, 4, 1, 1, False)

    compute = estimate_energy(operations, "compute")
    assert compute["0"].spiking == compute["0"].quantised == pytest.approx(8 * MAC)
    assert compute["2"].spiking == pytest.approx(48 * AC)
    assert compute["2"].quantised == pytest.approx(24 * (3.7 * 3 / 32 + AC))  # a multiplication of 3 by 32 bits
    assert compute["1"].spiking == compute["1"].quantised == 0

    memory = estimate_energy(operations, "memory")
    assert memory["0"].spiking == memory["0"].quantised == pytest.approx(8 * (MAC + WORD))
    assert memory["2"].spiking == pytest.approx(48 * (AC + WORD))
    assert memory["2"].quantised == pytest.approx(24 * (3.7 * 3 / 32 + AC + WORD))
    assert memory["1"].spiking == pytest.approx(8 * 4 * 2 * WORD) and memory["1"].quantised == 0

    full = estimate_energy(operations, "full")
    first = 8 * (MUL + ADD) + (4 + 8 + 2) * ADD + 8 * sram(4) + 8 * sram(2)
    assert full["0"].spiking == full["0"].quantised == pytest.approx(first)
    spiking = 48 * ADD + (48 * ADD + 16 * 2 * (MUL + ADD)) + 16 * sram(1000) + 48 * sram(24) + 2 * 48 * sram(3)
    assert full["2"].spiking == pytest.approx(spiking)
    dense = 24 * (MUL * 3 / 32 + ADD) + (8 + 3 + 12) * ADD + 24 * 3 / 32 * sram(8 * 3 / 32) + 24 * sram(24)
    assert full["2"].quantised == pytest.approx(dense)
    assert full["1"].spiking == pytest.approx(16 * ADD + 2 * 8 * 4 * sram(8) + 16 * sram(1000))
    assert full["1"].quantised == pytest.approx(8 * 3 / 32 * sram(8 * 3 / 32))
    for found in (compute, memory, full):
        parts = [found[name] for name in "012"]
        assert found["total"].spiking == pytest.approx(sum(p.spiking for p in parts))
        assert found["total"].quantised == pytest.approx(sum(p.quantised for p in parts))


def test_neurons_over_time_by_hand():
    """4 + 1 spikes reach 5 outputs each: 25 ACs and 20 biases; both neuron layers read and write 4 x 3 and 4 x 5 potentials."""
    model, x = spike_network()
    operations = count_operations(model, x)
    conv, lif = operations.layers["1"], operations.neurons["0"]
    assert (lif.spikes, lif.outputs, lif.steps, lif.leaks, operations.neurons["2"].leaks) == (5, 12, 4, True, False)
    assert (conv.acs, conv.spikes, conv.biases, conv.weights, conv.levels, conv.steps) == (25, 5, 20, 20, 1, 4)
    memory = estimate_energy(operations, "memory")
    assert memory["1"].spiking == pytest.approx(25 * AC + 45 * WORD)
    assert memory["1"].quantised == pytest.approx(15 * (3.7 * 3 / 32 + AC + WORD) + 5 * WORD)  # once, on 3 bits
    assert memory["0"].spiking == pytest.approx(12 * 2 * WORD) and memory["2"].spiking == pytest.approx(20 * 2 * WORD)
    full = estimate_energy(operations, "full")
    assert full["0"].spiking == pytest.approx(12 * (MUL + ADD) + 5 * ADD + 24 * sram(3) + 5 * sram(1000))
    spiking = 45 * ADD + 25 * ADD + 10 * (MUL + ADD) + 5 * sram(1000) + 45 * sram(20) + 50 * sram(5)
    assert full["1"].spiking == pytest.approx(spiking)


def test_spikingjelly_agrees_where_its_counters_hold():
    """Binary spikes, one image, modules of its own types, convolutions without borders and strides."""
    model, x = spike_network()
    operations = count_operations(model, x)
    compute, memory = (estimate_energy(operations, name)["total"].spiking for name in ("compute", "memory"))
    assert memory - compute == pytest.approx(estimate_simple_energy(model, x).energy_memory_pj)
    for module in (model[0], model[2]):
        module.reset()
    expected = estimate_lemaire_energy(model, x, config=LemaireEnergyConfig(strict=True)).total_pj
    assert estimate_energy(operations, "full")["total"].spiking == pytest.approx(expected)


def test_integer_spikes_cost_what_their_spike_driven_form_does():
    """SpikingJelly counts the binary form, in which each count n has become n spikes over D steps."""
    model, x = integer_network()
    driven = to_spike_driven(model, x)
    counter, accesses = SynOpCounter(), NeuromorphicMemoryAccessCounter()
    with torch.no_grad(), DispatchCounterMode([counter]), ModuleCounterMode([accesses], model=driven[2]):
        driven(x)
    total = count_operations(model, x).total
    assert counter.get_total() == total.acs == count_operations(driven, x).total.acs == 48
    assert accesses.get_counts()["Global"]["weight_read_bytes"] == 4 * 48


def test_where_spikingjellys_counters_do_not_hold():
    """Each line is a reason why its costs, but not its counts, are used; docs/energy.md lists them."""

    def counts(model, x, *counters):
        with torch.no_grad(), DispatchCounterMode(list(counters)):
            model(x)
        return tuple(counter.get_total() for counter in counters)

    # Integer spikes are analog numbers: 8 + 24 MACs and no spike, instead of 8 MACs and 48 ACs.
    assert counts(*integer_network(), MACCounter(), SynOpCounter()) == (32, 0)
    # An image of zeros and ones is taken for spikes, and so is a weight of ones.
    black, ones = nn.Conv2d(1, 1, 2, bias=False), nn.Linear(3, 2, bias=False)
    ones.weight.data.fill_(1)
    assert counts(black, torch.zeros(1, 1, 3, 3), MACCounter(), SynOpCounter()) == (0, 0)
    assert counts(ones, torch.tensor([[0.5, 2.0, 3.0]]), MACCounter(), SynOpCounter()) == (0, 6)
    assert count_operations(black, torch.zeros(1, 1, 3, 3)).total.macs == 4 * 4
    # States are accesses of the operators in which a neuron is written: 412 bytes, where 4 x 3 numbers are read once.
    state = NeuronStateCounter()
    model, x = spike_network()
    counts(model[0], x, state)
    assert state.get_projection_counts()["Global"]["read_potential"] == 412 > 4 * 12
    # The potential of integer neurons is not seen at all.
    state = NeuronStateCounter()
    counts(*integer_network(), state)
    assert state.get_projection_counts() == {}
    # In Lemaire's model, memories grow with the batch, so that an image costs more among others.
    conv, image = nn.Conv2d(1, 8, 3, padding=1, bias=False), torch.randn(1, 1, 16, 16)
    batch = image.expand(4, 1, 16, 16)
    alone, among = (estimate_lemaire_energy(conv, images).total_pj for images in (image, batch))
    assert among / 4 > 1.05 * alone
    ours = [estimate_energy(count_operations(conv, images))["total"].spiking for images in (image, batch)]
    assert ours[1] / 4 == pytest.approx(ours[0])
    # A spike reaches ceil(3 / 2)^2 = 4 outputs of a 3x3 convolution with stride 2, and as many potentials as with stride
    # 1; in truth the 25 spikes reach 2.25 of each channel in the middle, and fewer at the border.
    model = nn.Sequential(neuron.IFNode(), nn.Conv2d(1, 1, 3, 2, bias=False)).eval()
    found = estimate_lemaire_energy(model, torch.ones(1, 1, 5, 5))
    assert found.counts["synop"] == 25 * 4 and found.counts["read_potential_bytes"] == 4 * (25 * 9 + 25)
    assert count_operations(model, torch.ones(1, 1, 5, 5)).total.acs == 4 * 9
    # Attention is no module of its types, so that neither products nor their memory are seen; a warning says so.
    product = nn.Sequential(neuron.IFNode(), Product()).eval()
    with pytest.warns(RuntimeWarning, match="do not support Product"):
        found = estimate_lemaire_energy(product, torch.ones(1, 1, 3, 3), config=LemaireEnergyConfig(strict=False))
    assert found.counts["synop"] == 0
    # Two others refuse what the networks of this package are made of.
    depthwise = nn.Sequential(neuron.IFNode(), nn.Conv2d(2, 2, 3, groups=2, bias=False), neuron.IFNode()).eval()
    with pytest.raises(NotImplementedError, match="does not support grouped/depthwise"):
        estimate_spikesim_energy(depthwise, torch.ones(1, 2, 5, 5))
    with pytest.raises(ValueError, match=r"does not support these aten ops: .*round"):
        estimate_neuromc_runtime_energy(*integer_network())


class Product(nn.Module):
    """The product of a (B, 1, N, N) tensor with itself."""

    def forward(self, x):
        return x @ x


def test_a_product_of_activations_by_hand():
    """All 9 spikes of a 3x3 matrix are multiplied with three numbers each: 27 ACs, and the other operand is the weight."""
    model = nn.Sequential(neuron.IFNode(), Product())
    operations = count_operations(model, torch.ones(1, 1, 3, 3))
    found = operations.layers["1 (product)"]
    assert (found.acs, found.dense, found.spikes, found.inputs, found.outputs) == (27, 27, 9, 9, 9)
    assert (found.weights, found.product, found.kernel, found.levels) == (9, True, 0, 1)
    assert estimate_energy(operations, "memory")["1 (product)"].spiking == pytest.approx(27 * (AC + WORD))
    full = estimate_energy(operations)["1 (product)"]
    assert full.spiking == pytest.approx(54 * ADD + 9 * sram(1000) + 27 * sram(9) + 54 * sram(9))
    dense = 27 * (MUL / 32 + ADD) + 18 * ADD + 9 / 32 * sram(9 / 32) + 27 * sram(9)
    assert full.quantised == pytest.approx(dense)


def test_energy_does_not_depend_on_how_inputs_are_batched():
    """The memory of a product's second operand is that of one image, whether the images come one by one or together."""
    x = torch.ones(4, 1, 3, 3)
    whole, single = (count_operations(nn.Sequential(neuron.IFNode(), Product()), *b) for b in ([x], x.split(1)))
    assert whole.layers["1 (product)"].weights == single.layers["1 (product)"].weights == 9
    for model in ("compute", "memory", "full"):
        assert estimate_energy(whole, model)["total"] == estimate_energy(single, model)["total"]


@pytest.mark.parametrize("levels, steps, expected", [(1, 1, 1), (1, 4, 3), (4, 1, 3), (3, 1, 2), (8, 1, 4), (4, 4, 5)])
def test_bits(levels, steps, expected):
    assert bits(levels, steps) == expected == math.ceil(math.log2(levels * steps + 1))


@pytest.mark.parametrize(("levels", "steps", "error"), [(0, 1, ValueError), (4, 0, ValueError), (2.5, 1, TypeError)])
def test_bits_of_no_levels_or_steps(levels, steps, error):
    with pytest.raises(error, match="it must be an int >= 1"):
        bits(levels, steps)


@pytest.mark.parametrize("model", ["compute", "memory", "full"])
def test_break_even(model):
    """A network whose two layers of neurons fire at that rate takes as much as the quantised one, whatever the rate was."""
    network = nn.Sequential(IntegerSpike(4), nn.Conv2d(400, 400, 1, bias=False))
    images = torch.zeros(1, 400, 10, 10)
    images[:, ::5] = 2
    operations = count_operations(network, images)
    rate = estimate_energy(operations, model)["1"].break_even
    hand = {"compute": (3.7 * 3 / 32 + AC) / (4 * AC)}
    hand["memory"] = (3.7 * 3 / 32 + AC + WORD - 8 * WORD / 400) / (4 * (AC + WORD))
    assert model == "full" or rate == pytest.approx(hand[model])
    assert 0 < rate < 0.35
    one, conv = operations.neurons["0"], operations.layers["1"]
    one.spikes, conv.acs, conv.spikes = (rate * 4 * n for n in (one.outputs, conv.dense, conv.inputs))
    energies = estimate_energy(operations, model)  # as many neurons behind the layer as in front of it
    assert energies["total"].spiking == pytest.approx(energies["total"].quantised)
    assert energies["total"].break_even == pytest.approx(rate)
    conv.acs = one.spikes = conv.spikes = 0
    silent = estimate_energy(operations, model)
    assert silent["1"].break_even == pytest.approx(rate) and silent["total"].break_even is None


def test_an_image_that_is_held_runs_once_in_the_quantised_network():
    """The first convolution runs for each of T = 4 steps if its input is repeated; its equivalent runs once."""

    class Held(nn.Module):
        def __init__(self, repeat):
            super().__init__()
            self.repeat, self.conv, self.spike = repeat, nn.Conv2d(1, 2, 1, bias=False), lif_node()

        def forward(self, x):
            if self.repeat:
                return self.spike(self.conv(x.repeat(4, 1, 1, 1)).unflatten(0, (4, -1)))
            return self.spike(self.conv(x).repeat(4, 1, 1, 1, 1))

    for repeat in (True, False):
        operations = count_operations(Held(repeat), torch.randn(3, 1, 5, 5))
        first = operations.layers["conv"]
        assert (first.steps, first.macs) == ((4, 600) if repeat else (1, 150))
        assert estimate_energy(operations, "compute")["conv"].quantised == pytest.approx(150 * MAC)


def test_a_sum_of_spikes_has_as_many_levels_as_its_largest_value():
    """As behind the residual connections of Spikformer: two spikes in one value are two ACs, on 2 bits."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.node, self.conv = neuron.IFNode(), nn.Conv2d(1, 3, 1, bias=False)

        def forward(self, x):
            y = self.node(x)
            return self.conv(y + y)

    operations = count_operations(Residual(), torch.ones(1, 1, 2, 2))
    found = operations.layers["conv"]
    assert (found.levels, found.spikes, found.acs, found.dense) == (2, 8, 24, 12)
    assert estimate_energy(operations, "compute")["conv"].quantised == pytest.approx(12 * (3.7 * 2 / 32 + AC))


def test_nodes_that_are_called_for_each_step():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.node, self.conv = neuron.IFNode(), nn.Conv2d(2, 1, 1, bias=False)

        def forward(self, x):
            return sum(self.conv(self.node(x)) for _ in range(4))

    operations = count_operations(Loop(), torch.ones(1, 2, 1, 1), torch.ones(3, 2, 1, 1))
    assert (operations.neurons["node"].steps, operations.neurons["node"].outputs) == (4, 4 * 4 * 2)
    assert (operations.layers["conv"].steps, operations.layers["conv"].acs) == (4, 32)


def test_layers_of_a_detector_have_their_names():
    """Only ``extract_feat`` of such a model runs, so that the model itself is never called."""

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.unused = integer_network()[0], nn.Linear(2, 2)

        def extract_feat(self, x):
            return self.backbone(x)

    operations = count_operations(Detector(), integer_network()[1])
    assert list(operations.layers) == ["backbone.0", "backbone.2"] and operations.total.acs == 48


def test_unknown_model():
    with pytest.raises(ValueError, match="`model` is 'gpu'; allowed: 'compute', 'memory', 'full'"):
        estimate_energy(count_operations(*integer_network()), "gpu")


def test_transposed_convolutions_in_groups_are_exact():
    """All output channels of a group are alike, of which the count makes use."""
    torch.manual_seed(0)
    for options in (dict(stride=2), dict(groups=2, stride=2, output_padding=1), dict(groups=2, padding=1)):
        conv = nn.ConvTranspose2d(4, 6, 3, bias=False, **options)
        model, x = nn.Sequential(IntegerSpike(4, norm=1), conv), torch.randn(2, 4, 5, 7) * 3
        ones = torch.ones_like(conv.weight)
        expected = nn.functional.conv_transpose2d(
            model[0](x), ones, None, conv.stride, conv.padding, conv.output_padding, conv.groups, conv.dilation
        )
        assert count_operations(model, x).layers["1"].acs == int(expected.sum())
        assert count_operations(model, x).layers["1"].kernel == 6 * 9


@pytest.mark.slow
def test_the_benchmark(forked, tmp_path):
    """All of it on two models of 32x32 pixels; what a file has is not measured again."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "energy.py"
    out = tmp_path / "energy.json"
    result = forked(script, "--tiny", "--out", out)
    assert result.returncode == 0, result.stderr
    values = json.loads(out.read_text())
    for name, levels, steps in (("sdtv3_nano", 4, 1), ("qkformer_10_384", 1, 4)):
        record = values["models"][name]
        assert (record["levels"], record["steps"], record["not_counted"]) == (levels, steps, {})
        for model in ("compute", "memory", "full"):
            assert record[model]["quantised_mj"] > 0 and record[model]["spiking_mj"] > 0
            evens = record[model]["layers_break_even"]
            assert 0 <= evens["lowest"] <= evens["median"] <= evens["highest"] <= 1
        assert record["compute"]["spiking_mj"] < record["memory"]["spiking_mj"]
    assert values["weights"].startswith("untrained")
    again = forked(script, "--tiny", "--out", out, "--table")
    assert again.returncode == 0 and "| `qkformer_10_384` | 4 | 1 |" in again.stdout
