"""Fields are never rounding noise, and a layer without a field does not take the others with it."""

from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest
import timm
import torch
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
    model = timm.create_model(name)
    model = bold(model) if trained else model
    x = torch.randn(2, 3, 224, 224) if "vit" in name else torch.randn(2, 3, 64, 64)
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

    def forward(self, x):
        y = self.conv(x)
        y = self.norm(y) if self.kind == "columns" else self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.kind == "tokens":
            return y.flatten(2).transpose(1, 2).contiguous()
        return y.tanh() if self.kind == "inside" else y


@pytest.mark.parametrize("kind", ["map", "tokens", "inside", "columns"])
def test_a_stage_that_ends_with_a_layer_norm_is_projected_as_the_norm_is(kind):
    torch.manual_seed(0)
    model, x = nn.Sequential(Stage(kind)).double(), torch.randn(2, 3, 12, 12).double()
    result = compute_erf(model, x, ["0", "0.norm"])
    assert ("0" in result.info["constant_sums"]) == (kind in ("map", "tokens"))
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


class Several(nn.Module):
    """Branches that work, that are cut off, silent, in inference mode, integer, a packed sequence, and not called."""

    def __init__(self):
        super().__init__()
        for name in ("good", "cut", "dead", "inference", "integer", "packed", "absent"):
            self.add_module(name, Returns())
        self.embed = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        y = self.embed(x)
        with torch.inference_mode():
            self.inference(y * 1)
        self.cut(y.detach())
        self.dead(y * 0)
        self.integer(y.long())
        self.packed(nn.utils.rnn.pack_sequence([y[0].flatten(1)]))
        return self.good(y)


class Returns(nn.Module):
    def forward(self, y):
        return y


REASONS = {
    "cut": "its output does not depend on the input by gradients",
    "dead": "all gradients are zero",
    "inference": "inference mode",
    "integer": "gives torch.int64",
    "packed": "packed sequence",
    "absent": "never reached absent",
}


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


def test_a_layer_without_a_field_is_named_and_the_others_are_there(tmp_path):
    torch.manual_seed(0)
    model, x = Several(), torch.randn(4, 3, 16, 16)
    result = compute_erf(model, x, ["good", *REASONS], batch_size=2)
    assert result.layers == ["good"] and result.failed.keys() == REASONS.keys()
    for layer, reason in REASONS.items():
        assert reason in result.failed[layer]
        assert any(line.startswith(f"{layer}: no field") for line in result.warnings)
        with pytest.raises(ValueError, match=reason):
            compute_erf(model, x, layer)
    assert np.array_equal(result.spatial["good"], compute_erf(model, x, "good", batch_size=2).spatial["good"])
    assert ERFResult.load(result.save(tmp_path / "a.npz")).failed == result.failed


def test_quantised_and_scripted_layers_are_named():
    x = torch.randn(2, 3, 16, 16)
    scripted = nn.Sequential(nn.Conv2d(3, 4, 3), torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())))
    with pytest.raises(ValueError, match=r"layer '1\.0' is a TorchScript module"):
        compute_erf(scripted, x, "1.0")
    quantised = nn.Sequential(torch.ao.nn.quantized.Quantize(0.1, 0, torch.quint8))
    with pytest.raises(ValueError, match="layer '0' is quantised"):
        compute_erf(quantised, x, "0")
    short = nn.Sequential(nn.Conv2d(3, 4, 3))
    short[0].weight.data = short[0].weight.data.to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"weights of 8 bits, such as 0\.weight"):
        compute_erf(short, x, "0")


class Pyramid(nn.Module):
    """A head that three levels share, as detectors have it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 3, 2, 1)
        self.down = nn.AvgPool2d(2)
        self.head = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        a = self.embed(x)
        b = self.down(a)
        return [self.head(y) for y in (a, b, self.down(b))]


def test_each_call_of_a_shared_layer_has_its_field():
    torch.manual_seed(0)
    model, x = Pyramid(), torch.randn(3, 3, 32, 32)
    result = compute_erf(model, x, ["head", "embed"])
    assert result.layers == ["embed", "head#0", "head#1", "head#2"]
    assert [result.info["map_size"][f"head#{i}"] for i in range(3)] == [[16, 16], [8, 8], [4, 4]]
    areas = [result.area_ratio(f"head#{i}", 0.99) for i in range(3)]
    assert areas == sorted(areas) and areas[0] < areas[2]
    for calls, index in (("first", 0), ("last", 2), (1, 1), (-2, 1)):
        chosen = compute_erf(model, x, "head", calls=calls)
        assert chosen.layers == [f"head#{index}"]
        assert np.array_equal(chosen.spatial[f"head#{index}"], result.spatial[f"head#{index}"])
    with pytest.raises(ValueError, match="'head' is called 3 times, and `calls` is 3"):
        compute_erf(model, x, "head", calls=3)
    with pytest.raises(ValueError, match="`calls` is 'second'; allowed: 'all', 'first', 'last'"):
        compute_erf(model, x, "head", calls="second")
    single = compute_erf(model, x[:1], "head#1".partition("#")[0], calls=1).spatial["head#1"]
    leaf = x[:1].clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(leaf)[1][0, :, 4, 4].sum(), leaf)
    assert np.allclose(single, grad.abs().mean(1)[0], atol=1e-6)


def test_layers_before_an_error_of_the_model_have_their_fields():
    torch.manual_seed(0)
    late = nn.Linear(5, 2)  # takes other channels
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Tanh(), nn.Flatten(), late), torch.randn(3, 3, 16, 16)
    result = compute_erf(model, x, ["0", "1", "3"], batch_size=1)
    assert result.layers == ["0", "1"] and result.failed.keys() == {"3"}
    assert "before it, the model's forward pass fails for inputs of 16x16" in result.failed["3"]
    assert np.array_equal(result.spatial["1"], compute_erf(model[:2], x, "1", batch_size=1).spatial["1"])
    with pytest.raises(ValueError, match=r"^the model's forward pass fails for inputs of 16x16"):
        compute_erf(model, x, "3")


class Exits(Pyramid):
    """Looks at a second level only where the first is bright."""

    def forward(self, x):
        a = self.embed(x)
        levels = (a, self.down(a)) if x.mean() > 0 else (a,)
        return [self.head(y) for y in levels]


def test_another_number_of_calls_for_later_inputs_is_told():
    x = torch.rand(3, 3, 32, 32)
    x[1] -= 1
    result = compute_erf(Exits(), x, ["embed", "head"], batch_size=1)
    assert result.layers == ["embed"] and "another number of times" in result.failed["head#1"]
    with pytest.raises(
        ValueError, match="'head#0': for some inputs the model calls this layer another number of times"
    ):
        compute_erf(Exits(), x, "head", batch_size=1)


@dataclass
class State:
    value: torch.Tensor | None = None


class Plain:
    value = None


class Remembers(nn.Module):
    """Keeps a state in a plain attribute, a buffer, a list, a dict or another object, and adds it to its output."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.state = None
        self.kept, self.named = [], {}
        self.register_buffer("sum", torch.zeros(1))
        self.register_buffer("empty", None)
        self.record, self.plain = State(), Plain()
        self.nested, self.queue = [dict(inner={})], deque(maxlen=1)
        self.unlisted = [Counts()]

    def forward(self, x):
        y = self.conv(x)
        if self.kind == "attribute":
            y = y if self.state is None else y * self.state
            self.state = y.detach() * 2
        elif self.kind == "buffer":
            y = y + self.sum
            self.sum = y.mean().detach()
        elif self.kind == "empty buffer":
            y = y if self.empty is None else y * self.empty
            self.empty = y.detach() * 2
        elif self.kind == "new buffer":
            y = y * getattr(self, "new", 1)
            self.register_buffer("new", y.detach() * 2)
        elif self.kind == "in place":
            y = y * (1 + self.sum)
            self.sum += 1
        elif self.kind == "list":
            y = y * (1 + len(self.kept))
            self.kept.append(y.detach())
        elif self.kind in ("record", "plain", "another record"):
            held = self.plain if self.kind == "plain" else self.record
            y = y if held.value is None else y * held.value
            if self.kind == "another record":
                self.record = State(y.detach() * 2)
            else:
                held.value = y.detach() * 2
        elif self.kind == "nested":
            inner = self.nested[0]["inner"]
            y = y * inner.get("value", 1)
            inner["value"] = y.detach() * 2
        elif self.kind == "queue":
            y = y * (self.queue[0] if self.queue else 1)
            self.queue.append(y.detach() * 2)
        elif self.kind == "unlisted":
            y = self.unlisted[0](y)
        else:
            y = y * (1 + len(self.named))
            self.named[len(self.named)] = y.detach()
            self.late = y.detach()
            self.helper = torch.tanh  # no state: it stays
        return y


class Counts(nn.Module):
    """A module in a list that is no ``ModuleList``, which the model does not know of."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, y):
        self.calls += 1
        return y * self.calls


KINDS = [
    "attribute",
    "buffer",
    "empty buffer",
    "new buffer",
    "in place",
    "list",
    "dict",
    "record",
    "another record",
    "plain",
    "nested",
    "queue",
    "unlisted",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_batch_starts_with_the_state_that_the_model_had(kind):
    torch.manual_seed(0)
    model, x = Remembers(kind), torch.randn(4, 3, 8, 8)
    names = set(vars(model))
    wrapped = nn.Sequential(model)
    one, two = (compute_erf(wrapped, x, "0", batch_size=n).spatial["0"] for n in (4, 2))
    assert np.allclose(one, two, atol=1e-7)
    assert model.empty is None and not hasattr(model, "new")
    assert set(vars(model)) - {"helper"} == names and model.state is None and not model.kept and not model.named
    assert model.sum.item() == 0 and model.unlisted[0].calls.item() == 0
    assert (
        model.record == State() and model.plain.value is None and model.nested == [dict(inner={})] and not model.queue
    )


class Loop(nn.Module):
    """snnTorch's neurons with a hidden state, or one that is handed on but for the first step, stepped over time."""

    def __init__(self, hidden=True):
        super().__init__()
        import snntorch

        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.neuron = snntorch.Leaky(beta=0.7, threshold=0.1, init_hidden=hidden)
        self.out = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        spikes, state = [], ()
        for step in x:
            found = self.neuron(self.conv(step), *state)
            found, *state = found if isinstance(found, tuple) else (found,)
            spikes.append(found)
            self.out(found)
        return torch.stack(spikes)


def test_hidden_states_of_snntorch_are_put_back():
    pytest.importorskip("snntorch", reason="snntorch is part of the extra `dev`")
    torch.manual_seed(0)
    model, x = Loop(), torch.randn(5, 4, 2, 8, 8)
    before = {name: value.clone() for name, value in model.neuron.named_buffers()}
    one, two = (compute_erf(model, x, "neuron", batch_size=n).spatial["neuron"] for n in (4, 1))
    assert one.any() and np.allclose(one, two, rtol=1e-5, atol=1e-7)
    assert all(torch.equal(value, before[name]) for name, value in model.neuron.named_buffers())
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, :, :, 4, 4].sum(), leaf)
    assert np.allclose(one, gradient.sum(0).abs().mean(1).mean(0) / 5, rtol=1e-4, atol=1e-7)


class NorseLoop(nn.Module):
    """norse's cell, whose state is handed from step to step, and begins as ``None``."""

    def __init__(self):
        super().__init__()
        import norse.torch as norse

        self.conv, self.cell = nn.Conv2d(2, 4, 3, padding=1), norse.LIFCell()

    def forward(self, x):
        state, outputs = None, []
        for step in x:
            spikes, state = self.cell(5 * self.conv(step), state)
            outputs.append(spikes)
        return torch.stack(outputs)


def test_states_of_norse_are_handed_on():
    pytest.importorskip("norse", reason="norse is part of the extra `dev`")
    torch.manual_seed(0)
    model, x = NorseLoop(), torch.randn(4, 3, 2, 8, 8)
    one, two = (compute_erf(model, x, "cell", batch_size=n) for n in (3, 1))
    assert "cell[0]" in one.layers and np.allclose(one.spatial["cell[0]"], two.spatial["cell[0]"], rtol=1e-5, atol=1e-7)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, :, :, 4, 4].sum(), leaf)
    expected = gradient.sum(0).abs().mean(1).mean(0) / 4
    assert np.allclose(one.spatial["cell[0]"], expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


class Positions(nn.Module):
    """A table that is made anew for each size of the input, as tables of positions are, and a counter of calls."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3, padding=1), nn.Identity()
        self.size = self.table = None
        self.calls, self.lengths = 0, []

    def forward(self, x):
        self.calls += 1
        self.lengths.append(len(x))
        y = self.conv(x)
        if self.size != tuple(y.shape[-2:]):
            self.size = tuple(y.shape[-2:])
            self.table = torch.linspace(1, 2, y.shape[-1]).expand(self.size).clone()
        return self.out(y * self.table * (1 if self.calls % 2 else 10))


@pytest.mark.parametrize("before", [None, 6])
def test_a_table_and_the_size_that_it_was_made_for_go_back_together(before):
    torch.manual_seed(0)
    model, x = Positions(), torch.randn(5, 3, 8, 8)
    if before is not None:
        model(torch.randn(1, 3, before, before))
    size, calls, lengths = model.size, model.calls, list(model.lengths)
    one, two = (compute_erf(model, x, "out", batch_size=n).spatial["out"] for n in (1, 5))
    assert np.allclose(one, two, rtol=1e-5)
    assert (model.size, model.calls, model.lengths) == (size, calls, lengths)
    assert (model.table is None) == (before is None)


def test_what_a_module_makes_in_its_first_call_is_made_once():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.made = False

        def forward(self, x):
            if not self.made:
                self.conv, self.made = nn.Conv2d(3, 4, 3, padding=1), True
            return self.conv(x)

    model, x = nn.Sequential(Lazy()), torch.randn(3, 3, 8, 8)
    first = compute_erf(model, x, "0", batch_size=1).spatial["0"]
    assert model[0].made and np.array_equal(first, compute_erf(model, x, "0", batch_size=1).spatial["0"])


class Collects(nn.Module):
    """Gives its modules hooks in its first call, and notes that it has, as Hugging Face's models do for hidden states."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = (nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 8))
        self.found, self.hooked = [], False

    def forward(self, x):
        if not self.hooked:
            for module in (self.first, self.second):
                module.register_forward_hook(lambda module, arguments, output: self.found.append(output))
            self.hooked = True
        self.found.clear()
        self.second(self.first(x))
        return self.out(torch.cat(self.found, 1))


def test_hooks_that_a_model_gives_its_modules_are_there_once():
    torch.manual_seed(0)
    model, x = Collects(), torch.randn(3, 3, 8, 8)
    one, three = (compute_erf(model, x, "out", batch_size=n).spatial["out"] for n in (1, 3))
    assert np.allclose(one, three, rtol=1e-5)
    assert not model.hooked and not model.first._forward_hooks and not model.second._forward_hooks
    before = model(x)
    compute_erf(model, x, "out", batch_size=1)
    assert torch.equal(model(x), before) and len(model.first._forward_hooks) == 1


@pytest.mark.parametrize("hidden", [True, False])
def test_states_that_snntorch_has_left_are_forgotten(hidden):
    pytest.importorskip("snntorch", reason="snntorch is part of the extra `dev`")
    torch.manual_seed(0)
    model, x = Loop(hidden), torch.randn(5, 3, 2, 8, 8)
    fresh = compute_erf(model, x, "out", batch_size=3).spatial["out"]
    with torch.no_grad():
        model(x + 1)
    left = model.neuron.mem.clone()
    assert left.any() and np.array_equal(fresh, compute_erf(model, x, "out", batch_size=3).spatial["out"])
    assert torch.equal(model.neuron.mem, left)


class Patches(nn.Sequential):
    """Tokens of 4×4 patches, zero for an image of zeros."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 4, 4, bias=False), nn.Flatten(2), nn.ReLU())


def test_a_first_input_without_a_field_does_not_take_the_others_with_it():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 32, 32)
    x[0] = 0
    result = compute_erf(Patches(), x, "2", layout="BCN")
    assert result.info["num_inputs"] == 4 and result.spatial["2"][16:20, 16:20].all()
