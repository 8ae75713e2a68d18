"""Convolutions that pass back only the part of a gradient that is not zero give the same gradient."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sterf_plugins.erf import compute_erf
from sterf_plugins.erf.passes import cropped
from sterf_plugins.erf.passes.cropped import cropped_convolutions


@pytest.fixture(autouse=True)
def every_convolution(monkeypatch):
    """Also those that are too small to be worth it."""
    monkeypatch.setattr(cropped, "_DEAR", 0)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "how",
    [
        dict(),
        dict(padding=1),
        dict(padding=5),
        dict(stride=2, padding=(2, 0)),
        dict(stride=(3, 2), padding=1, dilation=(1, 2)),
        dict(padding=3, dilation=3, groups=2),
    ],
)
@pytest.mark.parametrize("place", [(0, 0), (2, 1), (-1, -1), None])
def test_gradients_are_those_of_the_whole_map(how, place, order):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 17, 14).contiguous(memory_format=order).double().requires_grad_()
    weight, bias = torch.randn(6, 4 // how.get("groups", 1), 3, 3).double(), torch.randn(6).double()
    y = F.conv2d(x, weight, bias, **how)
    g = torch.zeros_like(y)
    if place is not None:
        g[:, :, place[0], place[1]] = torch.randn(2, 6).double()
    with cropped_convolutions():
        z = F.conv2d(x, weight, bias, **how)
    assert torch.equal(y, z) and "_Convolution" in z.grad_fn.name()
    (expected,), (found,) = torch.autograd.grad(y, x, g), torch.autograd.grad(z, x, g)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14) and found.stride() == x.stride()


@pytest.mark.parametrize(("dims", "sizes"), [(1, (40,)), (3, (9, 12, 11))])
def test_signals_and_volumes(dims, sizes):
    torch.manual_seed(0)
    convolution = getattr(F, f"conv{dims}d")
    x = torch.randn(2, 3, *sizes).double().requires_grad_()
    weight = torch.randn(4, 3, *[3] * dims).double()
    y = convolution(x, weight, stride=2, padding=1)
    g = torch.zeros_like(y)
    g[(..., *(n // 2 for n in y.shape[2:]))] = 1
    with cropped_convolutions():
        z = getattr(F, f"conv{dims}d")(x, weight, stride=2, padding=1)
    (expected,), (found,) = torch.autograd.grad(y, x, g), torch.autograd.grad(z, x, g)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_what_is_no_number_is_not_cut_off():
    x, weight = torch.ones(1, 1, 9, 9, requires_grad=True), torch.ones(1, 1, 3, 3)
    with cropped_convolutions():
        y = F.conv2d(x, weight, padding=1)
    g = torch.zeros_like(y)
    g[0, 0, 4, 4] = torch.nan
    (found,) = torch.autograd.grad(y, x, g)
    assert found.isnan().sum() == 9


def test_other_convolutions_are_pytorchs():
    x = torch.ones(1, 2, 9, 9)
    weight = torch.ones(2, 2, 3, 3)
    with cropped_convolutions():
        assert F.conv2d(x, weight).grad_fn is None
        learnt = weight.clone().requires_grad_()
        assert F.conv2d(x.requires_grad_(), learnt).grad_fn.name().startswith("ConvolutionBackward")
        assert F.conv2d(x, weight, padding="same").grad_fn.name().startswith("ConvolutionBackward")
        with torch.autocast("cpu", torch.float16):  # which computes with a copy of the weight
            assert "_Convolution" not in F.conv2d(x, weight).grad_fn.name()
        mapped = torch.func.vmap(lambda v: F.conv2d(v[None], weight)[0])(x)
    assert mapped.shape == (1, 2, 7, 7) and F.conv2d is torch.conv2d


def test_the_engine_cuts_out_boxes(monkeypatch):
    """Of five 3x3 convolutions that of the last begins with one place, and each one before has a larger box."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh()) for _ in range(5)))
    x = torch.randn(3, 2, 32, 32)
    sides, plain = [], cropped._of_box

    def counted(g, box, *rest):
        sides.append([high - low for low, high in box])
        return plain(g, box, *rest)

    monkeypatch.setattr(cropped, "_of_box", counted)
    field = compute_erf(model, x, "4", batch_size=3).spatial["4"]
    assert sides == [[n, n] for n in (1, 3, 5, 7, 9)]
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, :, 16, 16].sum(), leaf)
    assert np.allclose(field, gradient.abs().mean((0, 1)), rtol=1e-5, atol=1e-9)
