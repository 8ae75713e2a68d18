"""Fields beside measured changes: linear networks, dead branches, flipped spikes, randomised weights, and what is left behind."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from sterf_plugins.backbones import SDTV3, SpikingCNN
from sterf_plugins.erf import ERFResult, FieldCheck, check_field, compute_erf, randomise_field
from sterf_plugins.erf.numbers.similarity import similarity
from sterf_plugins.layers import IntegerSpike

IMAGES = torch.randn(5, 3, 16, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Transpose(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3, padding=1)).double()


def by_hand(model, images, change, cells):
    """|y(x + d) - y(x)| of the channel sum at the centre, patch by patch, (N, rows, columns)."""
    unit = lambda x: (lambda y: y[:, :, y.shape[2] // 2, y.shape[3] // 2].sum(1))(model(x))  # noqa: E731
    found = torch.zeros(len(images), *cells, dtype=torch.float64)
    h, w = images.shape[2] // cells[0], images.shape[3] // cells[1]
    for i, j in itertools.product(range(cells[0]), range(cells[1])):
        x = images.clone()
        x[..., i * h : (i + 1) * h, j * w : (j + 1) * w] = change[..., i * h : (i + 1) * h, j * w : (j + 1) * w]
        found[:, i, j] = (unit(x) - unit(images)).abs()
    return found.detach().numpy()


@pytest.mark.parametrize("by", ["mean", "other", 0.5])
def test_in_a_linear_network_the_gradient_predicts_each_change_exactly(by):
    model = linear()
    check = check_field(model, IMAGES, "2", by=by, cells=(8, 6), budget=100, batch_size=2)
    field, change, predicted = check.maps["2"].transpose(1, 0, 2, 3)
    np.testing.assert_allclose(change, predicted, rtol=1e-9, atol=1e-13)
    if by != 0.5:
        other = IMAGES.roll(-1, 0) if by == "other" else IMAGES.mean((0, 2, 3), keepdim=True).expand_as(IMAGES)
        expected = by_hand(model, IMAGES, other, (8, 6))
        if by == "other":  # two draws for each patch
            expected = (expected + by_hand(model, IMAGES, IMAGES.roll(-2, 0), (8, 6))) / 2
        np.testing.assert_allclose(change, expected, rtol=1e-9, atol=1e-13)
    erf = compute_erf(model, IMAGES, "2").spatial["2"].reshape(8, 2, 6, 2).sum((1, 3))
    np.testing.assert_allclose(field.mean(0), erf, rtol=1e-6)
    numbers = check.numbers("2")
    assert numbers["gain"].value == pytest.approx(1, rel=1e-9) and numbers["predicted_rank"].value > 0.999
    assert numbers["unchanged"].value == 0 and not check.warnings


def test_random_numbers_that_the_model_draws_are_no_change():
    class Drawing(nn.Sequential):
        def forward(self, x):
            return self[2](nn.functional.dropout(self[1](self[0](x)), training=True))

    torch.manual_seed(0)
    check = check_field(Drawing(*linear()), IMAGES, "2", cells=(8, 6), budget=100, batch_size=2)
    field, change, predicted = check.maps["2"].transpose(1, 0, 2, 3)
    assert change.any() and np.allclose(change, predicted, atol=1e-12)  # with one mask the model is linear
    assert not np.allclose(field[0], field[2])  # each batch has its own


@pytest.mark.parametrize("protocol", [None, "openerf", "replknet"])
def test_a_protocol_decides_on_the_unit_that_is_checked(protocol, tmp_path):
    """Tokens that nothing mixes depend on their own patch, which is that above and left of the middle in OpenERF."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), Transpose()).double()
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    check = check_field(model, images, "2", cells=4, budget=16, protocol=protocol)
    at = (1, 1) if protocol == "openerf" else (2, 2)
    for kind in check.kinds:
        assert [tuple(index) for index in np.argwhere(check.map("2", kind))] == [at]
    tokens = model(images).detach()[:, 4 * at[0] + at[1]]
    patch = images.clone()
    patch[..., 4 * at[0] : 4 * at[0] + 4, 4 * at[1] : 4 * at[1] + 4] = images.mean((0, 2, 3))[None, :, None, None]
    taken = torch.relu if protocol == "replknet" else lambda y: y
    change = (taken(tokens) - taken(model(patch).detach()[:, 4 * at[0] + at[1]])).sum(1).abs().mean()
    assert check.map("2", "change")[at] == pytest.approx(float(change), rel=1e-9)
    assert check.info["protocol"] == protocol
    check.plot(tmp_path / "check.png")


def test_the_maps_are_those_of_compute_erf_for_projections_positions_and_time():
    torch.manual_seed(0)
    model = SpikingCNN(depth=2, channels=4, in_chans=3, neuron="lif", T=3, mean=0.0, std=0.5)
    options = dict(position=[(3, 4), (8, 8)], channels=3, time_steps=3, seed=5)
    images = IMAGES.float()
    field = check_field(model, images, "layers.1", by=None, cells=4, **options).map("layers.1", "field")
    expected = compute_erf(model, images, "layers.1", kinds="spatial", **options).spatial["layers.1"]
    np.testing.assert_allclose(field, expected.reshape(4, 4, 4, 3).sum((1, 3)), rtol=1e-5)


class DeadBranch(nn.Module):
    """A local convolution beside a global branch whose spikes never fire, though their surrogate has a gradient."""

    def __init__(self, local: bool):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.local = nn.Conv2d(4, 4, 3, padding=1) if local else None
        self.spike = IntegerSpike()
        self.mix = nn.Linear(16 * 16, 16 * 16)

    def forward(self, x):
        x = self.stem(x)
        # Within (-0.5, 0.5) no spike fires, yet the surrogate gradient is 1 above 0.
        spikes = self.spike(0.2 + 0.01 * x)
        branch = 100 * self.mix(spikes.flatten(2)).unflatten(2, (16, 16))
        return branch if self.local is None else self.local(x) + branch


@pytest.mark.parametrize("local", [True, False])
def test_a_field_that_only_a_surrogate_has_is_found_out(local):
    torch.manual_seed(0)
    network = nn.Sequential(DeadBranch(local), nn.Identity())
    images = torch.randn(6, 3, 16, 16)
    check = check_field(network, images, "1", cells=8)
    assert check.info["left_out"] == ["0.spike"] and check.kinds == ("field", "change", "predicted", "live")
    field, change = check.map("1", "field"), check.map("1", "change")
    assert (field > 0).all()  # the surrogate's field is global
    numbers = check.numbers("1")
    if local:
        assert 0 < (change > 0).sum() <= 9  # what the network does is not
        assert numbers["unchanged"].value > 0.3 and numbers["area_90_change"].value < numbers["area_90_field"].value
        assert numbers["live_common_mass"].value > 0.8 and numbers["common_mass"].value < 0.6
        assert "of its field's mass lies in patches whose change does nothing" in check.warnings[0]
    else:
        assert not change.any() and numbers["unchanged"].value == 1 and numbers["gain"].value == 0
        assert np.isnan(numbers["rank"].value) and numbers["common_mass"].value == 0
        assert check.warnings == ["1: no change of any patch changes it; its field is the surrogate gradient's alone."]
        assert not check.map("1", "live").any()


@pytest.mark.slow
def test_flipped_spikes_agree_with_brute_force():
    torch.manual_seed(0)
    model = SpikingCNN(depth=2, channels=3, in_chans=2, neuron="lif", mean=0.1, std=0.6)
    events = (torch.rand(3, 4, 2, 6, 4, generator=torch.Generator().manual_seed(1)) < 0.3).float()  # (T, N, C, H, W)
    check = check_field(model, events, "layers.1", by="flip", cells=(3, 2), budget=6 * 24, batch_size=3)
    unit = lambda x: model(x)[:, :, :, 3, 2].sum(2).mean(0).detach()  # noqa: E731  (each call starts afresh)
    expected, before = np.zeros((4, 6, 4)), unit(events)
    for t, c, i, j in itertools.product(range(3), range(2), range(6), range(4)):
        x = events.clone()
        x[t, :, c, i, j] = 1 - x[t, :, c, i, j]
        expected[:, i, j] += (unit(x) - before).abs().numpy() / (3 * 2)
    change = check.maps["layers.1"][:, 1]
    np.testing.assert_allclose(change, expected.reshape(4, 3, 2, 2, 2).sum((2, 4)), atol=1e-6)
    assert change.any()
    few = check_field(model, events, "layers.1", by="flip", cells=(3, 2), budget=6)
    assert few.info["draws"] == 1 and not np.allclose(few.maps["layers.1"][:, 1], change)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (check_field, dict(by=float("inf")), "`by` is inf; allowed: .* a number above 0"),
        (check_field, dict(seed=0.5), r"`seed` is 0.5 \(float\); it must be an int"),
        (randomise_field, dict(seed=0.5), r"`seed` is 0.5 \(float\); it must be an int"),
        (randomise_field, dict(calibrate=False), "`calibrate` is given; nothing is changed here"),
        (randomise_field, dict(by="mean"), "`by` is given; nothing is changed here"),
    ],
)
def test_options_without_a_meaning(function, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        function(linear(), IMAGES, "2", cells=4, **options)


@pytest.mark.slow
def test_a_negative_seed_is_a_seed():
    a, b = (check_field(linear(), IMAGES, "2", by=0.3, cells=4, seed=seed).map("2", "change") for seed in (-1, -2))
    assert not np.array_equal(a, b)


def test_batches_and_streams_give_the_same():
    model = linear()
    whole = check_field(model, IMAGES, "2", by=0.3, cells=4, budget=32)
    for inputs, size in ((IMAGES, 1), (iter(IMAGES), 3)):
        np.testing.assert_allclose(
            check_field(model, inputs, "2", by=0.3, cells=4, budget=32, batch_size=size).maps["2"],
            whole.maps["2"],
            atol=1e-12,
        )


def test_numbers_of_numpy_are_numbers(tmp_path):
    check = check_field(linear(), IMAGES, "2", by=np.float32(0.5), cells=2)
    assert FieldCheck.load(check.save(tmp_path / "check.npz")).info["by"] == 0.5


class Tracker(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3, padding=1).double()

    def forward(self, search, template):
        return self.backbone(search) * self.backbone(template).mean((2, 3), keepdim=True)


def test_one_of_several_inputs_is_changed():
    torch.manual_seed(0)
    model = nn.Sequential(Tracker(), nn.Identity())
    inputs = dict(search=IMAGES, template=IMAGES[..., :8, :8].clone())
    run = lambda network, batch: network[1](network[0](**batch))  # noqa: E731
    check = check_field(model, inputs, "1", forward=run, wrt="search", cells=4, without=None)
    _, change, predicted = check.maps["1"].transpose(1, 0, 2, 3)
    np.testing.assert_allclose(change, predicted, rtol=1e-9, atol=1e-13)  # linear in each of them
    assert check_field(model, inputs, "1", forward=run, wrt="template", cells=4, by=None).maps["1"].shape == (
        5,
        1,
        4,
        4,
    )
    with pytest.raises(ValueError, match="'search', 'template' of `inputs` could be changed; choose one by `wrt`"):
        check_field(model, inputs, "1", forward=run, cells=4)


def test_signals_have_patches_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 5, padding=2), nn.Identity()).double()
    signals = torch.randn(4, 2, 32).double()
    check = check_field(model, signals, "1", axes="NCL")
    assert check.map("1", "change").shape == (1, 16) and check.numbers("1")["gain"].value == pytest.approx(1)


@pytest.mark.slow
def test_nothing_is_left_behind():
    torch.manual_seed(0)
    model = SDTV3(dict(embed_dims=(8, 16, 24, 32), num_heads=8), "srb", norm_hidden=False)
    model.train()
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    rng = torch.get_rng_state()
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    check = check_field(model, images, ["stages.0", "stages.1"], cells=2, by=0.5)
    assert any("mixer" in name for name in check.info["left_out"])  # the released form is silent
    rows = randomise_field(model, images, "stages.0", stages=2, cells=4)
    assert [row["randomised"] for row in rows] == [0, 5, 11]  # layers with weights
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert flags == [m.training for m in model.modules()] and torch.equal(rng, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_randomised_weights_lose_what_the_weights_have_made():
    model = linear()
    with torch.no_grad():  # looks to the right alone
        model[0].weight[..., :2] = 0
        model[2].weight[..., :2] = 0
    rows = randomise_field(model, IMAGES, "2", stages=2, cells=(16, 12))
    assert [row["down_to"] for row in rows] == ["", "2", "0"]
    masses = [row["common_mass"] for row in rows]
    assert masses[0] == pytest.approx(1) and masses[0] > masses[1] > masses[2]
    constant = nn.Sequential(nn.Conv2d(3, 2, 5, padding=2), nn.Identity()).double()
    nn.init.ones_(constant[0].weight)
    same = randomise_field(constant, IMAGES, "1", stages=1)  # the field of the architecture alone
    assert [row["common_mass"] for row in same] == pytest.approx([1, 1])


def test_similarity_of_known_maps():
    a = np.array([[4.0, 3.0], [2.0, 1.0]])
    assert similarity(a, 3 * a) == pytest.approx(dict(rank=1, common_mass=1, overlap_50=1, overlap_90=1))
    found = similarity(a, a[::-1, ::-1])
    assert found["rank"] == -1 and found["common_mass"] == pytest.approx(0.6)
    assert found["overlap_50"] == 0 and found["overlap_90"] == pytest.approx(2 / 4)
    outside = similarity(np.pad(a, 3), np.pad(a[::-1, ::-1], 3))  # where both are zero, they do not agree
    assert outside == pytest.approx(found)


def test_an_overlap_of_whole_patches_is_no_surer_than_one_of_them():
    field, change = np.arange(16.0).reshape(4, 4), np.arange(16.0).reshape(4, 4).T
    check = FieldCheck({"a": np.stack([[field, change, change]] * 5)}, ("field", "change", "predicted"))
    numbers = check.numbers("a")
    union = 2 * 5 / (1 + numbers["overlap_50"].value)  # the smallest areas with half of the mass have five patches each
    sure = {"overlap_50": 1 / round(union), "predicted_overlap_50": 1 / 5}
    assert numbers["common_mass"].error == 0
    assert 0 < numbers["overlap_50"].value < 1 == numbers["predicted_overlap_50"].value
    assert {name: numbers[name].error for name in sure} == pytest.approx({n: s / 12**0.5 for n, s in sure.items()})


def test_a_check_is_written_and_read(tmp_path):
    check = check_field(linear(), IMAGES, "2", cells=4)
    read = FieldCheck.load(check.save(tmp_path / "check.npz"))
    assert read.rows() == check.rows() or str(read.rows()) == str(check.rows())
    check.plot(tmp_path / "check.png")
    assert (tmp_path / "check.png").stat().st_size > 5000
    compute_erf(linear(), IMAGES, "2").save(tmp_path / "erf.npz")
    with pytest.raises(ValueError, match="is no check of fields"):
        FieldCheck.load(tmp_path / "erf.npz")
    with pytest.raises(ValueError, match="is no ERF result: it has no field of any layer"):
        ERFResult.load(tmp_path / "check.npz")


class Turned(nn.Module):
    """Tokens in the order of columns, not of rows."""

    def __init__(self):
        super().__init__()
        self.patches, self.tokens = nn.Conv2d(3, 8, 4, stride=4).double(), nn.Linear(8, 8).double()

    def forward(self, x):
        return self.tokens(self.patches(x).transpose(2, 3).flatten(2).transpose(1, 2))


class Trained(nn.Sequential):
    """A BatchNorm that the forward pass itself puts into training mode."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 2, 3).double(), nn.BatchNorm2d(2).double())

    def forward(self, x):
        self[1].train()
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (Turned(), "tokens", "changes elsewhere than the input does"),
        (Trained(), "1", "takes mean and variance from all inputs of a pass"),
    ],
)
def test_what_has_no_field_for_compute_erf_has_no_check(model, layer, message):
    images = torch.randn(3, 3, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for function, options in ((compute_erf, {}), (check_field, dict(cells=2))):
        with pytest.raises(ValueError, match=message):
            function(model, images, layer, **options)
    if isinstance(model, Trained):
        check = check_field(model, images, layer, cells=2, batch_size=1)
        assert check.map(layer, "change").all()


def test_small_changes_of_many_large_channels_are_measured():
    model = nn.Sequential(nn.Conv2d(3, 512, 3, padding=1))
    nn.init.constant_(model[0].weight, 1e-5)
    nn.init.constant_(model[0].bias, 3.0)
    _, change, predicted = check_field(model, IMAGES.float(), "0", cells=(16, 12)).maps["0"].transpose(1, 0, 2, 3)
    large = predicted > 0.1 * predicted.max()  # a float32 sum of 1536 moves in steps of a hundredth of the largest
    np.testing.assert_allclose(change[large], predicted[large], atol=0.015 * predicted.max())


def test_a_layer_without_a_gradient_is_warned_of():
    class Rounded(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).round()

    check = check_field(nn.Sequential(Rounded(3, 4, 3)).double(), 9 * IMAGES, "0", cells=2)
    assert check.map("0", "change").any() and not check.map("0", "field").any()
    assert check.warnings == ["0: its gradient is zero for all inputs, so that there is no field to compare."]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(by="blur"), "`by` is 'blur'; allowed: 'mean', 'other', 'flip', a number above 0"),
        (dict(by=0), "`by` is 0; allowed"),
        (dict(by="flip"), "needs event frames"),
        (dict(cells=8, budget=10), "64 forward passes for each input, and `budget` is 10"),
        (dict(cells=(17, 2)), "inputs of 16x12 have not so many"),
        (dict(layers="nothing"), "matches no module"),
        (dict(without="nothing"), "matches no module"),
        (dict(position=(99, 0)), "outside the 8x6 output"),
        (dict(inputs=IMAGES[:1], by="other"), "there is a single input"),
        (dict(inputs=[]), "`inputs` is empty"),
        (dict(inputs=(IMAGES * 9).byte()), "patches are changed in floating-point images"),
        (dict(inputs=[IMAGES, torch.full_like(IMAGES, torch.nan)]), "NaN"),
        (dict(inputs=[IMAGES, IMAGES[..., :8]]), "differ in shape"),
        (dict(inputs=IMAGES.to("meta")), "`inputs` are on the device 'meta'"),
    ],
)
def test_errors_say_what_to_do(options, message):
    arguments = dict(inputs=IMAGES, layers="2", cells=2) | options
    with pytest.raises(ValueError, match=message):
        check_field(linear(), **arguments)
    check = check_field(linear(), IMAGES, "2", by=None, cells=2)
    with pytest.raises(ValueError, match="no kind 'change' in this check; it has field"):
        check.numbers("2")
