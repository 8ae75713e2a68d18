"""Spikes and operations counted by hand, and against SpikingJelly's own counters."""

import contextlib

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from spikingjelly.activation_based import functional, neuron
from torch import nn

from sterf_plugins.activity import FiringMaps, FiringRates, count_operations
from sterf_plugins.backbones import SDTV3
from sterf_plugins.layers import IntegerSpike, if_node
from sterf_plugins.layers.lif_layers import SelfAttention
from sterf_plugins.stems import CovariantRFConv2d, RFBank


def two_layers():
    """1x1 convolution 1 -> 2 channels with weights 1 and 2, spikes up to 4, 2x2 convolution 2 -> 3 channels."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), IntegerSpike(4), nn.Conv2d(2, 3, 2, bias=False))
    model[0].weight.data = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    return model


def test_a_network_of_two_layers_counted_by_hand():
    """Input [[0, 1], [2, 3]]: spikes [[0, 1], [2, 3]] and [[0, 2], [4, 4]], that is 16 of them.

    First layer: 4 pixels x 2 channels = 8 MACs. Second: one position, every spike used once by each of 3 channels:
    48 ACs, where a dense layer takes 2 * 4 * 3 = 24 MACs.
    """
    image = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).view(1, 1, 2, 2)
    model = two_layers()
    with FiringRates(model) as rates:
        operations = count_operations(model, image)
    first, second = operations.layers["0"], operations.layers["2"]
    assert (first.macs, first.acs, first.dense) == (8, 0, 8)
    assert (second.macs, second.acs, second.dense) == (0, 48, 24)
    assert operations.total.energy == pytest.approx(8 * 4.6 + 48 * 0.9)
    layer = rates.layers["1"]
    assert layer.histogram.tolist() == [2, 1, 2, 1, 2]
    assert layer.rate == pytest.approx(16 / 8 / 4) and layer.nonzero == 6 / 8 and layer.dead == 0
    assert "4.6 pJ" in operations.assumptions() and "integer spike n counts as n ACs" in operations.assumptions()


@pytest.mark.parametrize("levels", [3, 13, 49])
def test_spikes_are_whole_numbers_up_to_rounding(levels):
    """(k / 13) * 13 is no whole number in float32 for one of the numbers k = 0..13."""
    x = torch.arange(levels + 1.0).view(1, -1)
    model = nn.Sequential(IntegerSpike(levels), nn.Linear(levels + 1, 2, bias=False))
    found = count_operations(model, x).layers["1"]
    assert (found.macs, found.acs, found.levels) == (0, 2 * levels * (levels + 1) // 2, levels)


def test_all_spikes_at_once_behind_a_pooling_are_not_one():
    image = torch.tensor([[0.0, 9.0], [0.0, 0.0]]).view(1, 1, 2, 2)
    model = nn.Sequential(IntegerSpike(4), nn.MaxPool2d(2), nn.Conv2d(1, 3, 1))
    assert count_operations(model, image).layers["2"].acs == 4 * 3


def test_the_mean_over_the_steps_of_a_held_image_counts_as_its_spikes():
    """IF neurons of threshold 1 on 0.5, 1 and 0 for four steps fire 2, 4 and 0 times; a linear layer with two outputs follows."""
    model = nn.Sequential(if_node(T=4), nn.Linear(3, 2, bias=False))
    operations = count_operations(model, torch.tensor([[0.5, 1.0, 0.0]]))
    found = operations.layers["1"]
    assert (found.macs, found.acs, found.dense, found.spikes) == (0, 12, 6, 6) and (found.levels, found.steps) == (4, 1)
    neurons = operations.neurons["0.node"]
    assert (neurons.outputs, neurons.spikes, neurons.levels, neurons.steps) == (12, 6, 1, 4)


def test_a_covariant_convolution_counts_as_the_folded_one():
    bank = RFBank(sigmas=(1.0,), ratios=(1.0,), orders=1)
    conv = CovariantRFConv2d(4, 6, bank)
    x = torch.randn(3, 4, 8, 8)
    folded = count_operations(conv.fuse(), x).total
    assert count_operations(conv, x).total == folded and folded.macs == folded.dense > 0


@pytest.mark.slow
def test_what_is_compiled_is_counted():
    model, x = two_layers(), torch.randn(2, 1, 4, 4)
    with FiringRates(model) as expected:
        model(x)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    with FiringRates(compiled) as rates, FiringMaps(compiled) as maps:
        compiled(x)
    assert rates.layers["_orig_mod.1"].rate == expected.layers["1"].rate and list(maps.layers) == ["_orig_mod.1"]


def test_padding_strides_and_groups_are_exact():
    torch.manual_seed(0)
    for options in (dict(padding=1), dict(stride=2, padding=1), dict(groups=2), dict(dilation=2, padding=2)):
        conv = nn.Conv2d(4, 6, 3, bias=False, **options)
        model = nn.Sequential(IntegerSpike(4), conv)
        x = torch.randn(2, 4, 7, 9) * 3
        counts = (model[0](x) * 4).detach()
        expected = nn.functional.conv2d(counts, torch.ones_like(conv.weight), None, conv.stride, conv.padding,
                                        conv.dilation, conv.groups).sum()  # fmt: skip
        assert count_operations(model, x).layers["1"].acs == int(expected)


def test_binary_spikes_agree_with_spikingjelly():
    from spikingjelly.activation_based import layer, neuron
    from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter

    torch.manual_seed(0)
    model = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1, bias=False), neuron.IFNode(), layer.Conv2d(4, 4, 3, padding=1), neuron.LIFNode(),
        nn.Flatten(), nn.Linear(4 * 36, 5),
    )  # fmt: skip
    x = torch.rand(3, 2, 6, 6) * 3
    counter = SynOpCounter()
    with torch.no_grad(), DispatchCounterMode([counter]):
        model(x)
    for node in (model[1], model[3]):
        node.reset()
    assert count_operations(model, x).total.acs == counter.get_total() > 0


def test_attention_products_have_names_of_their_own():
    torch.manual_seed(0)
    model = SDTV3(dict(embed_dims=[8, 16, 24, 32], num_heads=4), "srb")
    x = torch.randn(2, 3, 32, 32)
    operations = count_operations(model, x)
    products = {k: v for k, v in operations.layers.items() if k.endswith("(product)")}
    assert len(products) == 8 and all(".attn" in k for k in products)
    # k^T v and q (k^T v): 4 heads, 4 tokens, 6 x 24 (8 x 32 in stage 4) channels, twice, two images.
    assert products["stages.3.blocks.0.attn (product)"].dense == 2 * 2 * 4 * 4 * 6 * 24
    assert operations.layers["stages.0.downsample.conv"].acs == 0  # the image is analog
    others = [v for k, v in operations.layers.items() if k != "stages.0.downsample.conv"]
    assert sum(v.macs for v in others) == 0  # everything else is driven by spikes
    assert operations.total.dense == sum(v.dense for v in operations.layers.values())


def test_spikes_drive_both_products_of_an_attention():
    """All q, k and v of 9 tokens and 2 channels fire: k^T v is 9 everywhere, and no spikes, though a whole number."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.node, self.attend = if_node(), SelfAttention(1)

        def forward(self, x):
            return self.attend(*[self.node(x)] * 3)

    found = count_operations(Attention(), torch.ones(1, 1, 2, 3, 3)).layers["attend (product)"]
    assert (found.acs, found.dense, found.spikes, found.levels) == (2 * 2 * 2 * 9, 2 * 2 * 2 * 9, 2 * 2 * 9, 1)


def test_a_shared_layer_has_one_name():
    conv = nn.Conv2d(2, 2, 1, bias=False)
    for _ in range(4):  # which of two modules a set has first changes from object to object
        parts = [nn.Sequential(IntegerSpike(4), conv) for _ in range(3)]
        operations = count_operations(nn.Sequential(conv, *parts), torch.rand(1, 2, 3, 3))
        assert {name: o.dense for name, o in operations.layers.items()} == {"0": 4 * 36}


def test_weights_may_be_buffers():
    """A product of analog activations with a matrix of ones and zeros that is a buffer: 16 MACs, and no spikes."""

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.spike = IntegerSpike(4)
            self.register_buffer("matrix", torch.eye(4))

        def forward(self, x):
            return (self.spike(x) + 0.3) @ self.matrix

    found = count_operations(Fixed(), torch.rand(1, 4)).layers["Fixed"]
    assert (found.macs, found.acs, found.product) == (16, 0, False)


def test_dead_channels_and_time():
    from spikingjelly.activation_based import neuron

    node = neuron.IFNode(step_mode="m")
    x = torch.zeros(4, 2, 3, 5)
    x[:, :, 1] = 0.5  # fires every second step
    with FiringRates(nn.Sequential(node)) as rates:
        node(x)
    layer = rates.layers["0"]
    assert layer.dead == pytest.approx(2 / 3) and layer.rate == pytest.approx(1 / 6)
    assert rates.rate == pytest.approx(layer.rate) and rates.dead == pytest.approx(layer.dead)
    assert np.array_equal(layer.fired, [False, True, False])


def test_other_levels_in_eval_mode():
    """A layer that sends up to 2 spikes in training and up to 6 in evaluation is counted as what it is at the time."""
    model = nn.Sequential(IntegerSpike(2, norm=1, eval_levels=6), nn.Conv2d(1, 1, 1))
    x = torch.tensor([0.0, 1, 3, 6]).view(1, 1, 2, 2)
    watch = FiringRates(model)
    for training, levels, spikes in ((True, 2, 5), (False, 6, 10)):
        model.train(training)
        watch.layers.clear()
        with watch, FiringMaps(model) as maps:
            model(x)
        assert watch.layers["0"].levels == levels and watch.layers["0"].rate == spikes / 4 / levels
        assert maps.layers["0"].always.mean() == sum(v >= levels for v in (0, 1, 3, 6)) / 4
    assert count_operations(model.train(), x).neurons["0"].levels == 6


def test_levels_are_those_of_the_mode_at_the_time():
    """``count_operations`` runs in eval mode, in which this layer sends up to 6 spikes, whatever the mode around it."""
    model = nn.Sequential(IntegerSpike(2, norm=1, eval_levels=6)).train()
    x = torch.tensor([0.0, 1, 3, 5]).view(1, 1, 2, 2)
    with FiringRates(model) as rates, FiringMaps(model) as maps:
        count_operations(model, x)
    assert rates.layers["0"].histogram.tolist() == [1, 1, 0, 1, 0, 1, 0] and not maps.layers["0"].always.any()
    with rates, pytest.raises(ValueError, match="up to 6 spikes in one forward pass and up to 2 in another"):
        model(x)


def test_a_compiled_neuron_is_one_layer():
    model = nn.Sequential(torch.compile(IntegerSpike(4), backend="eager"), nn.Conv2d(1, 1, 1))
    with FiringRates(model) as rates, FiringMaps(model) as maps:
        model(torch.rand(1, 1, 2, 2))
    assert list(rates.layers) == list(maps.layers) == ["0._orig_mod"]


@pytest.mark.parametrize("widths", [(2, 5, 2), (5, 2, 5), (5, 5, 2)])
def test_dead_channels_of_a_neuron_of_several_widths(widths):
    """Channels 0 to 3 of the wider maps fire in one pass or another, the last one never."""
    spike = IntegerSpike(1)
    with FiringRates(spike) as rates:
        for i, channels in enumerate(widths):
            x = torch.zeros(1, channels, 3, 3)
            x[:, : 4 if i == widths.index(5) else 0] = 1
            spike(x)
    assert rates.dead == rates.layers[""].dead == pytest.approx(1 / 5)


def test_what_has_not_run_has_no_rate():
    model = nn.Sequential(IntegerSpike(1))
    for batches in ([], [torch.zeros(0, 2, 3, 3)]):
        with FiringRates(model) as rates, FiringMaps(model) as maps:
            for batch in batches:
                model(batch)
        assert rates.layers == maps.layers == {}
        for number in ("rate", "dead"):
            with pytest.raises(ValueError, match=r"none of the 1 spike layers of Sequential has run"):
                getattr(rates, number)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_spikes_are_counted_one_by_one(dtype):
    """3 / 13 is 0.2305 in bfloat16, so that the sum of many is no whole number of thirteenths."""
    operations = count_operations(nn.Sequential(IntegerSpike(13)), torch.full((1, 8, 32, 32), 3, dtype=dtype))
    assert operations.neurons["0"].spikes == 3 * 8 * 32 * 32


def test_the_model_is_left_as_it_was():
    model = two_layers().train()
    with FiringRates(model):
        count_operations(model, torch.rand(1, 1, 4, 4))
    assert model.training and not any(m._forward_hooks for m in model.modules())


def test_bad_input():
    for context_of in (FiringRates, FiringMaps):
        with pytest.raises(ValueError, match="has no spiking neuron layer"):
            context_of(nn.Conv2d(1, 1, 1))
    with pytest.raises(TypeError, match="`model` is 'sdtv3_nano'"):
        count_operations("sdtv3_nano", torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="`inputs` is empty"):
        count_operations(two_layers())
    for shape in ((2, 7, 5), (0, 1, 2, 2), (5,)):
        with pytest.raises(ValueError, match=r"`inputs` has shape .*; it must be \(N, C, H, W\)"):
            count_operations(two_layers(), torch.rand(shape))
    with pytest.raises(TypeError, match="`inputs` has a list; each batch must be a tensor"):
        count_operations(two_layers(), [torch.rand(1, 1, 2, 2)])
    nan = torch.full((1, 1, 2, 2), float("nan"))
    threshold = nn.Sequential(nn.Conv2d(1, 1, 1), neuron.LIFNode())  # whose spikes of NaN are zeros
    for model, verb in ((two_layers(), "give"), (threshold, "get")):
        for context, run in (
            (contextlib.nullcontext(), count_operations),
            (FiringRates(model), None),
            (FiringMaps(model), None),
        ):
            with (
                context,
                pytest.raises(ValueError, match=f"the neurons of layer '1' {verb} NaN: the weights have diver"),
            ):
                run(model, nan) if run else model(nan)
            functional.reset_net(model)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_backward_pass_computes_again_counts_once(reentrant):
    """The rate of a model was another one, since what stands outside of the recomputed part counted half as much."""
    spikes, x = nn.Sequential(IntegerSpike(4), nn.Identity()), (9 * torch.rand(1, 2, 4, 4)).requires_grad_()
    with FiringRates(spikes) as rates, FiringMaps(spikes) as maps:
        torch.utils.checkpoint.checkpoint(spikes, x, use_reentrant=reentrant).sum().backward()
    assert x.grad.any() and rates.layers["0"].histogram.sum() == 32 and maps.layers["0"].windows == 8


def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        model, x = two_layers(), torch.tensor([[0.0, 1.0], [2.0, 3.0]]).view(1, 1, 2, 2)
        total = count_operations(model, x).total
    assert (total.macs, total.acs, total.dense) == (8, 48, 32)
