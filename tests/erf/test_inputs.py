"""Any input: several tensors, keyword arguments, integers; the fields are those of autograd."""

import numpy as np
import pytest
import torch
from by_autograd import field, leaves, same
from torch import nn

from sterf_plugins.erf import ERFResult, compute_erf
from sterf_plugins.erf.figures.wording import layer_label, target_cells
from sterf_plugins.erf.numbers.metrics import spatial_numbers

# --- several inputs ---------------------------------------------------------------------------------------------------


class Tracker(nn.Module):
    """A backbone that search and template share, and a head that correlates what it gives for them."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.Tanh())
        self.head = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, search, template, scale=None):
        y = self.backbone(search) * self.backbone(template).mean((2, 3), keepdim=True)
        return self.head(y if scale is None else y * scale.view(-1, 1, 1, 1))


@pytest.fixture
def tracker():
    torch.manual_seed(0)
    return Tracker().double(), torch.randn(3, 2, 16, 12).double(), torch.randn(3, 2, 8, 8).double()


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_each_input_has_its_own_map(tracker, batch_size, tmp_path):
    model, search, template = tracker
    a, b = leaves(search, template)
    y = model(a, b)
    expected = {"head@search": field(y, a), "head@template": field(y, b)}
    result = compute_erf(model, dict(search=search, template=template), "head", batch_size=batch_size)
    assert result.layers == list(expected) and result.info["inputs"] == {"search": [2, 16, 12], "template": [2, 8, 8]}
    assert all(same(result.spatial[name], value) for name, value in expected.items())
    # One entry alone keeps the layer's name; the other one is part of the input all the same.
    alone = compute_erf(model, dict(search=search, template=template), "head", wrt="template", batch_size=batch_size)
    assert alone.layers == ["head"] and np.array_equal(alone.spatial["head"], result.spatial["head@template"])
    again = ERFResult.load(result.save(tmp_path / "a.npz"))
    assert again.layers == result.layers
    assert repr(again.numbers("head@template")) == repr(result.numbers("head@template"))  # some are NaN


@pytest.mark.parametrize("wrt", [None, "search", "template"])
def test_the_target_is_a_place_in_the_entry_that_the_layer_follows(tracker, wrt):
    """Row 3, column 1 of the head's map lies in the search region; in the template there is no such place."""
    model, search, template = tracker
    options = dict(wrt=wrt, position=(3, 1), batch_size=2)
    result = compute_erf(model, dict(search=search, template=template), "head", **options)
    for entry in ("search", "template") if wrt is None else (wrt,):
        name = f"head@{entry}" if wrt is None else "head"
        numbers, field = result.numbers(name), result.spatial[name].astype(np.float64)
        if entry == "search":
            cell = field[6:8, 2:4].sum() / field.sum()
            assert numbers["centre_mass"].value == pytest.approx(cell, rel=0.3) and target_cells(result, name)
            assert result.target(name) == ((8, 6), (3, 1)) and layer_label(result, name) == f"{name}, stride 2"
        else:
            assert "centre_mass" not in numbers and result.target(name) == (None, None)
            about_the_middle = spatial_numbers(field)["rectangle_50"]
            assert numbers["rectangle_50"].value == pytest.approx(about_the_middle, rel=0.1)
            assert not target_cells(result, name) and layer_label(result, name) == name  # nor has it a stride
    assert result.info["without_target"] == ([] if wrt == "search" else ["head" if wrt else "head@template"])
    told = compute_erf(model, dict(search=search, template=template), "head", target_in="template", **options)
    assert told.info["without_target"] == ([] if wrt == "template" else ["head" if wrt else "head@search"])
    with pytest.raises(ValueError, match="`target_in` is 'x'; allowed: 'search', 'template'"):
        compute_erf(model, dict(search=search, template=template), "head", target_in="x", **options)


def test_two_images_of_one_place_have_one_target():
    torch.manual_seed(0)
    left, right = nn.Conv2d(2, 3, 3, 2, 1), nn.Conv2d(2, 3, 3, 2, 1)
    pair = nn.ModuleDict(dict(left=left, right=right, out=nn.Conv2d(3, 4, 3, padding=1))).double()
    images = (torch.randn(3, 2, 16, 12).double(), torch.randn(3, 2, 16, 12).double())
    run = lambda model, batch: model["out"](model["left"](batch[0]) + model["right"](batch[1]))  # noqa: E731
    result = compute_erf(pair, images, "out", forward=run, wrt=(0, 1))
    assert result.info["without_target"] == [] and all("centre_mass" in result.numbers(n) for n in result.layers)


def test_positional_arguments_and_indices(tracker):
    model, search, template = tracker
    result = compute_erf(model, (search, template), "head", wrt=[1, 0])
    named = compute_erf(model, dict(search=search, template=template), "head")
    assert result.layers == ["head@1", "head@0"]
    for i, name in enumerate(("search", "template")):
        assert np.array_equal(result.spatial[f"head@{i}"], named.spatial[f"head@{name}"])


def test_the_users_forward_runs_the_model(tracker):
    """It gets batches in the user's form; what gets no map is cut into batches with the rest."""
    model, search, template = tracker
    scale = torch.tensor([1.0, -2.0, 0.5]).double()
    a, b = leaves(search, template)
    expected = field(model(a, b, scale), a)

    def forward(model, batch):
        assert isinstance(batch, dict) and batch["name"] == "cat"
        return model(batch["x"], batch["z"], batch["scale"])

    inputs = dict(x=search, z=template, scale=scale, name="cat")
    result = compute_erf(model, inputs, "head", forward=forward, wrt="x", batch_size=2)
    assert same(result.spatial["head"], expected)
    # Batches of a loader go to it whole; without `forward` and `wrt` the first entry is the image, and labels are ignored.
    loader = [[search[i : i + 1], template[i : i + 1], scale[i : i + 1]] for i in range(3)]
    result = compute_erf(model, loader, "head", forward=lambda m, batch: m(*batch), wrt=0)
    assert same(result.spatial["head"], expected)
    labels = [(search[:2], torch.tensor([3, 4])), (search[2:], torch.tensor([5]))]
    alone = compute_erf(model.backbone, labels, "0").spatial["0"]
    assert np.array_equal(alone, compute_erf(model.backbone, search, "0").spatial["0"])


def test_calls_that_do_not_see_an_entry_are_named(tracker):
    model, search, template = tracker
    result = compute_erf(model, dict(search=search, template=template), ["backbone.0", "head"])
    assert result.layers == ["backbone.0#0@search", "backbone.0#1@template", "head@search", "head@template"]
    assert result.info["map_size"]["backbone.0#0@search"] == [8, 6]
    assert result.info["map_size"]["backbone.0#1@template"] == [4, 4]
    assert "of several inputs, one that the layer does not see" in result.failed["backbone.0#0@template"]


class Joined(nn.Module):
    """Patches of template and search in one list of tokens, as one-stream trackers have them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 31, 4, 4)
        self.mix = nn.Identity()

    def forward(self, template, search):
        tokens = torch.cat([self.embed(x).flatten(2).transpose(1, 2) for x in (template, search)], 1)
        return self.mix(tokens + tokens.mean(1, keepdim=True))


def test_tokens_of_several_inputs_need_a_function():
    torch.manual_seed(0)
    model, template, search = Joined().double(), torch.randn(2, 1, 8, 16).double(), torch.randn(2, 1, 24, 24).double()
    with pytest.raises(
        ValueError, match=r"44 tokens, which fit no grid of a 8x16 and 24x24 input.*a function as `layout`"
    ):
        compute_erf(model, (template, search), "mix")
    last = lambda y: y[:, 8:].transpose(1, 2).unflatten(2, (6, 6))  # noqa: E731
    result = compute_erf(model, (template, search), "mix", layout=last)
    a, b = leaves(template, search)
    y = last(model(a, b))
    assert same(result.spatial["mix@0"], field(y, a)) and same(result.spatial["mix@1"], field(y, b))


def test_batchnorms_are_calibrated_with_all_entries():
    torch.manual_seed(0)

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, a, b):
            return self.norm(self.conv(a) + self.conv(b)).tanh()

    model, a, b = Sum().double(), torch.randn(4, 2, 8, 8).double(), 3 * torch.randn(4, 2, 8, 8).double()
    result = compute_erf(model, (a, b), "norm")
    assert result.info["calibrated"] == {"norms": 1, "inputs": 4}
    assert not model.norm.running_mean.any()
    y = model.conv(a) + model.conv(b)
    spread = y.transpose(0, 1).flatten(1).var(1)
    (x,) = leaves(a)
    out = (model.conv(x) + model.conv(b)) / (spread.view(1, -1, 1, 1) + model.norm.eps).sqrt()
    assert same(result.spatial["norm@0"], field(out, x))


BAD = {
    "unknown entry": (dict(inputs=dict(a=torch.ones(2, 3, 8, 8)), wrt="b"), "`wrt` names 'b', and the tensors .* are 'a'"),
    "no image": (dict(inputs=dict(a=torch.ones(2, 3))), r"no entry of a batch is an image; its tensors: 'a' \(2, 3\) float32"),
    "constants": (
        dict(inputs=dict(a=torch.ones(2, 3, 8, 8), b=torch.ones(5))),
        r"entry 'b' of `inputs` has shape \(5,\), which has no batch axis of 2",
    ),
    "objects": (dict(inputs=dict(a=torch.ones(2, 3, 8, 8), b=object())), "entry 'b' of `inputs` is a object"),
    "mixed": (
        dict(inputs=(torch.ones(2, 3, 8, 8), torch.ones(2, 2, 3, 8, 8))),
        "different axes, NCHW, TNCHW; choose one by `wrt`",
    ),
    "axes": (dict(inputs=torch.ones(2, 3, 8, 8), axes="NCHX"), "`axes` is 'NCHX'; give a letter for each axis"),
    "ranks": (dict(inputs=torch.ones(2, 3, 8, 8), axes="NCL"), r"has shape \(2, 3, 8, 8\); give images axes NCL"),
    "frames": (dict(inputs=torch.ones(2, 3, 8, 8), kinds="frames"), "`kinds` asks for frames, but `inputs` have no frame axis"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_inputs(case):
    options, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=message):
        compute_erf(nn.Sequential(nn.Conv2d(3, 4, 3)), layers="0", **options)


# --- what models do with their inputs ---------------------------------------------------------------------------------


class Normalises(nn.Module):
    """Takes bytes, channels last, normalises them in place, and tells bytes from floats."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        y = x.permute(0, 3, 1, 2).flip(1)
        if y.dtype == torch.uint8:
            y = y.to(self.conv.weight.dtype) / 255
        y.sub_(0.4).div_(0.2)
        return self.conv(y).tanh()


def test_integer_images_are_differentiated_behind_the_cast():
    torch.manual_seed(0)
    model = Normalises().double()
    x = torch.randint(0, 256, (2, 8, 10, 3), dtype=torch.uint8)
    before = x.clone()
    result = compute_erf(model, x, "conv", axes="NHWC")
    assert torch.equal(x, before)
    leaf = x.double().requires_grad_()
    y = model.conv((leaf.permute(0, 3, 1, 2).flip(1) / 255 - 0.4) / 0.2)
    assert same(result.spatial["conv"], field(y, leaf, channels=3))


def test_division_of_integer_images_is_followed_in_float64_too():
    """Bytes divided by a number are float32, whatever the type of the model's weights."""
    torch.manual_seed(0)
    model = Computes(lambda x: (x / 255).double()).double()
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    leaf = x.double().requires_grad_()
    assert same(compute_erf(model, x, "conv").spatial["conv"], field(model.conv(leaf / 255), leaf))


class Computes(nn.Module):
    def __init__(self, work):
        super().__init__()
        self.conv, self.work = nn.Conv2d(3, 4, 3, padding=1), work

    def forward(self, x):
        return self.conv(self.work(x))


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda x: (x // 16).float(), "computes with integers of `inputs` in .*floordiv"),
        (lambda x: (x * 3).float(), "computes with integers of `inputs` in .*mul"),
        (
            lambda x: nn.functional.embedding(x.long(), torch.ones(256, 1))[..., 0],
            "in embedding, through which no gradient",
        ),
    ],
)
def test_integer_arithmetic_is_named(work, message):
    with pytest.raises(ValueError, match=message):
        compute_erf(Computes(work), torch.randint(100, 256, (2, 3, 8, 8), dtype=torch.uint8), "conv")


def test_integers_into_a_model_without_a_cast_are_floats():
    torch.manual_seed(0)
    normed, x = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8),
    )
    found, expected = (compute_erf(normed, y, "1") for y in (x, x.float()))
    assert found.info["calibrated"] and np.array_equal(found.spatial["1"], expected.spatial["1"])
    model, x = Computes(lambda x: x), torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert np.array_equal(
        compute_erf(model, x, "conv").spatial["conv"], compute_erf(model, x.float(), "conv").spatial["conv"]
    )


def test_inputs_may_be_normalised_in_place():
    torch.manual_seed(0)
    model, x = Computes(lambda x: x.sub_(0.5).mul_(4)).double(), torch.randn(2, 3, 8, 8).double()
    before = x.clone()
    found = compute_erf(model, x, "conv").spatial["conv"]
    assert torch.equal(x, before)
    (leaf,) = leaves(x)
    assert same(found, field(model.conv((leaf - 0.5) * 4), leaf))


class Recurrent(nn.Module):
    """A convolutional recurrent cell whose state begins with zeros: in the first step nothing leads through ``old``."""

    def __init__(self):
        super().__init__()
        self.new, self.old = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        state, outputs = x.new_zeros(x.shape[1], 3, *x.shape[-2:]), []
        for step in x:
            state = torch.tanh(self.new(step) + self.old(state))
            outputs.append(state)
        return torch.stack(outputs)


def test_a_state_of_zeros_in_the_first_step():
    torch.manual_seed(0)
    model, x = Recurrent().double(), torch.randn(4, 2, 2, 8, 8).double()
    result = compute_erf(model, x, ["old", "new"])
    assert not result.failed
    (leaf,) = leaves(x)
    states, state = [], torch.zeros(2, 3, 8, 8).double()
    for step in leaf:
        states.append(model.old(state))
        state = torch.tanh(model.new(step) + states[-1])
    (gradient,) = torch.autograd.grad(sum(s[:, :, 4, 4].sum() for s in states[1:]), leaf)
    assert same(result.spatial["old"], gradient.sum(0).abs().mean(1).mean(0).numpy() / 4)
    lags = result.spatiotemporal["old"].sum((-2, -1))
    assert not lags[:, 0].any() and not lags[0].any() and (lags[1:, 1] > 0).all()  # the step before is the nearest


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_are_computed_in_32(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1)
    ).to(dtype)
    nn.init.uniform_(model[1].running_mean, 0, 1)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    storages = [p.data_ptr() for p in model.parameters()]
    x = torch.randn(2, 3, 8, 8)
    found = compute_erf(model, x, "3").spatial["3"]
    assert [p.data_ptr() for p in model.parameters()] == storages
    for name, value in model.state_dict().items():
        assert value.dtype == weights[name].dtype and torch.equal(value, weights[name])
    assert np.array_equal(found, compute_erf(model.float(), x, "3").spatial["3"])
