"""Spikes and operations counted by hand, and against SpikingJelly's own counters."""

import contextlib
import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from spikingjelly.activation_based import neuron
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from sterf_plugins.activity import FiringMaps, FiringRates, count_operations
from sterf_plugins.backbones import SDTV3
from sterf_plugins.layers import IntegerSpike, if_node
from sterf_plugins.layers.lif_layers import SelfAttention
from sterf_plugins.stems import CovariantRFConv2d, RFBank

ROOT = Path(__file__).resolve().parents[2]


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


def test_the_model_is_left_as_it_was():
    model = two_layers().train()
    with FiringRates(model):
        count_operations(model, torch.rand(1, 1, 4, 4))
    assert model.training and not any(m._forward_hooks for m in model.modules())


def test_bad_input():
    with pytest.raises(ValueError, match="has no spiking neuron layer"):
        FiringRates(nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match="`inputs` is empty"):
        count_operations(two_layers())
    for shape in ((2, 7, 5), (0, 1, 2, 2), (5,)):
        with pytest.raises(ValueError, match=r"`inputs` has shape .*; it must be \(N, C, H, W\)"):
            count_operations(two_layers(), torch.rand(shape))
    with pytest.raises(TypeError, match="`inputs` has a list; each batch must be a tensor"):
        count_operations(two_layers(), [torch.rand(1, 1, 2, 2)])
    model, nan = two_layers(), torch.full((1, 1, 2, 2), float("nan"))
    for context, run in (
        (contextlib.nullcontext(), count_operations),
        (FiringRates(model), None),
        (FiringMaps(model), None),
    ):
        with context, pytest.raises(ValueError, match="the neurons of layer '1' give NaN: the weights have diverged"):
            run(model, nan) if run else model(nan)


class Call(nn.Module):
    """Calls a function of a module and an input of four axes, the first two of which become one."""

    def __init__(self, function, module=None):
        super().__init__()
        self.function, self.module = function, module or nn.Identity()

    def forward(self, x):
        return self.function(self.module, x.flatten(0, 1))


# Two sequences of 5 tokens with 8 channels: by operation, the module, how it is called, and MACs counted by hand.
TOKENS = 2 * 5
ATTENTION = TOKENS * 8 * (3 * 8) + TOKENS * 8 * 8, 2 * 2 * (5 * 5 * 4) * 2  # q, k, v and the output; 2 heads of 4
MLP = 2 * TOKENS * 8 * 16
FLASH = lambda q: F.scaled_dot_product_attention(q, q, q)  # noqa: E731


def forced_flash(module, x):
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return FLASH(x[:, None])


BY_HAND = {
    "linear": (nn.Linear(8, 3), lambda m, x: m(x), TOKENS * 8 * 3),
    "scaled_dot_product_attention": (None, lambda m, x: FLASH(x[:, None]), 2 * (5 * 5 * 8) * 2),
    "flash attention chosen by the model": (None, forced_flash, 2 * (5 * 5 * 8) * 2),
    "MultiheadAttention": (nn.MultiheadAttention(8, 2, batch_first=True), lambda m, x: m(x, x, x), sum(ATTENTION)),
    "its products alone": (
        nn.MultiheadAttention(8, 2, batch_first=True),
        lambda m, x: m(x, x, x, need_weights=False),
        sum(ATTENTION),
    ),
    "TransformerEncoderLayer": (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        lambda m, x: m(x),
        sum(ATTENTION) + MLP,
    ),
    "TransformerEncoder": (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
        lambda m, x: m(x, src_key_padding_mask=torch.zeros(2, 5, dtype=torch.bool)),
        2 * (sum(ATTENTION) + MLP),
    ),
    "LSTM": (nn.LSTM(8, 6, batch_first=True), lambda m, x: m(x), TOKENS * 4 * 6 * (8 + 6)),
    "LSTM, two layers both ways": (
        nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True),
        lambda m, x: m(x),
        TOKENS * 2 * 4 * 6 * ((8 + 6) + (12 + 6)),
    ),
    "LSTM with projections": (
        nn.LSTM(8, 6, proj_size=3, batch_first=True),
        lambda m, x: m(x),
        TOKENS * (4 * 6 * (8 + 3) + 6 * 3),
    ),
    "GRU": (nn.GRU(8, 6, batch_first=True), lambda m, x: m(x), TOKENS * 3 * 6 * (8 + 6)),
    "RNN": (nn.RNN(8, 6, batch_first=True), lambda m, x: m(x), TOKENS * 6 * (8 + 6)),
    "GRUCell": (nn.GRUCell(8, 6), lambda m, x: m(x[:, 0]), 2 * 3 * 6 * (8 + 6)),
    "bmm": (None, lambda m, x: x @ x.mT, 2 * 5 * 5 * 8),
    "baddbmm": (None, lambda m, x: torch.baddbmm(x[:, :, :5], x, x.mT), 2 * 5 * 5 * 8),
    "addbmm": (None, lambda m, x: torch.addbmm(x[0, :, :5], x, x.mT), 2 * 5 * 5 * 8),
    "einsum": (None, lambda m, x: torch.einsum("bij,bkj->bik", x, x), 2 * 5 * 5 * 8),
    "mv": (None, lambda m, x: x[0] @ x[0, 0], 5 * 8),
    "addmv": (None, lambda m, x: torch.addmv(x[0, :, 0], x[0], x[0, 0]), 5 * 8),
    "dot": (None, lambda m, x: x[0, 0] @ x[0, 1], 8),
    "conv1d": (nn.Conv1d(5, 3, 3), lambda m, x: m(x), 2 * 3 * 6 * 5 * 3),
    "conv_transpose": (nn.ConvTranspose1d(5, 3, 4, 2), lambda m, x: m(x), 2 * 8 * 5 * 3 * 4),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", BY_HAND)
def test_operations_by_hand(name, training):
    """Whatever kernel runs: fused attention, fast paths in eval mode, and whole recurrent layers."""
    module, function, expected = BY_HAND[name]
    torch.manual_seed(0)
    operations = count_operations(Call(function, module).train(training), torch.randn(2, 1, 5, 8))
    assert (operations.total.dense, operations.total.macs, operations.total.acs) == (expected, expected, 0)
    assert operations.not_counted == {}


@pytest.mark.parametrize("name", BY_HAND)
def test_operations_in_inference_mode(name):
    """Layers reach a counter whole then, and tensors may have been made in that mode."""
    module, function, expected = BY_HAND[name]
    with torch.inference_mode():
        assert count_operations(Call(function, module), torch.randn(2, 1, 5, 8)).total.dense == expected
    inside = Call(torch.inference_mode()(function), module)
    assert count_operations(inside, torch.randn(2, 1, 5, 8)).total.dense == expected


def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        model, x = two_layers(), torch.tensor([[0.0, 1.0], [2.0, 3.0]]).view(1, 1, 2, 2)
        total = count_operations(model, x).total
    assert (total.macs, total.acs, total.dense) == (8, 48, 32)


def test_spikes_drive_what_fused_layers_multiply():
    """3 spikes enter an LSTM with 4 * 6 gates; the products of its state are analog from the second step on."""
    spikes = torch.zeros(1, 1, 5, 8)
    spikes[0, 0, 0, 0], spikes[0, 0, 1, 3] = 1, 2
    model = nn.Sequential(IntegerSpike(4, norm=1), Call(lambda m, x: m(x), nn.LSTM(8, 6, batch_first=True)))
    total = count_operations(model, spikes).total
    assert (total.acs, total.macs) == (3 * 4 * 6, 4 * 6 * 4 * 6)
    # Both heads' attention weights are analog, and each spike of v meets all 5 of them.
    model = nn.Sequential(IntegerSpike(4, norm=1), Call(lambda m, x: FLASH(x[:, None])))
    assert count_operations(model, spikes).total.acs == 3 * 5


def test_a_vision_transformer_with_fused_attention_and_without():
    totals = []
    for fused in (True, False):
        model = timm.create_model("vit_tiny_patch16_224")
        for block in model.blocks:
            block.attn.fused_attn = fused
        operations = count_operations(model, torch.randn(1, 3, 224, 224))
        assert operations.not_counted == {}
        totals.append(operations.total.dense)
        products = [o.dense for name, o in operations.layers.items() if name.endswith("(product)")]
        assert products == [2 * 197 * 197 * 192] * 12  # q k^T and its product with v, in each block
    assert totals == [1_253_683_200, 1_253_683_200]


def test_operators_without_a_rule_are_listed():
    bilinear = Call(lambda m, x: F.relu(m(x, x)).mean(1), nn.Bilinear(8, 8, 3))
    operations = count_operations(nn.Sequential(bilinear, nn.Linear(3, 4)), torch.randn(2, 1, 5, 8))
    assert operations.total.dense == 2 * 3 * 4 and operations.not_counted == {"aten::_trilinear": 1}
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.GELU(), nn.Hardswish(), nn.PReLU(), nn.MaxPool2d(2),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReflectionPad2d(1), nn.Softmax(1), nn.Dropout(),
        nn.AdaptiveAvgPool2d(2), nn.PixelShuffle(2), nn.Flatten(),
    )  # fmt: skip
    assert count_operations(layers, torch.randn(1, 3, 16, 16)).not_counted == {}


def test_settings_are_restored():
    fast, attention = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()
    libraries = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    for function in (lambda m, x: m(x), lambda m, x: 1 / 0):
        with contextlib.suppress(ZeroDivisionError):
            count_operations(Call(function, nn.LSTM(8, 6)), torch.randn(2, 1, 5, 8))
        assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()) == (fast, attention)
        assert (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled) == libraries


TOOL = ROOT / "tools" / "analysis_tools" / "get_sops.py"


@pytest.mark.slow
def test_the_tool(forked, tmp_path):
    options = ["sdtv3_nano_srb", "--input-size", "64", "64", "--num", "2"]
    result = forked(TOOL, *options, "--csv", tmp_path / "sops.csv", "--maps", tmp_path / "maps.png", fresh=True)
    assert result.returncode == 0, result.stderr
    assert "stages.3.blocks.0.attn (product)" in result.stdout and "4.6 pJ" in result.stdout
    assert "full µJ" in result.stdout and max(map(len, result.stdout.partition("\n\nper input")[0].split("\n"))) <= 125
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
    table = list(csv.DictReader((tmp_path / "sops.csv").open()))
    assert table[0]["layer"] == "stages.0.downsample.conv" and table[0]["compute_break_even"] == ""
    assert float(table[1]["compute_break_even"]) == pytest.approx((3.7 * 3 / 32 + 0.9) / 3.6)  # 3 bits for D = 4
    assert table[-1]["layer"] == "total"
    for column in ("macs", "acs", "compute_uj", "memory_uj", "memory_quantised_uj", "full_uj", "full_quantised_uj"):
        parts = [float(row[column]) for row in table[:-1] if row[column]]
        assert sum(parts) == pytest.approx(float(table[-1][column]))
    compute = forked(TOOL, *options, "--model", "compute").stdout
    assert "compute µJ" in compute and "full µJ" not in compute and "locally" in compute
    record = json.loads(forked(TOOL, *options, "--json").stdout)
    assert record["total"]["full_quantised_uj"] == pytest.approx(float(table[-1]["full_quantised_uj"]))
    assert record["total"]["energy_mj"] > 0 and record["total"]["inputs"] == 2
    assert len(record["neurons"]["stages.0.blocks.0.mixer.spike1"]["histogram"]) == 5
    assert record["weights"] == "random weights, BatchNorm statistics of 8 inputs" and record["not_counted"] == {}
    failed = forked(TOOL, *options, "--time-steps", 0)
    assert failed.returncode == 2 and "--time-steps is 0; it must be at least 1" in failed.stderr
    failed = forked(TOOL, "resnet18", "--input-size", "32", "32")
    assert failed.returncode == 2 and "no spiking neuron layer" in failed.stderr


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_tool_with_one_input_of_any_number_of_channels(forked, channels):
    """Untrained BatchNorms get statistics all the same; with the initial ones 99.8 % of the channels were dead."""
    options = ["--input-size", "32", "32", "--num", "1", "--json"]
    result = forked(TOOL, f"sdtv3_nano_srb(in_chans={channels}, norm_hidden=True)", *options)
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["total"]["inputs"] == 1 and record["total"]["dead"] < 0.6
    # The image is 32x32 and the stem a 7x7 convolution to 12 channels with stride 2.
    stem = next(row for row in record["layers"] if row["layer"] == "stages.0.downsample.conv")
    assert stem["macs"] == 16 * 16 * 12 * 49 * channels


@pytest.mark.slow
def test_the_tool_lists_what_it_could_not_count(forked, tmp_path):
    (tmp_path / "unknown_product.py").write_text(
        "from torch import nn\n"
        "from sterf_plugins.layers import IntegerSpike\n"
        "class Model(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.spike, self.product = nn.Conv2d(3, 4, 1), IntegerSpike(), nn.Bilinear(8, 8, 2)\n"
        "    def forward(self, x):\n"
        "        y = self.spike(self.conv(x))\n"
        "        return self.product(y, y)\n"
    )
    result = forked(TOOL, "unknown_product:Model", "--input-size", "8", "8", environment=dict(PYTHONPATH=tmp_path))
    assert result.returncode == 0, result.stderr
    assert "NOT COUNTED, so that the numbers are too small: aten::_trilinear (1 calls)" in result.stdout
    assert "weights: no checkpoint: random weights, unless the model loads its own" in result.stdout
    assert "heads" not in result.stdout


def test_the_tool_says_that_heads_are_left_out(forked, tmp_path):
    """As of a detector, whose heads need more than images."""
    (tmp_path / "two_parts.py").write_text(
        "from torch import nn\n"
        "from sterf_plugins.layers import IntegerSpike\n"
        "class Model(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.backbone, self.head = nn.Sequential(nn.Conv2d(3, 4, 1), IntegerSpike()), nn.Conv2d(4, 2, 1)\n"
        "    def extract_feat(self, x):\n"
        "        return self.backbone(x)\n"
    )
    options = ("two_parts:Model", "--input-size", "8", "8")
    result = forked(TOOL, *options, environment=dict(PYTHONPATH=tmp_path))
    assert result.returncode == 0, result.stderr
    assert "backbone and neck alone: the heads did not run, and are in no number" in result.stdout
    assert (
        json.loads(forked(TOOL, *options, "--json", environment=dict(PYTHONPATH=tmp_path)).stdout)["left_out"]
        == "heads"
    )


@pytest.mark.slow
def test_the_hook(shapes, tmp_path):
    import sterf_plugins

    sterf_plugins.setup()
    from mmengine.runner import Runner

    from sterf_plugins.openmmlab.configs.data_checks import datasets
    from sterf_plugins.openmmlab.configs.reading import load_config

    states = []
    for name, hooks in (
        ("without", []),
        ("with", [dict(type="sterf_plugins.FiringRateHook", num_samples=2)]),
        ("watched", [dict(type="sterf_plugins.SilenceHook", after=1)]),
        ("silent", [dict(type="sterf_plugins.SilenceHook", after=1)]),
    ):
        config = load_config(str(ROOT / "configs" / "shapes" / "fpn_sdtv3-t-srb_shapes.py"))
        for _, dataset in datasets(config, "train", "val", "test"):
            dataset.data_root = f"{shapes}/ade"
        config.train_dataloader.batch_size = 2
        config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=2, val_interval=1)
        config.default_hooks.pop("erf")
        config.default_hooks.random_state = dict(type="sterf_plugins.RandomStateHook")
        config.custom_hooks = hooks
        config.model.backbone.norm_hidden = name != "silent"
        config.work_dir = str(tmp_path / name)
        config.experiment_name = config.visualizer.name = f"rate-{name}-{tmp_path.name}"
        runner = Runner.from_cfg(config)
        runner.train()
        states.append({k: v.clone() for k, v in runner.model.state_dict().items()})
    for watched in states[1:3]:
        assert all(torch.equal(states[0][k], watched[k]) for k in states[0])
    text = next((tmp_path / "watched").glob("2*/*.log")).read_text()
    line = r"iteration 1: all 88 spike layers fire, at rates from 0\.\d+ to 0\.\d+; not run: backbone.head_spike$"
    assert re.search(line, text, re.M)
    text = next((tmp_path / "silent").glob("2*/*.log")).read_text()
    for iteration in (1, 2):
        assert f"iteration {iteration}: 4 of 88 spike layers are silent" in text
    assert "backbone.stages.0.blocks.0.mixer.spike2" in text and "norm_hidden=True" in text
    logs = next((tmp_path / "with").glob("2*"))
    record = json.loads((logs / "vis_data" / "firing_rate" / "2.json").read_text())
    line = json.loads((logs / "vis_data" / "scalars.json").read_text().splitlines()[-1])
    assert line["firing_rate"] == pytest.approx(record["firing_rate"]) and 0 < record["firing_rate"] < 1
    assert (
        line["energy_mj"] == pytest.approx(record["energy_mj"])
        and record["energy_mj"] > 0
        and record["num_inputs"] == 2
    )
    assert re.search(r"spikes at 2: .*; not run: backbone.head_spike -> ", next(logs.glob("*.log")).read_text())
    first = record["layers"]["backbone.stages.0.blocks.0.mixer.spike1"]
    assert sum(first["histogram"]) == 2 * 8 * 64**2  # images, channels, and half of the segmentor's crops of 128 pixels


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
