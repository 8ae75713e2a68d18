"""The frozen norm's own gradient against PyTorch's."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sterf_plugins.functional import frozen_batch_norm
from sterf_plugins.layers.batch_norm import BatchNorm1d, BatchNorm2d


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (1, 3, 4, 5)])
def test_values_and_gradients_are_pytorchs(shape, affine):
    generator = torch.Generator().manual_seed(0)
    mean, var, weight, bias = (torch.rand(3, generator=generator, dtype=torch.float64) + 0.5 for _ in range(4))
    weight, bias = (weight, bias) if affine else (None, None)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    upstream = torch.randn(shape, generator=generator, dtype=torch.float64)
    results = []
    for norm in (frozen_batch_norm, lambda *a: F.batch_norm(*a[:-1], eps=a[-1])):
        leaf = x.clone().requires_grad_()
        y = norm(leaf, mean, var, weight, bias, 1e-3)
        y.backward(upstream)
        results.append((y.detach(), leaf.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (2, 3, 4, 5), (1, 3, 1, 1), (1, 3, 6), (4, 3)])
@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
def test_an_activation_in_place_behind_our_norm(order, shape, training, frozen):
    if training and shape == (1, 3, 1, 1):
        pytest.skip("one value per channel has no variance")
    torch.manual_seed(0)
    kind, stock = (BatchNorm2d, nn.BatchNorm2d) if len(shape) == 4 else (BatchNorm1d, nn.BatchNorm1d)
    order = order if len(shape) == 4 else torch.contiguous_format
    x = torch.randn(shape).contiguous(memory_format=order).requires_grad_()
    upstream = torch.randn(*shape[:1], *shape[2:], shape[1]).movedim(-1, 1)  # channels last
    same = x.detach().double().requires_grad_()
    values = []
    for norm, leaf in ((kind(3), x), (stock(3).double(), same)):
        norm.train(training).requires_grad_(not frozen)
        y = nn.ReLU(inplace=True)(norm(leaf))
        values += [y, *torch.autograd.grad(y, leaf, upstream.to(y.dtype))]
    torch.testing.assert_close(values[0].double(), values[2])
    torch.testing.assert_close(values[1].double(), values[3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
def test_samples_that_vmap_turns_into_channels(order, statistics):
    """PyTorch's kernel takes a channels-last gradient of such a map for a contiguous one."""
    torch.manual_seed(0)
    norm = BatchNorm2d(3, track_running_stats=statistics).double().eval()
    x = torch.randn(4, 1, 3, 4, 5, dtype=torch.float64)
    weights = torch.randn(1, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=order)
    x = x.flatten(0, 1).contiguous(memory_format=order).unsqueeze(1)
    found = torch.func.grad(lambda x: torch.func.vmap(lambda s: (norm(s) * weights).sum())(x).sum())(x)
    leaf = x.contiguous().requires_grad_()
    mean, var = (0, 1) if statistics else (leaf.mean((1, 3, 4), True), leaf.var((1, 3, 4), correction=0, keepdim=True))
    (expected,) = torch.autograd.grad(((leaf - mean) / (var + norm.eps) ** 0.5 * weights).sum(), leaf)
    torch.testing.assert_close(found, expected)


def test_running_statistics_do_not_change_under_torch_func():
    norm = BatchNorm2d(3)
    with pytest.raises(RuntimeError, match="mutate"):
        torch.func.grad(lambda x: norm(x).sum())(torch.randn(2, 3, 4, 4))
