"""Theoretical fields against closed formulas, published numbers, and changes of single pixels."""

from math import inf

import numpy as np
import pytest
import timm
import torch
from torch import nn

from sterf_plugins.erf import advice, compute_erf, theoretical_rf
from sterf_plugins.erf.theory.dependence import dependence
from sterf_plugins.erf.theory.field import TheoreticalField, add_theory, theory_of


def formula(layers: nn.Sequential) -> list[tuple[int, int, int]]:
    """Size, stride and padding behind each layer of a plain stack, after Araujo et al. 2019."""
    size, stride, padding, found = 1, 1, 0, []
    for layer in layers:
        k, s, p, d = (getattr(layer, name, default) for name, default in
                      (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)))  # fmt: skip
        k, s, p, d = (v[0] if isinstance(v, tuple) else v for v in (k, s, p, d))
        size, padding, stride = size + d * (k - 1) * stride, padding + p * stride, stride * s
        found.append((size, stride, padding))
    return found


STACKS = {
    "convolutions": [nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 5, stride=2, padding=2)],
    "no padding": [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 4, stride=2), nn.MaxPool2d(3, 2)],
    "dilation": [nn.Conv2d(1, 2, 3, padding=2, dilation=2), nn.Conv2d(2, 1, 3, padding=9, dilation=9)],
    "pooling": [
        nn.MaxPool2d(3, 2, 1),
        nn.AvgPool2d(2),
        nn.Conv2d(1, 1, 3, padding=1),
        nn.MaxPool2d(3, 1, 1, dilation=1),
    ],
    "dilated pooling": [nn.MaxPool2d(3, 1, 1, dilation=2), nn.MaxPool2d(2, 2, ceil_mode=True)],
    "strides": [nn.Conv2d(1, 2, 7, 2, 3), nn.MaxPool2d(3, 2, 1), *[nn.Conv2d(2, 2, 3, 2, 1) for _ in range(3)]],
    "strides of 5 and 3": [nn.Conv2d(1, 1, 5, 5), nn.Conv2d(1, 1, 3, 3, 1), nn.Conv2d(1, 1, 5, padding=2)],
    "beyond the image": [nn.Conv2d(1, 1, 31, padding=15), nn.Conv2d(1, 1, 31, 2, 15), nn.Conv2d(1, 1, 31, padding=15)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("image", [(64, 64), (45, 70)])
def test_stacks_have_the_fields_of_the_closed_formula(name, image):
    model = nn.Sequential(*STACKS[name])
    fields = theoretical_rf(model, image, "*", in_channels=1)
    for field, (size, stride, padding) in zip(fields.values(), formula(model), strict=True):
        assert field.size == (size, size) and field.stride == (stride, stride)
        assert field.padding == (padding, padding)
        assert field.centre[0] == pytest.approx((size - 1) / 2 - padding)


def test_padding_inside_a_small_network_cuts_off_nothing():
    """Of the two rows of the last map, the lower one sees two of the three rows that it would see in a larger image."""
    model = nn.Sequential(nn.Conv2d(1, 1, 4, 4), nn.Conv2d(1, 1, 9, padding=1), nn.AvgPool2d(3, 4, 1))
    field = theoretical_rf(model, (45, 60), "2", in_channels=1)["2"]
    assert (field.size, field.stride, field.padding) == ((44, 44), (16, 16), (8, 8))


@pytest.mark.parametrize(("cells", "size", "padding"), [(2, 14, 1), (3, 10, 1)])
def test_adaptive_pooling_has_the_fields_that_it_has_in_this_image(cells, size, padding):
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.AdaptiveAvgPool2d(cells))
    field = theoretical_rf(model, (24, 24), "*", in_channels=1)["1"]
    assert (field.size, field.stride, field.padding) == ((size,) * 2, (24 / cells,) * 2, (padding,) * 2)


def test_adaptive_pooling_that_does_nothing_changes_no_field():
    layers = [nn.Conv2d(1, 1, 5, 4, 1), nn.Conv2d(1, 1, 3, padding=1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(6))  # of 6 x 6, of an image of 26 pixels
    fields = theoretical_rf(model, (26, 26), "*", in_channels=1)
    assert fields["2"] == fields["1"] and (fields["1"].size, fields["1"].stride) == ((13, 13), (4, 4))


def test_strides_behind_an_upsampling_are_even():
    """Maps of 50 cells, so that the output in the middle and one near the edge lie differently in their pairs."""
    model = nn.Sequential(nn.Conv2d(1, 1, 2, 2, 1), nn.Upsample(scale_factor=2), nn.Identity())
    field = theoretical_rf(model, (48, 48), "2", in_channels=1, layout="BCHW")["2"]
    assert field.stride == (1, 1)
    model = nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), nn.ConvTranspose2d(1, 1, 5, 3, 2))
    assert theoretical_rf(model, (60, 60), "1", in_channels=1)["1"].stride == pytest.approx((2 / 3, 2 / 3), abs=1e-12)


@pytest.mark.parametrize("pooling", [nn.AvgPool2d, nn.MaxPool2d])
def test_poolings_may_be_as_uneven_as_convolutions(pooling):
    """Their maps have the ratio of no image, and rows and columns behind the channels all the same."""
    fields = theoretical_rf(nn.Sequential(pooling((2, 3), (3, 1), (0, 1))), (39, 42), "0")
    assert (fields["0"].size, fields["0"].stride, fields["0"].padding) == ((2, 3), (3, 1), (0, 1))


def test_signals_have_fields_of_one_row():
    layers = [nn.Conv1d(2, 4, 5, 2, 2), nn.ReLU(), nn.Conv1d(4, 4, 3, padding=2, dilation=2), nn.Conv1d(4, 4, 3)]
    fields = theoretical_rf(nn.Sequential(*layers), (1, 128), "*", in_channels=2, axes="NCL")
    found = {name: (field.size, field.stride, field.padding) for name, field in fields.items()}
    assert found["0"] == ((1, 5), (1, 2), (0, 2)) and found["2"] == ((1, 13), (1, 2), (0, 6))
    assert found["3"] == ((1, 17), (1, 2), (0, 6))
    with pytest.raises(ValueError, match=r"signals .* have one row: give"):
        theoretical_rf(nn.Sequential(*layers), (8, 128), axes="NCL")
    # The convolutions of wav2vec 2.0, whose stride divides none of the lengths at which fields are measured.
    steps = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
    field = theoretical_rf(
        nn.Sequential(*[nn.Conv1d(1, 1, *step) for step in steps]), (1, 4000), "6", in_channels=1, axes="NCL"
    )
    assert field["6"].size == (1, 400) and field["6"].stride == (1, 320) and field["6"].padding == (0, 0)


def test_rows_and_columns_are_told_apart():
    field = theoretical_rf(nn.Sequential(nn.Conv2d(3, 1, (1, 9), (1, 2), (0, 4))), (32, 48), "0")["0"]
    assert (field.size, field.stride, field.padding) == ((1, 9), (1, 2), (0, 4))
    assert field.area == 9 / (32 * 48)


class Everything(nn.Module):
    """Residual branches, a shared layer, up and down, transposed and dilated, with nothing that is ever zero."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Conv2d(1, 1, 3, padding=1)
        self.down = nn.Conv2d(1, 1, (5, 3), 2, (2, 1))
        self.up = nn.ConvTranspose2d(1, 1, 4, 2, 1)
        self.holes = nn.Conv2d(1, 1, 3, padding=4, dilation=4)
        self.act = nn.LeakyReLU(0.3)

    def forward(self, x):
        x = self.act(self.shared(x) + x)
        y = self.up(self.down(self.shared(x)))
        return self.holes(nn.functional.interpolate(y, scale_factor=2, mode="bilinear"))


def test_field_is_what_changes_when_single_pixels_change():
    model = Everything().double().eval()
    x = torch.randn(1, 1, 24, 24, dtype=torch.float64)
    with dependence(model, [model.holes]):
        field = compute_erf(model, x, "holes", channels="sum").spatial["holes"]
    changed = x.repeat(24 * 24, 1, 1, 1)
    changed.view(24 * 24, -1).diagonal().add_(1.0)
    with torch.no_grad():
        change = (model(changed) - model(x))[:, 0, 24, 24].view(24, 24)
    assert 0.1 < (field > 0).mean() < 0.9
    assert np.array_equal(field > 0, change.abs().numpy() > 1e-12)


def test_a_layer_that_is_called_twice_has_two_fields():
    fields = theoretical_rf(Everything(), (64, 64), ["shared", "down"], in_channels=1)
    assert [f.size for f in fields.values()] == [(3, 3), (5, 5), (9, 7)]
    assert list(fields) == ["shared#0", "shared#1", "down"]


def test_a_field_is_no_smaller_than_what_the_output_in_the_middle_sees():
    """Two blocks of shifted windows, which at the edges of the image see 52 pixels, and 56 in the middle."""
    options = dict(embed_dim=8, depths=(2,), num_heads=(1,), window_size=7)
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, **options)
    field = theoretical_rf(model, (56, 56), "layers.0")["layers.0"]
    assert field.area == 1 and field.size == (56, 56) and field.padding == (28, 28)


@pytest.mark.slow
def test_known_networks():
    fields = theoretical_rf(timm.create_model("resnet18"), (64, 64))
    assert [f.size[0] for f in fields.values()] == [7, 43, 99, 211, 435]
    vit = timm.create_model("vit_tiny_patch16_224", depth=1)
    fields = theoretical_rf(vit, (224, 224), ["patch_embed", "blocks.0"])
    assert fields["patch_embed"] == TheoreticalField((16, 16), (16, 16), (0, 0), 256 / 224**2)
    assert fields["blocks.0"].size == (inf, inf)


@pytest.mark.slow
@pytest.mark.whole
def test_resnet50_in_both_versions():
    model = timm.create_model("resnet50")
    fields = theoretical_rf(model, (64, 64))
    assert [f.size[0] for f in fields.values()] == [7, 35, 91, 267, 427]
    for stage in (model.layer2, model.layer3, model.layer4):  # the original: its strides are in the first convolution
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    field = theoretical_rf(model, (64, 64), "layer4")["layer4"]
    assert (field.size[0], field.stride[0], field.padding[0]) == (
        483,
        32,
        241,
    )  # size and stride: Araujo et al., table 1


def test_beside_the_effective_field_and_in_files(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 1, 5, padding=2), nn.Conv2d(1, 1, 5, padding=2))
    result = compute_erf(model, torch.randn(12, 1, 32, 32), "*")
    fields = theoretical_rf(model, (32, 32), "*", in_channels=1)
    add_theory(result, fields)
    numbers = result.numbers("1")
    assert numbers["theory_rows"].value == 9 and numbers["theory_area"].value == 81 / 32**2
    assert numbers["used_90"].value == pytest.approx(numbers["area_90"].value * 32**2 / 81)
    assert numbers["used_90"].dof == numbers["area_90"].dof < 12
    loaded = type(result).load(result.save(tmp_path / "r.npz"))
    assert theory_of(loaded) == fields and loaded.numbers("1") == numbers


def test_advice():
    def field(size):
        return TheoreticalField((size, size), (1, 1), (0, 0), 1.0)

    lines = advice({"a": field(30), "b": field(30), "c": field(90), "d": field(200), "e": field(inf)}, (64, 80))
    text = " ".join(lines)
    assert "From c on, the field (90x90) exceeds the image (64x80)" in text
    assert "d: the layer before sees more than the image already" in text
    assert "b: the same field as the layer before" in text
    assert "Smallest useful image: 90 pixels" in text and "From e on, every output depends on the whole image" in text


def test_advice_for_images_that_are_no_square_and_for_parallel_branches():
    def field(height, width):
        return TheoreticalField((height, width), (1, 1), (0, 0), 1.0)

    fields = {"a": field(100, 100), "b": field(150, 150), "c": field(200, 200)}
    assert not any("exceeds" in line or "no context" in line for line in advice(fields, (64, 512)))
    assert advice(fields, (64, 120))[:2] == [
        "From b on, the field (150x150) exceeds the image (64x120).",
        "c: the layer before sees more than the image already, so they add depth but no context; leave them out, stride less, or "
        "use larger images.",
    ]
    signals = advice({"a": field(1, 90), "b": field(1, 200)}, (1, 64))
    assert "From a on, the field (1x90) exceeds the image (1x64)." in signals
    branches = advice({"a": field(30, 30), "pooled": field(inf, inf), "b": field(50, 50)}, (64, 64))
    assert branches[-1].startswith("Smallest useful image: 30 pixels a side")


def test_beside_the_fields_of_all_protocols():
    model = nn.Sequential(nn.Conv2d(1, 2, 5, padding=2), nn.Conv2d(2, 1, 5, padding=2))
    result = compute_erf(model, torch.randn(3, 1, 16, 16), "*", protocol="all")
    add_theory(result, theoretical_rf(model, (16, 16), "*", in_channels=1))
    assert [(name, str(field)) for name, field in theory_of(result).items()] == [
        ("0@st-erf", "5x5"),
        ("1@st-erf", "9x9"),
    ]
    assert result.numbers("1@st-erf")["theory_rows"].value == 9 and "theory_rows" not in result.numbers("1@luo")
