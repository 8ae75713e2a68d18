"""Depthwise convolution: PyTorch's numbers, whatever the kernel, the memory order and what wants a gradient."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from sterf_plugins.functional import depthwise_conv2d, splits_weight_gradient
from sterf_plugins.layers import DepthwiseConv2d


def results(function, x, weight, grad):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = function(x, weight)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), grad)]


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("kernel", [(7, 7), (5, 5), (9, 9), (11, 11), (1, 5), (7, 3), (3, 3), (3, 15), (7, 1), (1, 1)])
def test_numbers_are_those_of_pytorch(kernel, order):
    torch.manual_seed(0)
    x = torch.randn(2, 12, 13, 10, dtype=torch.float64).to(memory_format=order)
    grad = torch.randn_like(x).contiguous()  # another order than the input's
    weight = torch.randn(12, 1, *kernel, dtype=torch.float64)
    padding = tuple(k // 2 for k in kernel)
    expected = results(lambda x, w: F.conv2d(x, w, None, 1, padding, 1, 12), x, weight, grad)
    for a, b in zip(results(depthwise_conv2d, x, weight, grad), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    single = results(depthwise_conv2d, x.float(), weight.float(), grad.float())
    for a, b in zip(single, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


def test_first_and_second_gradients():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(depthwise_conv2d, (x, weight))
    assert gradgradcheck(depthwise_conv2d, (x, weight))


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_only_what_wants_a_gradient_gets_one(wanted):
    x, weight = torch.randn(1, 4, 9, 9), torch.randn(4, 1, 7, 7)
    x.requires_grad_(wanted[0])
    weight.requires_grad_(wanted[1])
    depthwise_conv2d(x, weight).sum().backward()
    assert ((x.grad is not None), (weight.grad is not None)) == wanted


def test_where_it_is_the_faster_way():
    layer, x = DepthwiseConv2d(8, 8, 7, padding=3, groups=8, bias=False), torch.randn(1, 8, 16, 16)
    assert splits_weight_gradient(x, layer.weight)
    assert layer(x).grad_fn.name() == "_DepthwiseConvBackward"
    assert not splits_weight_gradient(x, torch.randn(8, 1, 3, 3, requires_grad=True))
    assert not splits_weight_gradient(x.double(), layer.weight)
    with torch.no_grad():
        assert not splits_weight_gradient(x, layer.weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert not splits_weight_gradient(x, layer.weight.detach())


@pytest.mark.parametrize("width", [1, 2, 3, 6, 7])
def test_maps_narrower_than_the_kernel(width):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 9, width), torch.randn(4, 1, 7, 7)
    expected = results(lambda x, w: F.conv2d(x, w, None, 1, 3, 1, 4), x, weight, torch.ones_like(x))
    for a, b in zip(results(depthwise_conv2d, x, weight, torch.ones_like(x)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_single_image_without_a_batch():
    layer = DepthwiseConv2d(8, 8, 7, padding=3, groups=8, bias=False)
    assert layer(torch.randn(8, 12, 12)).shape == (8, 12, 12)


@pytest.mark.parametrize(
    "options",
    [
        dict(bias=True),
        dict(stride=2),
        dict(dilation=2),
        dict(padding=1),
        dict(padding="same"),
        dict(padding_mode="reflect"),
        dict(groups=4),
        dict(out_channels=16),
    ],
)
def test_other_convolutions_are_left_to_pytorch(options):
    torch.manual_seed(0)
    arguments = dict(in_channels=8, out_channels=8, kernel_size=7, padding=3, groups=8, bias=False) | options
    layer, stock = DepthwiseConv2d(**arguments), torch.nn.Conv2d(**arguments)
    stock.load_state_dict(layer.state_dict())
    x = torch.randn(2, 8, 16, 16)
    assert torch.equal(layer(x), stock(x))
    assert layer(x).grad_fn.name() != "_DepthwiseConvBackward"
