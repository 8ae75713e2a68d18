"""Folded and spike-driven models against the models that they come from."""

import copy
import math

import pytest
import timm
import torch
from torch import nn
from trained import NORMS, VARIANTS, outputs, trained

from sterf_plugins.backbones import SDTV1, MaxFormer, MetaSDT, QKFormer, Spikformer
from sterf_plugins.deploy import SpikeDrivenLayer, reparameterize, to_spike_driven
from sterf_plugins.deploy.probe import compared_values, largest_error
from sterf_plugins.erf import calibrate
from sterf_plugins.layers import IntegerSpike
from sterf_plugins.stems import CovariantRFConv2d


@pytest.mark.parametrize("classes", [0, 7])
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.sweep
def test_folding_changes_nothing(name, classes):
    model = trained(classes, torch.float64, **VARIANTS[name])
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64) * torch.tensor([1.0, 4.0]).view(2, 1, 1, 1)
    before = copy.deepcopy(model.state_dict())
    folded = reparameterize(model)
    assert not [m for m in folded.modules() if isinstance(m, NORMS)]
    assert largest_error(outputs(folded, x), outputs(model, x)) < 1e-9
    assert "constants" not in compared_values(outputs(model, x[:1]), outputs(model, x[1:]))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_folding_in_single_precision():
    """In float32 a potential within rounding of a threshold may fire otherwise; most outputs agree to 1e-5."""
    model = trained(mixer="srb")
    x = torch.randn(2, 3, 64, 64)
    for ours, theirs in zip(outputs(reparameterize(model), x), outputs(model, x), strict=True):
        assert ((ours - theirs).abs() / theirs.abs().max()).median() < 1e-5


@pytest.mark.parametrize(
    "build",
    [
        lambda: Spikformer(2, 32, 4),
        lambda: SDTV1(2, 32, 4),
        lambda: QKFormer(4, 64, 4),
        lambda: MetaSDT((8, 16, 32, 48), 4),
        lambda: MaxFormer(4, 64, 4),
    ],
    ids=["spikformer", "sdtv1", "qkformer", "meta_sdt", "max_former"],
)
@pytest.mark.slow
@pytest.mark.sweep
def test_folding_the_other_models(build):
    torch.manual_seed(0)
    model = build().double()
    calibrate(model, torch.randn(4, 3, 64, 64, dtype=torch.float64))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    folded = reparameterize(model)
    assert largest_error(outputs(folded, x), outputs(model, x)) < 1e-9
    assert "constants" not in compared_values(outputs(model, x), outputs(model, x.flip(0, 3)))
    left = [name for name, m in folded.named_modules() if isinstance(m, NORMS)]
    assert all(name.endswith("bn1.bn") for name in left)  # inside of a BorderedBatchNorm


def test_activations_that_overwrite():
    """Behind the norm they do not matter; between layer and norm there is no pair."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    stock = timm.create_model("resnet10t", num_classes=3).eval()
    for module in stock.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
    folded = reparameterize(stock, x)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        assert largest_error(folded(x), stock(x)) < 1e-5
    between = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(4)).eval()
    nn.init.normal_(between[2].running_mean)
    with pytest.raises(ValueError, match="no BatchNorm behind"):
        reparameterize(between, x)


READERS = {
    "itself": lambda y: y,
    "detached": lambda y: y.detach(),
    "compared": lambda y: (y > 0).to(y.dtype),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_layer_with_another_reader_keeps_its_norm(reader):
    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.conv2, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            return self.bn2(self.conv2(READERS[reader](y) + self.bn(y)))

    torch.manual_seed(0)
    model, x = Shortcut().eval(), torch.randn(2, 3, 8, 8)
    nn.init.normal_(model.bn.running_mean)
    folded = reparameterize(model, x)
    assert isinstance(folded.bn, nn.BatchNorm2d) and isinstance(folded.bn2, nn.Identity)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x))


@pytest.mark.parametrize(
    "name",
    [
        "resnet10t",
        "tf_efficientnet_lite0",
        "mobilenetv3_small_050",
        "regnetx_002",
        "densenet121",
        "legacy_xception",
        "resnetv2_18",
    ],
)
@pytest.mark.slow
@pytest.mark.sweep
def test_stock_models_of_timm(name):
    """Their norms have activations of their own, and statistics that are not those of a new model."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3).eval()
    for module in model.modules():
        if isinstance(module, NORMS):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.running_mean, 0, 0.1)
    x = torch.randn(2, 3, 64, 64)
    folded = reparameterize(model, x)
    norms = [sum(isinstance(m, NORMS) for m in net.modules()) for net in (model, folded)]
    in_front = any(family in name for family in ("densenet", "resnetv2"))  # their norms stand in front of the layers
    assert norms[1] < (0.6 if in_front else 0.2) * norms[0]
    expected = outputs(copy.deepcopy(model).double(), x.double())
    assert (expected[0] - expected[1]).abs().max() > 1e-6 * expected.abs().max()  # not a constant
    assert largest_error(outputs(copy.deepcopy(folded).double(), x.double()), expected) < 1e-5
    assert {p.dtype for p in folded.parameters()} == {torch.float32}


def test_weights_that_are_computed_anew_keep_their_norm():
    """A standardised weight cannot be scaled: the layer would standardise it again."""
    from timm.layers import StdConv2d

    torch.manual_seed(0)
    model = nn.Sequential(StdConv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
    for norm in (model[1], model[3]):
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    x = torch.randn(2, 3, 8, 8)
    folded = reparameterize(model, x)
    assert isinstance(folded[1], nn.BatchNorm2d) and isinstance(folded[3], nn.Identity)
    assert largest_error(outputs(folded, x), outputs(model, x)) < 1e-5


def test_covariant_convolutions():
    """The norm behind one is folded into its kernels; not where it sums its channels first, or runs on a sequence."""

    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm = CovariantRFConv2d(3, 4, bias=True), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(self.stem(x[None])[0])

    torch.manual_seed(0)
    sums = CovariantRFConv2d(4, mode="aggregate")
    model = nn.Sequential(CovariantRFConv2d(3, 4, bias=True), nn.BatchNorm2d(4), sums, nn.BatchNorm2d(sums.out_ch))
    model.append(nn.Conv2d(sums.out_ch, 3, 1)).append(nn.BatchNorm2d(3)).append(Sequence()).eval()
    for norm in (module for module in model.modules() if isinstance(module, NORMS)):
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.normal_(norm.running_mean)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    folded = reparameterize(model, x)
    assert [type(layer).__name__ for layer in folded[:4]] == ["Conv2d", "Identity", "CovariantRFConv2d", "BatchNorm2d"]
    assert isinstance(folded[6].norm, nn.BatchNorm2d)
    assert largest_error(outputs(folded.double(), x), outputs(model.double(), x)) < 1e-5


class Views(nn.Module):
    """A convolution and a linear layer with norms behind them that see other axes, or that have no statistics."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.groups, self.of_groups = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(4)
        self.batch, self.of_batch = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)
        self.linear, self.of_tokens = nn.Linear(8, 6), nn.BatchNorm1d(16)

    def forward(self, x):
        x = self.norm(self.conv(x))
        x = self.of_groups(self.groups(x).view(-1, 4, *x.shape[2:])).view_as(x)
        x = self.of_batch(self.batch(x))
        return self.of_tokens(self.linear(x.flatten(2).mT))


def test_norms_over_other_axes_or_without_statistics_stay():
    torch.manual_seed(0)
    model, x = Views().train(), torch.randn(2, 3, 4, 4)
    model(x)
    folded = reparameterize(model, x)
    assert isinstance(folded.norm, nn.Identity)
    assert all(
        isinstance(n, nn.BatchNorm1d | nn.BatchNorm2d) for n in (folded.of_groups, folded.of_batch, folded.of_tokens)
    )
    assert largest_error(folded(x), model.eval()(x)) < 1e-5


class Silent(nn.Module):
    """A pair of layer and norm that sees only spikes of silent neurons, and a pair that sees the image."""

    def __init__(self, layer, read):
        super().__init__()
        self.spike, self.conv, self.bn, self.read = IntegerSpike(), layer, nn.BatchNorm2d(3), read
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(self.spike(x))
        return self.read(y, self.bn(y)) + self.bn2(self.conv2(x))


@pytest.mark.parametrize("case", ["another reader", "a weight that is computed anew", "nothing against it"])
def test_silence_proves_nothing(case):
    """All that a silent neuron feeds is constant on the example, but not on other inputs."""
    from timm.layers import StdConv2d

    torch.manual_seed(0)
    layer = (StdConv2d if case == "a weight that is computed anew" else nn.Conv2d)(3, 3, 1, bias=False)
    model = Silent(layer, torch.add if case == "another reader" else lambda y, z: z).eval()
    for norm in (model.bn, model.bn2):
        nn.init.uniform_(norm.running_var, 0.2, 0.5)
    folded = reparameterize(model, -torch.rand(2, 3, 8, 8))
    assert isinstance(folded.bn2, nn.Identity)
    assert isinstance(folded.bn, nn.Identity) == (case == "nothing against it")
    x = torch.randn(2, 3, 8, 8) * 3
    torch.testing.assert_close(outputs(folded, x), outputs(model, x))


def test_neurons_with_a_state():
    """Each pass of the proof starts from rest, and the folded model keeps nothing of it."""
    from spikingjelly.activation_based import layer, neuron

    torch.manual_seed(0)
    options = dict(step_mode="m")
    model = nn.Sequential(
        layer.Conv2d(3, 4, 3, **options), layer.BatchNorm2d(4, **options), neuron.LIFNode(**options),
        layer.Conv2d(4, 5, 1, **options), layer.BatchNorm2d(5, **options),
    ).eval()  # fmt: skip
    for norm in (model[1], model[4]):
        nn.init.uniform_(norm.running_var, 0.01, 0.02)
    folded = reparameterize(model, torch.randn(4, 1, 3, 8, 8))
    assert not [m for m in folded.modules() if isinstance(m, NORMS)]
    x = torch.randn(3, 2, 3, 9, 9)
    assert compared_values(outputs(model, x), outputs(model, x.flip(4)))
    model[2].reset()
    torch.testing.assert_close(outputs(folded, x), outputs(model, x))


def test_a_layer_that_is_called_by_keyword_keeps_its_norm():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.conv2, self.bn2 = (*pair(), *pair())

        def forward(self, x):
            return self.bn2(self.conv2(self.bn(self.conv(input=x))))

    pair = lambda: (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))  # noqa: E731
    folded = reparameterize(Model().eval(), torch.randn(1, 3, 4, 4))
    assert isinstance(folded.bn, nn.BatchNorm2d) and isinstance(folded.bn2, nn.Identity)


def test_a_compiled_model_is_not_compiled_for_each_hook():
    """With the default backend it took a minute."""
    graphs = []
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), IntegerSpike(), nn.Conv2d(4, 4, 1)).eval()
    compiled = torch.compile(model, backend=lambda graph, example: graphs.append(graph) or graph.forward)
    x = 9 * torch.randn(2, 3, 4, 4)
    folded, driven = reparameterize(compiled, x), to_spike_driven(compiled, x)
    assert not graphs
    assert isinstance(folded._orig_mod[1], nn.Identity) and isinstance(driven._orig_mod[3], SpikeDrivenLayer)
    assert compared_values(outputs(model, x), outputs(model, x.flip(3)))
    torch.testing.assert_close(outputs(driven, x), outputs(model, x))


def test_a_detector_of_two_stages():
    """It does not run on images alone; `forward` says what runs."""

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
            self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

        def extract_feat(self, x):
            return [self.backbone(x)]

        def forward(self, x, sizes):
            return self.head(self.extract_feat(x)[0])[:, :, : sizes[0]]

    torch.manual_seed(0)
    model, x = Detector().eval(), torch.randn(2, 3, 8, 8)
    nn.init.normal_(model.backbone[1].running_mean)
    folded = reparameterize(model, x, forward=lambda model, x: model.extract_feat(x))
    assert isinstance(folded.backbone[1], nn.Identity) and isinstance(folded.head[1], nn.BatchNorm2d)
    torch.testing.assert_close(folded(x, [4]), model(x, [4]))


def test_errors_of_outputs():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])
    assert largest_error([a, b], [a, a]) == 0.25
    for broken in ([a, a * math.nan], [a * math.nan, a]):  # wherever it stands
        assert math.isnan(largest_error(broken, [a, a]))
    assert largest_error(a[:1], a) == math.inf  # and not broadcast


def test_constants_are_no_proof():
    a, b = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5])
    assert compared_values(a, b) == "of values up to 2"
    assert compared_values([a, a], [b, a]) == "of values up to 2; 1 of 2 outputs are constants, which prove nothing"
    assert compared_values(a[:1], b[:1]) == "of values up to 1"
    for one, other in ((a, a), (a * 0, b), (torch.ones(3), torch.zeros(3))):
        with pytest.raises(ValueError, match=r"constants .* would prove nothing"):
            compared_values(one, other)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reparameterize(nn.Sequential(nn.Conv2d(3, 4, 1))), "give `example`"),
        (lambda: reparameterize(nn.Sequential(nn.Conv2d(3, 4, 1)), torch.randn(1, 3, 4, 4)), "no BatchNorm behind"),
        (
            lambda: reparameterize(nn.Sequential(nn.ReLU()), torch.randn(1, 3, 4, 4)),
            "is a Sequential without parameters",
        ),
        (lambda: to_spike_driven(nn.Sequential(nn.Conv2d(3, 4, 1)), torch.randn(1, 3, 4, 4)), "no integer spikes"),
        (
            lambda: to_spike_driven(
                nn.Sequential(nn.Conv2d(3, 4, 1), IntegerSpike(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)),
                torch.randn(1, 3, 4, 4),
            ),
            "layer '3' is not fed by integer spikes",
        ),
        (
            lambda: reparameterize(nn.Conv2d(3, 4, 1), torch.randn(1, 3, 4, 4), tolerance=-1),
            r"`tolerance` is -1; it must",
        ),
        (lambda: reparameterize(nn.Conv2d(3, 4, 1, device="meta"), torch.randn(1, 3, 4, 4)), "is a Conv2d on the meta"),
        (
            lambda: to_spike_driven(nn.Conv2d(3, 4, 1, device="meta"), torch.randn(1, 3, 4, 4)),
            "is a Conv2d on the meta",
        ),
    ],
)
def test_what_cannot_be_converted(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("convert", [reparameterize, to_spike_driven])
@pytest.mark.parametrize("example", [3, [torch.zeros(1, 3, 4, 4)], (torch.zeros(1, 3, 4, 4), None)])
def test_an_example_is_a_tensor_or_a_tuple_of_them(convert, example):
    with pytest.raises(TypeError, match=r"`example` is a .*; it must be a tensor, or a tuple that"):
        convert(nn.Conv2d(3, 4, 1), example)


@pytest.mark.slow
def test_a_tracker_is_folded_by_a_pair_of_images():
    from sterf_plugins.tracking import SDTrack

    torch.manual_seed(0)
    tracker = SDTrack(dict(embed_dims=(8, 8, 16, 16), num_heads=2), head_width=16).double()
    pair = tuple(30 * torch.poisson(torch.full((2, 3, side, side), 0.4)).double() for side in (64, 128))
    for module in tracker.modules():
        if isinstance(module, NORMS):
            module.momentum = None  # one pass gives its statistics
    tracker.train()(*pair)
    folded = reparameterize(tracker.eval(), pair)
    left = [name for name, module in folded.named_modules() if isinstance(module, NORMS)]
    assert left == ["backbone.stages.4.downsample.bn"]  # it runs three times, on template, search region and padding
    assert largest_error(folded(*pair), tracker(*pair)) < 1e-9
