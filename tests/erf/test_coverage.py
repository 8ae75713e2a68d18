"""Intervals hold what they promise: how often they contain the number of the whole population of inputs, by simulation."""

import copy
import functools

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch import nn

from sterf_plugins.backbones import SDTV3, SpikingCNN
from sterf_plugins.erf import ERFResult, calibrate, compute_erf
from sterf_plugins.erf.numbers.estimate import Estimate, group_sizes
from sterf_plugins.erf.numbers.lags import exponential_fit, half_life, lag_mass, mean_lag
from sterf_plugins.erf.numbers.metrics import (
    SHARES,
    _area_ratios,
    _effective_radii,
    _mass,
    _rectangle_ratios,
    rms_radius,
)
from sterf_plugins.erf.numbers.number import change

SIZE = 48


def in_space(field):
    """The numbers of ``spatial_numbers`` that are quick to compute."""
    mass = _mass(field)
    numbers = dict(zip(("r50", "r90"), _effective_radii(mass, (0.5, 0.9)), strict=True))
    for name, function in (("area", _area_ratios), ("rectangle", _rectangle_ratios)):
        numbers |= {f"{name}_{100 * s:g}": v for s, v in zip(SHARES, function(mass, SHARES), strict=True)}
    return numbers | {"rms_radius": rms_radius(field)}


def in_time(curve):
    numbers = {f"lag_{i}": float(mass) for i, mass in enumerate(lag_mass(curve)[:4])}
    numbers |= {"half_life": half_life(curve), "time_constant": exponential_fit(curve)[0]}
    return numbers | {"mean_lag": mean_lag(curve)}


def estimated(fields, compute):
    """The numbers of the mean of some fields, and their pseudo-values."""
    estimate = Estimate()
    estimate.add(fields)
    result = ERFResult(["layer"], {}, _estimates={"layer": {"spatial": estimate}})
    return result._estimated("layer", "spatial", compute, corrected=True), result._pseudo["layer"]


def coverage(draw, truth, compute, count, repeats):
    """How often the interval of each number holds the true value."""
    hits = dict.fromkeys(truth, 0)
    for _ in range(repeats):
        for name, number in estimated(draw(count), compute)[0].items():
            low, high = number.interval
            hits[name] += low <= truth[name] <= high
    return {name: hit / repeats for name, hit in hits.items()}


def made_up(correlation, shape):
    """Fields of gradients with a Gaussian envelope: three channels of noise, and a magnitude of its own for each image."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    envelope = np.exp(-(x**2 + y**2) / 2 / 8**2)
    blur = gaussian_filter1d(np.eye(SIZE), correlation, mode="wrap")  # as a matrix, which is six times as fast

    def draw(count):
        noise = blur @ rng.normal(size=(count, 3, SIZE, SIZE)) @ blur
        magnitude = rng.gamma(shape, 1 / shape, size=(count, 1, 1))
        return magnitude * envelope * np.abs(noise).mean(1)

    return draw, in_space(envelope)


def each(model, x, layer, kind="spatial", **options):
    """The field of each image, (N, H, W) or (N, T)."""
    result = compute_erf(model, x, layer, kinds=kind, aggregate="median", **options)  # which keeps them all
    return np.stack(result._estimates[layer][kind].values).astype(np.float64)


def pink(count, size, channels=3):
    """Images with the spectrum of natural ones, and a contrast of its own each."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.fft.fftfreq(size)
    frequency = (rows[:, None] ** 2 + rows**2).sqrt().clamp(min=1 / size)
    noise = torch.randn(count, channels, size, size, generator=generator)
    images = torch.fft.ifft2(torch.fft.fft2(noise) / frequency).real
    return images / images.std() * (0.5 + torch.rand(count, 1, 1, 1, generator=generator))


def convolutions():
    return nn.Sequential(*(m for i in range(4) for m in (nn.Conv2d(16 if i else 3, 16, 3, padding=1), nn.ReLU())))


@functools.cache
def fields_of(name):
    """The fields of a network, one for each of many images."""
    torch.manual_seed(0)
    if name == "convolutions":
        return each(convolutions(), pink(400, SIZE), "6")
    if name == "SDT-V3":
        x = pink(400, SIZE)
        model = calibrate(SDTV3(dict(embed_dims=[8, 16, 24, 32], num_heads=4), "srb"), x[:16])
        return each(model, x, "stages.1", calibrate=False)
    lif = SpikingCNN(depth=3, channels=8, mean=0.0, std=0.5, neuron="lif", tau=2.0, surrogate="ATan")
    return each(lif, pink(400, 17, 1), "layers.2", "temporal", time_steps=12)


def population(name):
    """A function that draws so many fields with replacement, the numbers of all fields, and how they are computed."""
    if name in MADE_UP:
        return *made_up(*MADE_UP[name]), in_space
    fields, compute = fields_of(name), in_time if name == "LIF in time" else in_space
    rng = np.random.default_rng(0)
    return lambda count: fields[rng.integers(len(fields), size=count)], compute(fields.mean(0)), compute


MADE_UP = {"made up, fine": (1, 2), "made up, coarse": (3, 1)}
POPULATIONS = [*MADE_UP, "convolutions", "SDT-V3", "LIF in time"]


def test_the_interval_of_four_inputs_holds_the_area_of_all():
    """Without the correction of the bias and Student's t it does in less than half of the cases."""
    held = coverage(*population("made up, fine"), 4, 60)
    assert min(held[name] for name in ("area_50", "area_90", "rectangle_90", "r90")) > 0.8


def test_what_a_large_correction_leaves_is_in_the_error():
    """Rectified gradients with a value of its own at each pixel, most of them zero: a third of the area is added."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :36] - np.array([12, 18])[:, None, None]
    envelope = np.exp(-(y**2 / 2 + x**2) / 2 / 5**2)

    def draw(count):
        return envelope * np.maximum(rng.normal(-0.5, 1, (count, 3, 24, 36)), 0).sum(1)

    held = coverage(draw, in_space(envelope), in_space, 4, 60)
    assert held["area_20"] > 0.7 and min(held[name] for name in ("area_50", "area_90", "r50", "r90")) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 8, 16, 64])
@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.sweep
def test_intervals_hold_the_number_of_the_population(name, count):
    """Between 90 and 98 % of the time on average over the numbers, and each of them by what 300 repetitions can tell."""
    held = coverage(*population(name), count, 300)
    print(name, count, {k: round(v, 3) for k, v in held.items()})
    assert min(held.values()) > 0.9 - 3 * 0.017, held
    assert 0.9 < np.mean(list(held.values())) < 0.985, held


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 16])
def test_intervals_hold_the_difference_of_two_networks(count):
    """On the same inputs; the second network has weights that differ by a tenth."""
    torch.manual_seed(0)
    first, x = convolutions(), pink(400, SIZE)
    second = copy.deepcopy(first)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter *= 1 + 0.1 * torch.randn_like(parameter)
    a, b = each(first, x, "6"), each(second, x, "6")
    before, after = in_space(a.mean(0)), in_space(b.mean(0))
    hits, rng = dict.fromkeys(before, 0), np.random.default_rng(0)
    for _ in range(300):
        chosen = rng.integers(len(a), size=count)
        (n, p), (m, q) = estimated(a[chosen], in_space), estimated(b[chosen], in_space)
        for name in hits:
            low, high = change(n[name], m[name], (p[name], q[name]), group_sizes(count)).interval
            hits[name] += low <= after[name] - before[name] <= high
    held = {name: hit / 300 for name, hit in hits.items()}
    print(count, held)
    assert min(held.values()) > 0.9 and 0.9 < np.mean(list(held.values())) < 0.985, held
