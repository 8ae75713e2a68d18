"""Fields that lead through spike layers that are silent or saturated are marked; statistics that nobody set are set."""

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn

from sterf_plugins.backbones import SDTV3
from sterf_plugins.erf import ERFResult, calibrate, check_field, compute_erf
from sterf_plugins.erf.passes.branch_scales import closed_scales
from sterf_plugins.firing import FiringRates
from sterf_plugins.layers import IntegerSpike

NANO = dict(embed_dims=(8, 16, 24, 32), num_heads=8)
IMAGES = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LAYERS = ["stages.0", "stages.2"]


def network(**options) -> SDTV3:
    torch.manual_seed(0)
    return SDTV3(NANO, "srb", **options)


def test_fresh_networks_get_statistics_for_the_computation_alone():
    model = network()
    before = copy.deepcopy(model.state_dict())
    auto, never = (compute_erf(model, IMAGES, LAYERS, calibrate=choice) for choice in ("auto", False))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    norms = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert auto.info["calibrate"] == "auto" and auto.info["calibrated"] == dict(norms=norms, inputs=8)
    assert never.info["calibrate"] is False and never.info["calibrated"] is None
    set_by_hand = compute_erf(calibrate(model, IMAGES), IMAGES, LAYERS)
    assert set_by_hand.info["calibrated"] is None  # nothing is initial any more
    for layer in LAYERS:
        np.testing.assert_array_equal(auto.spatial[layer], set_by_hand.spatial[layer])
        assert never.warnings and not auto.warnings
    assert auto.notes == ["BatchNorm statistics calibrated on 8 inputs"]


def test_only_norms_with_initial_statistics_are_calibrated_unless_all_are_asked_for():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    model[1].running_mean.fill_(0.5)
    auto, everything = (compute_erf(model, IMAGES, "4", calibrate=choice) for choice in ("auto", True))
    assert (auto.info["calibrated"]["norms"], everything.info["calibrated"]["norms"]) == (1, 2)
    assert torch.equal(model[1].running_mean, torch.full((4,), 0.5)) and not model[4].running_mean.any()
    with pytest.raises(ValueError, match="`calibrate` is 'yes'; allowed: 'auto', True, False"):
        compute_erf(model, IMAGES, "4", calibrate="yes")


@pytest.mark.slow
def test_one_input_and_a_stream_of_inputs_are_enough_for_statistics():
    model = network()
    assert compute_erf(model, IMAGES[:1], LAYERS).info["calibrated"]["inputs"] == 1
    whole = compute_erf(model, IMAGES, LAYERS, batch_size=2)
    stream = compute_erf(model, iter(IMAGES.split(3)), LAYERS, batch_size=2)
    assert stream.info["calibrated"] == whole.info["calibrated"]
    np.testing.assert_allclose(stream.spatial["stages.2"], whole.spatial["stages.2"], rtol=1e-4, atol=1e-9)


class TwoOutputs(nn.Module):
    """As a backbone: an early map, and a late one behind a spike layer that is silent."""

    def __init__(self):
        super().__init__()
        self.conv, self.live = nn.Conv2d(3, 4, 3, padding=1), IntegerSpike(4)
        self.zero, self.silent = nn.Conv2d(4, 4, 3, padding=1), IntegerSpike(4)
        nn.init.constant_(self.zero.bias, -9.0)

    def forward(self, x):
        early = self.live(self.conv(x))
        return early, early + self.silent(self.zero(early))


def test_of_several_outputs_each_has_the_spike_layers_that_lead_to_it():
    torch.manual_seed(0)
    body = TwoOutputs()
    result = compute_erf(nn.Sequential(body, nn.Identity()), IMAGES, "0", forward=lambda model, x: body(x))
    assert result.info["spikes_before"] == {"0[0]": ["0.live"], "0[1]": ["0.live", "0.silent"]}
    assert [line.split(":")[0] for line in result.warnings] == ["0[1]"]
    assert result.numbers("0[0]")["silent_units"].value == 0 and result.numbers("0[1]")["silent_units"].value == 0.5


@pytest.mark.slow
def test_silent_layers_on_the_way_are_marked(tmp_path):
    live, released = (compute_erf(network(norm_hidden=norm), IMAGES, LAYERS) for norm in (True, False))
    assert live.warnings == [] and not live.doubtful("stages.0")
    assert [line.split(":")[0] for line in released.warnings] == LAYERS
    assert "1 silent (stages.0.blocks.0.mixer.spike2)" in released.warnings[0]
    assert released.notes[-1].startswith("† leads through silent") and released.notes[-1].endswith(
        f"in {', '.join(LAYERS)}"
    )
    spikes = released.info["spike_layers"]["stages.0.blocks.0.mixer.spike2"]
    assert spikes == dict(channels=16, rate=0.0, dead=1.0, silent=True, saturated=False)
    before = released.info["spikes_before"]
    assert set(before["stages.0"]) < set(before["stages.2"]) and all(
        n.startswith("stages.0") for n in before["stages.0"]
    )
    channels = {name: fact["channels"] for name, fact in released.info["spike_layers"].items()}
    share = released.numbers("stages.0")["silent_units"].value
    dead = sum(channels[n] * released.info["spike_layers"][n]["dead"] for n in before["stages.0"])
    assert share == pytest.approx(dead / sum(channels[n] for n in before["stages.0"])) and share > 0.2
    assert live.numbers("stages.0")["silent_units"].value < 0.1
    loaded = ERFResult.load(released.save(tmp_path / "erf.npz"))
    assert loaded.warnings == released.warnings and loaded.notes == released.notes


def test_saturated_layers_on_the_way_are_marked():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), IntegerSpike(4), nn.Conv2d(4, 4, 3, padding=1))
    with torch.no_grad():  # all inputs of the spikes are near 3.8, so that all outputs are 4, and all gradients 1
        model[0].weight.mul_(0.02)
        model[0].bias.fill_(3.8)
    result = compute_erf(model, IMAGES, "2", position="all")
    assert "1 saturated (1)" in result.warnings[0]


@pytest.mark.slow
def test_shares_of_several_processes_and_of_resumed_runs_add_up(tmp_path):
    model = calibrate(network(), IMAGES)
    whole = compute_erf(model, IMAGES, LAYERS, batch_size=2)
    parts = []

    def first_half(own):
        parts.append(own)
        return [own]

    compute_erf(model, IMAGES[:4], LAYERS, batch_size=2, gather=first_half)
    both = compute_erf(model, IMAGES[4:], LAYERS, batch_size=2, gather=lambda own: [parts[0], own])
    assert both.info["spikes_before"] == whole.info["spikes_before"]
    assert both.info["spike_layers"] == whole.info["spike_layers"]

    def interrupted(done, total):
        if done == 4:
            raise KeyboardInterrupt

    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        compute_erf(model, IMAGES, LAYERS, batch_size=2, state=state, progress=interrupted)
    resumed = compute_erf(model, IMAGES, LAYERS, batch_size=2, state=state)
    assert resumed.info["spike_layers"] == whole.info["spike_layers"]


def test_only_passes_for_fields_are_counted():
    """Others look for constant sums (the norm's here), for the order of tokens, and whether inputs are kept separate."""
    torch.manual_seed(0)
    spikes, norm = IntegerSpike(), nn.GroupNorm(1, 8)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), spikes, nn.Conv2d(8, 8, 3), nn.AvgPool2d(60), norm).eval()
    with FiringRates(model) as plain:
        model(IMAGES)
    result = compute_erf(model, IMAGES, "4", batch_size=2)
    assert list(result.info["constant_sums"]) == ["4"]
    assert 0 < plain.rate < 1 and result.info["spike_layers"]["1"]["rate"] == pytest.approx(plain.rate, rel=1e-9)


class Stepped(nn.Module):
    """A neuron of another library between two convolutions, in a loop over time or with the time axis in one call.

    Each channel's input is ``drive``, and a hundredth of what a convolution of the image gives.
    """

    def __init__(self, neuron: nn.Module, drive: float, whole: bool = False):
        super().__init__()
        self.conv, self.neuron, self.after = nn.Conv2d(3, 4, 3, padding=1), neuron, nn.Conv2d(4, 2, 3, padding=1)
        self.drive, self.whole = drive, whole

    def forward(self, x):
        current = [self.drive + 0.01 * self.conv(step) for step in x]
        if self.whole:
            return torch.stack([self.after(spikes) for spikes in self.neuron(torch.stack(current))[0]])
        state, outputs = (), []
        for step in current:
            found = self.neuron(step, *state)
            spikes, *state = found if isinstance(found, tuple) else (found,)
            outputs.append(self.after(spikes))
        return torch.stack(outputs)


NEURONS = {
    "snntorch.Leaky": lambda sn, ns: Stepped(sn.Leaky(0.9, graded_spikes_factor=0.2), 0.0),
    "snntorch.Synaptic": lambda sn, ns: Stepped(sn.Synaptic(0.5, 0.9), 0.0),
    "snntorch.Leaky, hidden": lambda sn, ns: Stepped(sn.Leaky(0.9, init_hidden=True), 0.0),
    "norse.LIFCell": lambda sn, ns: Stepped(ns.LIFCell(), 0.0),
    "norse.LIFRefracCell": lambda sn, ns: Stepped(ns.LIFRefracCell(), 0.0),
    "norse.LIF": lambda sn, ns: Stepped(ns.LIF(), 0.0, whole=True),
}


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.slow
def test_neurons_of_other_libraries_that_never_fire_are_marked(name):
    snntorch = pytest.importorskip("snntorch", reason="snntorch is part of the extra `dev`")
    norse = pytest.importorskip("norse.torch", reason="norse is part of the extra `dev`")
    torch.manual_seed(0)
    model, x = NEURONS[name](snntorch, norse), torch.randn(12, 3, 3, 8, 8)
    silent = compute_erf(model, x, "after", kinds="spatial")
    assert silent.spatial["after"].any()  # by the surrogate gradient alone
    assert [line.split(":")[0] for line in silent.warnings] == ["after"] and "1 silent (neuron)" in silent.warnings[0]
    assert silent.numbers("after")["silent_units"].value == 1 and silent.notes[-1].startswith("†")
    model.drive = 4.0 if name.startswith("norse") else 0.5
    live = compute_erf(model, x, "after", kinds="spatial")
    assert live.warnings == [] and live.numbers("after")["silent_units"].value == 0
    assert 0.02 < live.info["spike_layers"]["neuron"]["rate"] < 0.9
    if not name.startswith("norse"):
        model.drive = 1.5  # above the threshold from the first step on
        assert "1 saturated (neuron)" in compute_erf(model, x, "after", kinds="spatial").warnings[0]
    model.drive = 0.0
    check = check_field(model, x, "after", cells=2)  # the gradient of silent neurons is left out in one more field
    assert check.info["left_out"] == ["neuron"] and not check.map("after", "live").any()


@pytest.mark.parametrize(
    ("name", "options", "count", "first"),
    [
        ("resnet10t", {}, 4, "layer1.0.bn2.weight"),
        ("resnet10t", dict(zero_init_last=False), 0, ""),
        ("test_convnext", {}, 9, "stages.0.blocks.0.gamma"),
        ("convnextv2_atto", {}, 0, ""),  # whose zeros are of GlobalResponseNorm, which passes its input on
        ("vit_tiny_patch16_224", {}, 0, ""),
    ],
)
def test_branches_that_initialisation_closes_are_told_of(name, options, count, first):
    """The field of a block with such a branch is that of its shortcut."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, **options).eval()
    closed = closed_scales(model)
    assert len(closed) == count and closed[:1] == ([first] if count else [])
    if name == "resnet10t":
        result = compute_erf(model, torch.randn(2, 3, 64, 64), "layer2", calibrate=False)
        told = [line for line in result.notes if line.startswith("branches with scales next to zero hardly count: ")]
        assert len(told) == bool(count) and first in "".join(told)
        assert (result.area_ratio("layer2", 0.9) < 0.08) == bool(count)
