"""Affine Gaussian kernels: golden arrays, and the laws of the continuous theory."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sterf_plugins.functional import affine_gaussian as ag


def frame(sigma1, sigma2, phi):
    return ag.frame_of_eigen(*(torch.tensor([v], dtype=torch.float64) for v in (sigma1, sigma2, phi)))


def cases(golden, name):
    data = golden(name)
    return [(row, torch.from_numpy(np.asarray(data[f"k{i:03d}"]))) for i, row in enumerate(data["params"])]


def close(a, b, rtol=1e-9, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def test_sampled_kernels(covariant_golden):
    for (s1, s2, phi, m, n, half), kernel in cases(covariant_golden, "affine_sampled"):
        # y up there: mirroring y turns phi into -phi and reverses e2
        mirrored = frame(s1, s2, -phi)
        raw = ag.gaussian_derivatives(
            ag.covariance_of(mirrored), mirrored, [(int(m), int(n))], *ag.grid(int(half), mirrored)
        )
        sign = (-1) ** int(n)
        close(sign * raw[0, 0] / (s1**m * s2**n), kernel)


def test_high_and_mixed_orders(covariant_golden):
    for (s1, s2, phi, m, n, half), kernel in cases(covariant_golden, "affine_highorder"):
        f = frame(s1, s2, phi)
        close(ag.gaussian_derivatives(ag.covariance_of(f), f, [(int(m), int(n))], *ag.grid(int(half), f))[0, 0], kernel)


def test_any_direction(covariant_golden):
    for (s1, s2, phi, theta, m, half, _), kernel in cases(covariant_golden, "affine_general_direction"):
        covariance = ag.covariance_of(frame(s1, s2, phi))
        w = torch.tensor([[math.cos(theta), math.sin(theta)]], dtype=torch.float64)
        f = ag.frame_of_direction(covariance, w)
        close(ag.covariance_of(f), covariance, atol=1e-12)
        close(ag.gaussian_derivatives(covariance, f, [(int(m), 0)], *ag.grid(int(half), f))[0, 0], kernel)


def test_integrated_kernels(covariant_golden):
    for (s1, s2, phi, m, n, half, compensated), kernel in cases(covariant_golden, "affine_integrated"):
        method = "integrated_comp" if compensated else "integrated"
        found = ag.affine_kernels(frame(s1, s2, phi), [(int(m), int(n))], int(half), method)[0, 0]
        close(found / (s1**m * s2**n), kernel, 1e-6, 1e-9)


def test_semi_discrete_kernels(covariant_golden):
    for row, kernel in cases(covariant_golden, "affine_discrete"):
        covariance = torch.tensor([[[row[3], row[4]], [row[4], row[5]]]], dtype=torch.float64)
        close(ag.semi_discrete_gaussian(covariance, 12)[0], kernel, 0, 1e-10)


def test_stencils(covariant_golden):
    data = covariant_golden("affine_diffmask")
    for name in (n for n in data if n.startswith("mask")):
        phi, orders = name.removeprefix("mask_phi").split("_")
        m, n = int(orders[1]), int(orders[3])
        coefficients = ag.directional_coefficients(frame(1.0, 1.0, -float(phi)), (m, n))
        size = data[name].shape[0]
        mask = torch.zeros(size, size, dtype=torch.float64)
        for j, c in enumerate(coefficients):
            part = torch.outer(*(torch.tensor(ag.difference_mask(k), dtype=torch.float64) for k in (j, m + n - j)))
            pad_y, pad_x = ((size - side) // 2 for side in part.shape)
            mask += c * F.pad(part, (pad_x, pad_x, pad_y, pad_y))
        # y up there, rows from the top: the mask above is of the mirrored direction, and e2 is reversed
        close((-1) ** n * mask, torch.from_numpy(np.asarray(data[name], dtype=np.float64)))


def test_stencil_kernels(covariant_golden):
    for (s1, s2, phi, m, n, half), kernel in cases(covariant_golden, "affine_diffmask"):
        m, n, half = int(m), int(n), int(half)
        f = frame(s1, s2, -phi)
        smooth = ag.gaussian_derivatives(ag.covariance_of(f), f, [(0, 0)], *ag.grid(half + 2, f))[:, 0]
        orders = [(m, n), (4, 0)]  # the second makes the reach 2
        found = (-1) ** n * ag.stencil_derivatives(smooth, f, orders)[0, 0]
        inner = slice(2, -2)
        close(found[inner, inner], kernel[inner, inner])


sigmas, ratios, angles = st.floats(0.8, 2.0), st.floats(1.0, 2.0), st.floats(0, math.pi)


@settings(max_examples=15, deadline=None)
@given(sigmas, ratios, angles)
def test_the_semi_discrete_gaussian_has_the_moments_and_the_semigroup(sigma, ratio, phi):
    covariance = ag.covariance_of(frame(sigma * ratio**0.5, sigma / ratio**0.5, phi))
    half = math.ceil(8 * sigma * ratio) + 6
    kernel = ag.semi_discrete_gaussian(covariance, half)[0]
    x, y = ag.grid(half, kernel)
    moments = torch.stack([(kernel * p * q).sum() for p in (x, y) for q in (x, y)]).view(2, 2)
    close(kernel.sum(), torch.tensor(1.0, dtype=torch.float64), atol=1e-10)
    close(moments, covariance[0], 1e-6, 1e-6)
    twice = F.conv2d(F.pad(kernel, [half] * 4)[None, None], kernel[None, None])[0, 0]
    close(twice, ag.semi_discrete_gaussian(2 * covariance, half)[0], 0, 1e-9)


@settings(max_examples=15, deadline=None)
@given(sigmas, ratios, angles, angles)
def test_steerability(sigma, ratio, phi, theta):
    """All directions of an order are combinations of the Cartesian derivatives of the same covariance."""
    s1, s2 = sigma * ratio**0.5, sigma / ratio**0.5
    covariance = ag.covariance_of(frame(s1, s2, phi))
    axes = torch.eye(2, dtype=torch.float64)[None]
    turned = frame(1.0, 1.0, theta)
    x, y = ag.grid(8, turned)
    for m, n in ((1, 0), (2, 0), (1, 1), (2, 1)):
        cartesian = [(m + n - j, j) for j in range(m + n + 1)]
        basis = ag.gaussian_derivatives(covariance, axes, cartesian, x, y)[0]
        steered = sum(c * k for c, k in zip(ag.directional_coefficients(turned, (m, n)), basis, strict=True))
        close(steered, ag.gaussian_derivatives(covariance, turned, [(m, n)], x, y)[0, 0], 1e-9, 1e-12)


@pytest.mark.parametrize("method", ag.DISCRETIZATIONS)
@pytest.mark.slow
def test_gradients_of_the_kernels(method):
    f = frame(1.6, 1.1, 0.4).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: ag.affine_kernels(f, [(0, 0), (1, 0), (1, 1), (0, 2)], 4, method), f)


def test_l1_norms():
    assert ag.l1_norm((1, 0)) == pytest.approx(math.sqrt(2 / math.pi))
    assert ag.l1_norm((2, 0)) == pytest.approx(4 * math.exp(-0.5) / math.sqrt(2 * math.pi))
    assert ag.l1_norm((1, 1)) == pytest.approx(2 / math.pi)
    f = frame(3.0, 2.5, 0.3)
    measured = ag.affine_kernels(f, [(2, 1)], 20)[0, 0].abs().sum().item()
    assert measured == pytest.approx(ag.l1_norm((2, 1)), rel=2e-3)


def test_an_unknown_discretisation_is_named():
    with pytest.raises(ValueError, match="`method` is 'sample'; allowed: 'sampled'"):
        ag.affine_kernels(frame(2.0, 1.0, 0.0), [(1, 0)], 4, "sample")
