"""Published protocols against their definitions, written out here image by image, and against the package openerf."""

import numpy as np
import pytest
import torch
from torch import nn

from sterf_plugins.erf import ERFResult, area_ratio, compute_erf
from sterf_plugins.erf.figures.wording import layer_label
from sterf_plugins.erf.protocols import PROTOCOLS, table

LARGE_KERNELS = ("replknet", "slak", "vmamba")


class SignedNet(nn.Sequential):
    """A few channels of either sign, so that rectifying before or after a sum makes a difference."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 8, 5, padding=2),
            nn.Tanh(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Conv2d(8, 6, 5, padding=2),
        )


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(5, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 3


def by_definition(protocol: str, model: nn.Module, images: torch.Tensor) -> np.ndarray:
    maps = []
    for image in images:
        x = image[None].clone().requires_grad_()
        y = model(x)
        y = y[0, :, y.shape[2] // 2, y.shape[3] // 2]
        (g,) = torch.autograd.grad((y.relu() if protocol in LARGE_KERNELS else y).sum(), x)
        if protocol == "st-erf":
            g = g[0].abs().mean(0)
        elif protocol == "luo":
            g = g[0].mean(0)
        elif protocol == "openerf":
            g = g[0].mean(0).clamp(min=0)
        else:
            g = g[0].relu().sum(0)
        maps.append(g.double().numpy())
    return np.mean(maps, axis=0)


def shown_by_definition(protocol: str, field: np.ndarray) -> np.ndarray:
    if protocol == "st-erf":
        return field
    if protocol == "openerf":
        return field / field.sum()
    if protocol == "replknet":
        field = np.log10(field + 1)
    if protocol == "vmamba":
        field = np.power(field, 0.2)
    if protocol == "luo":
        field = np.where(field > 0, field, 0)
    return field / np.max(field)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_fields_are_those_of_the_definition(protocol, images):
    model = SignedNet()
    expected = by_definition(protocol, model, images)
    result = compute_erf(model, images, "4", protocol=protocol)
    assert np.abs(result.spatial["4"] - expected).max() < 1e-6 * np.abs(expected).max()
    shown = shown_by_definition(protocol, expected)
    assert np.allclose(result.published_map("4"), shown, atol=1e-5 * shown.max())


@pytest.mark.slow
def test_all_protocols_take_two_backward_passes(images):
    passes = []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            passes.append(1)
            return gradient

    class CountedNet(SignedNet):
        def forward(self, x):
            return super().forward(Counted.apply(x))

    model = CountedNet()
    result = compute_erf(model, images, ["2", "4"], protocol="all", batch_size=5)
    assert len(passes) == 2 * len(["2", "4"])
    assert result.layers == [f"{layer}@{name}" for layer in ("2", "4") for name in PROTOCOLS]
    for name in PROTOCOLS:
        alone = compute_erf(model, images, ["2", "4"], protocol=name, batch_size=5)
        for layer in alone.layers:
            assert np.array_equal(result.spatial[f"{layer}@{name}"], alone.spatial[layer])
            ours, theirs = result.numbers(f"{layer}@{name}"), alone.numbers(layer)
            assert ours.keys() == theirs.keys()
            assert [n.value for n in ours.values()] == pytest.approx([n.value for n in theirs.values()], nan_ok=True)
    areas = [result.area_ratio(f"4@{name}", 0.9) for name in ("st-erf", "luo", "replknet", "openerf")]
    assert min(abs(a - b) for i, a in enumerate(areas) for b in areas[:i]) > 0.005
    lines = table(result).splitlines()
    assert all(
        str(result.numbers(layer)["area_90"]) in line for layer, line in zip(result.layers, lines[1:], strict=True)
    )
    result.layers = [f"a.layer.with.a.long.name@{name}" for name in ("st-erf", "luo")]
    for fields in (result.spatial, result._numbers):
        fields.update({new: fields[f"4@{new.rpartition('@')[2]}"] for new in result.layers})
    assert len({line.index(" 0.") for line in table(result).splitlines()[1:]}) == 1
    assert len(lines) == 13 and all("square_side_50" in line for line in lines if " replknet " in line)


def test_squares_of_the_log_map(images):
    result = compute_erf(SignedNet(), images * 0.3, "4", protocol="replknet")
    data = np.log10(result.spatial["4"].astype(float) + 1)
    numbers = result.numbers("4")
    for share in (20, 30, 50, 99):
        for i in range(1, 12):
            if data[12 - i : 13 + i, 12 - i : 13 + i].sum() / data.sum() > share / 100:
                break
        assert numbers[f"square_side_{share}"].value == 2 * i + 1
        assert numbers[f"square_area_{share}"].value == pytest.approx((2 * i + 1) ** 2 / 24**2)
        assert numbers[f"square_side_{share}"].error >= 2 / 12**0.5  # sides are odd
        assert numbers[f"square_area_{share}"].error > 0
    # The logarithm depends on the scale: a larger field is flatter on it.
    assert PROTOCOLS["replknet"].numbers(result.spatial["4"] * 1000)["square_side_50"] > numbers["square_side_50"].value
    corner = np.zeros((24, 24))
    corner[0, 0] = 1
    assert np.isnan(PROTOCOLS["slak"].numbers(corner)["square_side_99"])


@pytest.mark.parametrize("scale", [1e-4, 1e-9, 1e-20])
def test_the_log_of_a_field_that_is_small_beside_one_is_the_field(scale):
    field = np.outer(np.hanning(24), np.hanning(24)).astype(np.float32)
    replknet = PROTOCOLS["replknet"]
    small = (field * scale).astype(np.float32)
    assert np.allclose(replknet.picture(small), field / field.max(), atol=1e-4)
    assert replknet.numbers(small) == replknet.numbers(field * 1e-4)


def test_a_size_in_whole_pixels_is_no_surer_than_one_of_them(images):
    same = images[:1].expand(5, -1, -1, -1)
    number = compute_erf(SignedNet(), same, "4", protocol="luo").numbers("4")["luo_size"]
    assert number.error == pytest.approx(1 / (2 * number.value) / 12**0.5, rel=0.05)


def test_size_is_the_root_of_the_area_above_two_standard_deviations():
    row = np.exp(-(np.arange(-30, 31) ** 2) / (2 * 5.0**2))
    radius = 5 * np.sqrt(-2 * np.log(1 - 0.9545))  # where the Gaussian falls to 4.55 %
    assert PROTOCOLS["luo"].numbers(np.outer(row, row))["luo_size"] == pytest.approx(np.sqrt(np.pi) * radius, rel=0.01)
    signed = np.outer(row, row) - 0.01
    assert PROTOCOLS["luo"].numbers(signed)["positive_area_90"] == area_ratio(np.maximum(signed, 0), 0.9)


def test_gaussian_and_radii_of_a_known_gaussian():
    y, x = np.mgrid[:81, :101]
    field = np.exp(-(((y - 42) / 6.0) ** 2) / 2 - (((x - 48.5) / 11.0) ** 2) / 2)
    numbers = PROTOCOLS["openerf"].numbers(field)
    assert numbers["openerf_sigma_x"] == pytest.approx(11, abs=1e-2)
    assert numbers["openerf_sigma_y"] == pytest.approx(6, abs=1e-2)
    inside = (y - 40) ** 2 + (x - 50) ** 2 <= 20**2
    assert numbers["openerf_mass_20"] == pytest.approx(field[inside].sum() / field.sum())


def test_a_time_axis_is_summed_over(images):
    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = SignedNet()

        def forward(self, x):  # (T, B, C, H, W)
            return self.net(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    x = torch.stack([images, images * 0.5])
    result = compute_erf(Held(), x, "net.4", protocol="replknet")
    assert not result.temporal
    leaf = x.clone().requires_grad_()
    y = Held()(leaf)[..., 3 * 2, 3 * 2].relu().sum()
    (g,) = torch.autograd.grad(y, leaf)
    expected = g.sum(0).relu().sum(1).mean(0).numpy() / 2
    assert np.allclose(result.spatial["net.4"], expected, atol=1e-6 * expected.max())


def test_each_entry_of_an_input_has_its_fields(images):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.join = SignedNet(), nn.Conv2d(12, 6, 1)

        def forward(self, search, template):
            return self.join(torch.cat([self.net(search), self.net(template)], 1))

    model, template = Pair(), images.flip(0) * 0.5
    result = compute_erf(model, dict(search=images, template=template), "join", protocol="all")
    assert result.layers == [f"join@{entry}@{name}" for entry in ("search", "template") for name in PROTOCOLS]
    leaves = [images.clone().requires_grad_(), template.clone().requires_grad_()]
    centre = model(*leaves)[..., 6, 6]
    for total, protocol in ((centre.sum(), "openerf"), (centre.relu().sum(), "slak")):
        for entry, g in zip(("search", "template"), torch.autograd.grad(total, leaves, retain_graph=True), strict=True):
            g = g.relu().sum(1) if protocol == "slak" else g.mean(1).relu()
            expected = g.mean(0).numpy()
            assert np.allclose(result.spatial[f"join@{entry}@{protocol}"], expected, atol=1e-6 * expected.max())


CONTRADICTIONS = {
    "reduce": (
        dict(protocol="replknet", reduce="abs"),
        "`reduce` is 'abs', but protocol 'replknet' (RepLKNet) has 'relu'",
    ),
    "channels": (dict(protocol="luo", channels=8), "`channels` is 8, but protocol 'luo' (Luo et al.) has 'sum'"),
    "position": (dict(protocol="openerf", position="all"), "`position` is 'all', but protocol 'openerf' (OpenERF)"),
    "aggregate": (dict(protocol="st-erf", aggregate="median"), "`aggregate` is 'median', but protocol 'st-erf'"),
    "normalize": (dict(protocol="slak", normalize="max"), "`normalize` is 'max', but protocol 'slak' (SLaK) has None"),
    "kinds": (dict(protocol="vmamba", kinds="temporal"), "`kinds` is 'temporal', but protocol 'vmamba' (VMamba)"),
    "time": (dict(protocol="replknet", time="each"), "`time` is 'each', but protocol 'replknet' (RepLKNet)"),
    "all": (dict(protocol="all", reduce="signed"), "`reduce` is 'signed', but protocol 'st-erf' (ST-ERF) has 'abs'"),
    "unknown": (dict(protocol="Luo"), "`protocol` is 'Luo'; allowed: "),
}


@pytest.mark.parametrize("options, message", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictions_are_refused(options, message, images):
    with pytest.raises(ValueError) as error:
        compute_erf(SignedNet(), images, "4", **options)
    assert message in str(error.value)


def test_the_protocol_is_named_in_the_result_and_its_file(images, tmp_path):
    model = SignedNet()
    assert compute_erf(model, images, "4").info["protocol"] == "st-erf"
    assert compute_erf(model, images, "4", reduce="signed").info["protocol"] is None
    agreeing = compute_erf(model, images, "4", protocol="luo", reduce="signed", channels="sum", position="center")
    assert (agreeing.info["protocol"], agreeing.info["reduce"], agreeing.info["channels"]) == ("luo", "signed", "sum")
    with pytest.raises(ValueError, match="follows no published protocol"):
        compute_erf(model, images, "4", reduce="square").published_map("4")
    for protocol in ("replknet", "all"):
        result = compute_erf(model, images, "4", protocol=protocol)
        loaded = ERFResult.load(result.save(tmp_path / f"{protocol}.npz"))
        assert loaded.info["protocol"] == protocol and loaded.notes == result.notes
        for layer in result.layers:
            assert np.array_equal(loaded.published_map(layer), result.published_map(layer))
            assert loaded.numbers(layer).keys() == result.numbers(layer).keys()
    replknet = compute_erf(model, images, "4", protocol="replknet")
    assert replknet.notes == ["protocol RepLKNet; the paper has 50 inputs of 1024×1024"]


def test_rounding_noise_is_marked_by_protocol(images):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.norm = SignedNet(), nn.LayerNorm(6)

        def forward(self, x):
            return self.norm(self.net(x).movedim(1, -1))

    result = compute_erf(Normed(), images, "norm", protocol="all")
    marked = [line.split(":")[0] for line in result.warnings if "rounding noise" in line]
    assert marked == ["norm@luo", "norm@openerf"] == [name for name in result.layers if result.doubtful(name)]
    assert layer_label(result, "norm@luo").endswith(" †") and not layer_label(result, "norm@slak").endswith("†")
    assert (
        "† the sum of the channels is constant, and this is rounding noise, in norm@luo, norm@openerf" in result.notes
    )
    assert [note for note in result.notes if "random projections" in note and "norm@st-erf" in note]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("photographs")
    pixels = np.random.default_rng(0).integers(0, 255, (3, 60, 80, 3), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    "name, options, layer",
    [
        ("resnet10t", dict(), "layer3"),
        ("vit_tiny_patch16_224", dict(depth=2, embed_dim=48, num_heads=2), "blocks.1"),  # an even grid: 14 x 14
    ],
)
@pytest.mark.slow
def test_openerf_is_the_package_openerf(name, options, layer, photographs):
    openerf = pytest.importorskip("openerf", reason="the package openerf is a development extra: pip install '.[dev]'")
    import timm
    from openerf.data import FlatImageDataset, build_timm_eval_transform

    torch.manual_seed(0)
    model = timm.create_model(name, **options).eval()
    theirs = openerf.compute_erf(model, name, photographs, target_layer=layer, device="cpu", show_progress=False)
    transform, _ = build_timm_eval_transform(model)
    x = torch.stack([image for image, _ in FlatImageDataset(photographs, transform)])
    for protocol, label in (("openerf", layer), ("all", f"{layer}@openerf")):
        result = compute_erf(model, x, layer, protocol=protocol, calibrate=False)
        assert np.abs(result.published_map(label) - theirs.erf_map).max() < 1e-6 * theirs.erf_map.max()
    radial = openerf.metrics.compute_erf_metrics(theirs.erf_map)["radial_cumulative_mass"]
    for radius, mass in radial.items():
        assert result.numbers(label)[f"openerf_mass_{radius}"].value == pytest.approx(mass, rel=1e-5)
    field, grid = result.spatial[label], result.info["map_size"][label]
    row, column = (
        (n - 1) // 2 if layer == "blocks.1" else n // 2 for n in grid
    )  # of tokens, the upper left of the middle
    high, wide = (n // m for n, m in zip(field.shape, grid, strict=True))
    target = field[row * high : (row + 1) * high, column * wide : (column + 1) * wide]
    mass = target.sum() / field.sum()  # the number is corrected for its bias with three images, by about a hundredth
    assert result.numbers(label)["centre_mass"].value == pytest.approx(mass, rel=0.05)
    assert target.max() == field.max()


def test_openerf_fits_as_the_package_does():
    fit = pytest.importorskip("openerf.fit", reason="the package openerf is a development extra: pip install '.[dev]'")
    pytest.importorskip("lmfit", reason="openerf fits its Gaussian with lmfit, an extra of its own")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    field = np.exp(-(((y - 30) / 7.0) ** 2) / 2 - (((x - 34) / 9.0) ** 2) / 2) * rng.uniform(0.2, 1, (64, 64))
    theirs, ours = fit.fit_2d_gaussian(field), PROTOCOLS["openerf"].numbers(field)
    assert ours["openerf_sigma_x"] == pytest.approx(theirs.sigma_x, rel=1e-3)
    assert ours["openerf_sigma_y"] == pytest.approx(theirs.sigma_y, rel=1e-3)


def test_a_field_without_a_positive_pixel_has_no_size(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    with torch.no_grad():
        model[0].weight.copy_(-model[0].weight.abs())
    result = compute_erf(model, images, "0", protocol="all")
    numbers = result.numbers("0@luo")
    assert (
        np.isnan([numbers[name].value for name in ("luo_size", "positive_area_90")]).all()
        and numbers["area_90"].value > 0
    )
    assert not result.published_map("0@luo").any()
    assert " luo " in table(result) and "0@openerf" in result.failed


@pytest.mark.parametrize("protocol", ["replknet", "openerf", "luo"])
def test_one_input_alone_has_a_field(protocol, images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU())
    some = images.clone()
    some[1:] = 0
    numbers = compute_erf(model, some, "1", protocol=protocol).numbers("1")
    assert np.isfinite(numbers["area_90"].value) and np.isnan(numbers["area_90"].error)


def test_a_signal_has_no_width_across():
    numbers = PROTOCOLS["openerf"].measured(np.exp(-((np.arange(64) - 30) ** 2) / 18)[None])
    assert np.isnan(numbers["openerf_sigma_y"]) and numbers["openerf_sigma_x"] == pytest.approx(3, rel=1e-3)


def test_kinds_beside_a_protocol_are_any_iterable_of_names(images):
    assert compute_erf(SignedNet(), images, "4", protocol="luo", kinds=iter(["spatial"])).layers == ["4"]
    with pytest.raises(TypeError, match=r"`kinds` is 3 \(int\); it must be a list or tuple"):
        compute_erf(SignedNet(), images, "4", protocol="luo", kinds=3)
