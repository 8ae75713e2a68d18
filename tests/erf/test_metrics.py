"""Numbers of maps whose numbers are known."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from sterf_plugins.erf import compute_erf
from sterf_plugins.erf.numbers import metrics as m
from sterf_plugins.erf.numbers.gaussian import fit_gaussian
from sterf_plugins.erf.numbers.lags import temporal_numbers


def gaussian(size=(61, 81), centre=(30, 40), sigmas=(6.0, 6.0), degrees=0.0):
    y, x = np.mgrid[: size[0], : size[1]]
    t = np.radians(degrees)
    dx, dy = x - centre[1], y - centre[0]
    u, v = dx * np.cos(t) + dy * np.sin(t), -dx * np.sin(t) + dy * np.cos(t)
    return np.exp(-((u / sigmas[0]) ** 2 + (v / sigmas[1]) ** 2) / 2)


def test_a_round_gaussian():
    n = m.spatial_numbers(gaussian(), (61, 81))
    assert n["rms_radius"] == pytest.approx(6 * np.sqrt(2), rel=1e-3)
    assert n["r50"] == pytest.approx(6 * np.sqrt(2 * np.log(2)), abs=0.06)
    assert n["r90"] == pytest.approx(6 * np.sqrt(2 * np.log(10)), abs=0.06)
    # The smallest set with share s is a disc: area 2 pi sigma^2 ln(1 / (1 - s)).
    for share in (0.2, 0.3, 0.5, 0.9):
        area = -2 * np.pi * 36 * np.log(1 - share) / (61 * 81)
        assert n[f"area_{share * 100:g}"] == pytest.approx(area, rel=0.03)
        assert n[f"rectangle_{share * 100:g}"] >= n[f"area_{share * 100:g}"]
    assert n["anisotropy"] == pytest.approx(1, rel=1e-4)
    assert n["centre_mass"] == pytest.approx(1 / (2 * np.pi * 36), rel=1e-2)
    assert (n["sigma_x"], n["sigma_y"], n["gaussian_r2"]) == (pytest.approx(6), pytest.approx(6), pytest.approx(1))


@pytest.mark.parametrize("degrees", [0, 30, -40, 80])
@pytest.mark.parametrize("size", [(61, 81), (224, 320)])
def test_the_gaussian_fit_finds_widths_and_angle(degrees, size):
    """u is the axis nearer to the horizontal one, so at 80 degrees the widths change places."""
    fit = fit_gaussian(gaussian(size, (size[0] / 2, size[1] / 2.5), (9.0, 4.0), degrees))
    widths, angle = ((fit.sigma_x, fit.sigma_y), degrees) if abs(degrees) < 45 else ((fit.sigma_y, fit.sigma_x), -10)
    assert widths == (pytest.approx(9, rel=0.01), pytest.approx(4, rel=0.02))
    assert fit.theta == pytest.approx(angle, abs=0.5)
    assert (fit.row, fit.column) == (pytest.approx(size[0] / 2, abs=0.1), pytest.approx(size[1] / 2.5, abs=0.1))
    assert fit.r2 > 0.999


def test_a_gaussian_fit_of_noise_says_so():
    noise = np.random.default_rng(0).random((50, 50))
    assert fit_gaussian(noise).r2 < 0.2
    assert fit_gaussian(np.ones((20, 30))).r2 == 0
    with pytest.raises(ValueError, match="with some mass"):
        fit_gaussian(np.zeros((3, 3)))


_ACROSS, _DOWN = np.meshgrid(np.arange(64) - 31.5, np.arange(64) - 31.5)
_NOISE = np.random.default_rng(0).random((64, 64))


@pytest.mark.parametrize(
    ("field", "widths"),
    [
        (np.ones((64, 64)), (np.nan, np.nan)),
        (1 + 1e-9 * _NOISE, (np.nan, np.nan)),
        (1 + _NOISE, (np.nan, np.nan)),
        (1 + _ACROSS / 320, (np.nan, np.nan)),  # its centre would be far outside
        (1 - np.exp(-(_ACROSS**2 + _DOWN**2) / 128), (np.nan, np.nan)),
        (np.exp(-(_ACROSS**2) / 32), (4, np.nan)),
        (np.exp(-(_DOWN**2) / 32), (np.nan, 4)),
        (np.exp(-(_ACROSS[:1] ** 2) / 32), (4, np.nan)),  # a signal
        (np.exp(-(_ACROSS**2 + _DOWN**2) / 2 / 64**2), (64, 64)),
    ],
)
def test_a_field_has_widths_only_where_it_tells_them(field, widths):
    fit = fit_gaussian(field)
    assert (fit.sigma_x, fit.sigma_y) == pytest.approx(widths, rel=1e-3, nan_ok=True)
    assert 0 <= fit.r2 <= 1 and (not np.isnan(widths).all() or np.isnan(fit.theta))


def test_a_strip_is_anisotropic():
    strip = np.zeros((32, 32))
    strip[16] = 1
    assert m.anisotropy(strip) == m.anisotropy(strip.T) == m.anisotropy(np.eye(9)) == np.inf
    assert (m.orientation(strip), m.orientation(strip.T), m.orientation(np.eye(9))) == (0, 90, pytest.approx(45))
    strip[15:18] = 1
    expected = pytest.approx(np.sqrt((32**2 - 1) / (3**2 - 1)))
    assert m.anisotropy(strip) == expected and m.anisotropy(strip.T) == expected
    assert m.row_extent(strip) == pytest.approx(np.sqrt(8 / 12))
    assert m.column_extent(strip) == pytest.approx(np.sqrt((32**2 - 1) / 12))


@pytest.mark.parametrize("degrees", [0, 20, 45, 70, 90, -30])
def test_anisotropy_is_along_the_fields_own_axes(degrees):
    """Row and column extents of a field at 45 degrees are equal, although it is twice as long as wide."""
    field = gaussian((81, 81), (40, 40), (8.0, 4.0), degrees)
    assert m.anisotropy(field) == pytest.approx(2, rel=0.01)
    assert m.orientation(field) == pytest.approx(degrees, abs=0.1)
    if degrees == 45:
        assert m.column_extent(field) == pytest.approx(m.row_extent(field))


def test_flat_and_single():
    flat, single = np.ones((16, 16)), np.zeros((16, 16))
    single[8, 8] = 2
    assert m.entropy(flat) == pytest.approx(1) and m.entropy(single) == 0
    assert m.area_ratio(flat, 0.25) == pytest.approx(0.25) and m.area_ratio(flat, 1.0) == pytest.approx(1)
    assert m.area_ratio(single, 0.5) == pytest.approx(0.5 / 256)  # half a pixel
    assert m._rectangle_ratios(m._mass(single), (1.0,), (8.5, 8.5)) == pytest.approx([1 / 256])
    assert m._rectangle_ratios(m._mass(flat), (1.0,)) == pytest.approx([1])
    assert m.rms_radius(single) == 0 and m._effective_radii(m._mass(single), (1.0,)) == pytest.approx([0.5])
    assert np.isnan(m.anisotropy(single)) and np.isnan(m.orientation(single)) and np.isnan(m.orientation(flat))
    assert m.cell_mass(flat, (4, 4)) == pytest.approx(1 / 16) and m.cell_mass(single, (4, 4)) == 1
    assert np.allclose(m.radial_profile(flat), 1)
    assert m.radial_profile(np.ones((1, 1))).tolist() == [1]  # an empty curve cannot be drawn
    spectrum = m.spectrum(flat)
    assert spectrum[8, 8] == pytest.approx(1) and spectrum.sum() == pytest.approx(1)
    assert np.allclose(m.spectrum(single), 1)


def test_rectangles_have_the_aspect_ratio_of_the_image():
    field = np.zeros((20, 40))
    field[10, 20 + 6] = 1  # about (10.5, 20.5): 13 columns and half as many rows reach all of it, 12 half of it
    half, all_of_it = m._rectangle_ratios(field, (0.5, 1.0), (10.5, 20.5))
    assert all_of_it == pytest.approx(13 * 6.5 / 800) and half == pytest.approx(12 * 6 / 800, rel=0.01)


def test_rectangles_are_about_the_target():
    """A box of 6 by 6 pixels about a target near the corner, and a cell of 4 by 4 pixels."""
    field = np.zeros((32, 32))
    field[2:8, 22:28] = 1
    numbers = m.spatial_numbers(field, (32, 32), (4, 24))
    assert numbers["rectangle_99"] < 0.06 < 0.5 < m.spatial_numbers(field)["rectangle_99"]
    cells = np.zeros((32, 32))
    cells[4:8, 24:28] = 1
    assert m.spatial_numbers(cells, (8, 8), (1, 6))["rectangle_50"] == pytest.approx(0.5 * 16 / 1024, rel=0.05)


def test_numbers_do_not_move_in_steps():
    """A small change of the map is a small change of each area and radius, and never none."""
    fields = [gaussian((32, 32), (15.5, 15.5), (5.0 + 0.001 * i, 5.0)) for i in range(5)]
    numbers = [m.spatial_numbers(f) for f in fields]
    for name in ("area_20", "area_90", "rectangle_50", "rectangle_90", "r50", "r90"):
        steps = np.diff([n[name] for n in numbers])
        assert (steps > 0).all() and steps.max() < 1.5 * steps.min(), name


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_field_without_mass_has_no_numbers(bad):
    numbers = m.spatial_numbers(np.full((8, 8), bad), (8, 8))
    assert (
        numbers.keys() == m.spatial_numbers(np.ones((8, 8)), (8, 8)).keys() and np.isnan(list(numbers.values())).all()
    )
    lags = temporal_numbers(np.full(4, bad))
    assert lags.keys() == temporal_numbers(np.ones(4)).keys() and np.isnan(list(lags.values())).all()


def box_stack(layers, kernel, **options):
    model = nn.Sequential(*[nn.Conv2d(1, 1, kernel, bias=False, **options) for _ in range(layers)])
    for conv in model:
        nn.init.constant_(conv.weight, 1 / kernel**2)
    return model


@pytest.mark.parametrize(("kernel", "layers", "dilation"), [(3, 6, 1), (5, 4, 1), (3, 5, 2), (7, 3, 1)])
def test_stacks_of_boxes_are_gaussians_of_known_width(kernel, layers, dilation):
    """The variance of a box of k pixels is (k^2 - 1) / 12, that of a stack the sum; dilation d multiplies it by d^2."""
    padding = dilation * (kernel // 2)
    model = box_stack(layers, kernel, padding=padding, dilation=dilation)
    result = compute_erf(model, torch.randn(1, 1, 65, 65), str(layers - 1))
    n = result.numbers(str(layers - 1))
    sigma = dilation * np.sqrt(layers * (kernel**2 - 1) / 12)
    assert n["row_extent"].value == pytest.approx(sigma, rel=1e-3)
    assert n["column_extent"].value == pytest.approx(sigma, rel=1e-3)
    if dilation == 1:  # a dilated stack leaves holes, which no Gaussian has
        assert n["sigma_x"].value == pytest.approx(sigma, rel=0.07)
        assert n["gaussian_r2"].value > 0.99


def test_strided_stacks():
    """Stride s before a layer multiplies its width in the input: variances (k^2 - 1) / 12 * s^2i."""
    model = box_stack(3, 3, stride=2, padding=1)
    result = compute_erf(model, torch.randn(2, 1, 64, 64), ["0", "1", "2"])
    for depth, layer in enumerate(result.layers, 1):
        sigma = np.sqrt(sum(4**i for i in range(depth)) * 8 / 12)
        assert result.numbers(layer)["row_extent"].value == pytest.approx(sigma, rel=1e-3)


def test_a_token_mixer_sees_all_and_an_identity_one_pixel():
    class TokenMixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(64, 64, bias=False)
            nn.init.constant_(self.mix.weight, 0.5)

        def forward(self, x):
            return self.mix(x.flatten(2)).unflatten(2, x.shape[2:])

    result = compute_erf(nn.Sequential(nn.Identity(), TokenMixer()), torch.randn(2, 3, 8, 8), ["0", "1"])
    assert (
        result.numbers("0")["area_99"].value == pytest.approx(0.99 / 64) and result.numbers("0")["entropy"].value == 0
    )
    assert result.numbers("1")["area_50"].value == pytest.approx(0.5) and result.numbers("1")[
        "entropy"
    ].value == pytest.approx(1)


def test_bad_fields():
    for function in (m.area_ratio, m.rms_radius, m.entropy):
        with pytest.raises(ValueError, match="non-negative map"):
            function(-np.ones((3, 3)))
        with pytest.raises(ValueError, match="must be a finite, non-negative map"):
            function(np.where(np.eye(3), np.inf, 1.0))
    with pytest.raises(ValueError, match="`share` is 2"):
        m.area_ratio(np.ones((3, 3)), 2)


@pytest.mark.parametrize(("pixels", "cells"), [(12, 4), (7, 2), (10, 3), (5, 5), (3, 6)])
def test_the_mass_of_a_cell_is_that_of_its_pixels(pixels, cells):
    field = np.random.default_rng(0).random((pixels, pixels))
    starts = [i * pixels // cells for i in range(cells + 1)]
    spans = [slice(a, max(b, a + 1)) for a, b in pairwise(starts)]
    assert np.allclose(m.cell_masses(field, (cells, cells)), [[field[r, c].sum() for c in spans] for r in spans])
    assert m.cell_mass(field, (cells, cells), (1, 0)) == pytest.approx(field[spans[1], spans[0]].sum() / field.sum())
