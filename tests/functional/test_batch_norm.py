"""The frozen norm's own gradient against PyTorch's."""

import pytest
import torch
from torch.nn import functional as F

from sterf_plugins.functional import frozen_batch_norm


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
