"""Frequency responses against closed forms: a leaky integrator in time, a Gaussian kernel in space."""

import numpy as np
import pytest
import torch
from torch import nn

from sterf_plugins.erf import compute_erf, spatial_response, temporal_response


class Leaky(nn.Module):
    """v[t] = a v[t-1] + (1 - a) x[t], at every pixel, behind a convolution."""

    def __init__(self, a: float, kernel: np.ndarray):
        super().__init__()
        self.a = a
        k = len(kernel)
        self.conv = nn.Conv2d(1, 1, k, padding=k // 2, bias=False)
        self.conv.weight.data = torch.tensor(np.outer(kernel, kernel), dtype=torch.float32)[None, None]
        self.out = nn.Identity()

    def forward(self, x):
        v, steps = torch.zeros_like(x[0]), []
        for frame in x:
            v = self.a * v + (1 - self.a) * self.conv(frame)
            steps.append(v)
        return self.out(torch.stack(steps))


def leaky(a: float, f: np.ndarray) -> np.ndarray:
    return (1 - a) / (1 - a * np.exp(-2j * np.pi * f))


@pytest.fixture(scope="module")
def result():
    d = np.arange(-10, 11)
    kernel = np.exp(-(d**2) / (2 * 2.0**2))
    return compute_erf(Leaky(0.8, kernel / kernel.sum()), torch.randn(64, 2, 1, 33, 33), "out", reduce="signed")


def test_leaky_integrator(result):
    response = temporal_response(result, "out")
    expected = leaky(0.8, response.frequencies)
    assert np.allclose(np.abs(expected), 0.2 / np.sqrt(1 + 0.8**2 - 1.6 * np.cos(2 * np.pi * response.frequencies)))
    assert np.allclose(response.gain / response.gain[0], np.abs(expected), atol=1e-5)
    assert np.allclose(response.phase, np.angle(expected), atol=1e-5)
    # the gain is 1 / sqrt(2) where 2 (1 - cos w) = (1 - a)^2 / a
    assert response.cutoff.value == pytest.approx(np.arccos(1 - 0.2**2 / 1.6) / (2 * np.pi), rel=1e-4)
    assert response.cutoff.dof == pytest.approx(1, abs=0.01)  # of two inputs
    assert np.all(response.gain_error < 1e-6 * response.gain[0])  # a linear system answers alike to all inputs


def test_gaussian_kernel(result):
    response = spatial_response(result, "out")
    some = response.frequencies < 0.25
    expected = np.exp(-2 * (np.pi * 2.0 * response.frequencies) ** 2)
    assert np.allclose((response.gain / response.gain[0])[some], expected[some], atol=1e-3)
    assert np.allclose(response.phase[response.frequencies < 0.15], 0, atol=1e-3)
    assert response.cutoff.value == pytest.approx(np.sqrt(np.log(2) / 4) / (np.pi * 2.0), rel=0.002)


def test_a_second_difference_is_a_high_pass():
    conv = nn.Conv2d(1, 1, (1, 3), padding=(0, 1), bias=False)
    conv.weight.data = torch.tensor([[[[-1.0, 2.0, -1.0]]]])
    result = compute_erf(nn.Sequential(conv), torch.randn(2, 1, 64, 64), "0", reduce="signed")
    response = spatial_response(result, "0")
    assert response.gain[0] == pytest.approx(0, abs=1e-6) and response.frequencies[response.gain.argmax()] > 0.45


def test_spikes_of_a_slow_neuron_have_errors_and_a_low_cutoff():
    from sterf_plugins.backbones import SpikingCNN

    cutoffs = []
    for tau in (2.0, 8.0):
        torch.manual_seed(0)
        model = SpikingCNN(depth=1, kernel_size=1, neuron="lif", tau=tau, mean=2.0, surrogate="ATan")
        result = compute_erf(model, torch.randn(24, 10, 1, 8, 8), "layers.0", reduce="signed", kinds="temporal")
        response = temporal_response(result, "layers.0")
        cutoffs.append(response.cutoff.value)
        assert np.all(response.gain_error[1:] > 0) and response.gain.argmax() == 0
    assert cutoffs[1] < cutoffs[0]


def test_needs_signed_fields(result):
    plain = compute_erf(nn.Sequential(nn.Conv2d(1, 1, 3)), torch.randn(2, 1, 8, 8), "0")
    with pytest.raises(ValueError, match="reduce='signed'"):
        spatial_response(plain, "0")
    with pytest.raises(ValueError, match="no temporal field of layer 'nowhere'"):
        temporal_response(result, "nowhere")


def test_errors_of_a_field_that_is_normalised():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 1)), torch.randn(6, 1, 8, 8)
    plain, normalised = (
        spatial_response(compute_erf(model, x, "2", reduce="signed", normalize=how), "2") for how in (None, "sum")
    )
    assert np.allclose(normalised.gain_error / normalised.gain, plain.gain_error / plain.gain)
