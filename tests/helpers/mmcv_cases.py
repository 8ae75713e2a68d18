"""Inputs of mmcv's ops, and what their results are compared by."""

import pytest
import torch

from sterf_plugins import import_hooks

COMPILED = import_hooks.compiled_ops_available()

# Compiled mmcv has these on CUDA only; there is nothing of ours to test then.
not_on_cpu = pytest.mark.skipif(COMPILED, reason="compiled mmcv has no CPU kernel of this op")


def boxes(count, size=60):
    corner = torch.rand(count, 2) * size * 0.6
    return torch.cat([corner, corner + 4 + torch.rand(count, 2) * size * 0.4], 1)


def rois(count, batch=2):
    return torch.cat([torch.randint(batch, (count, 1)).float(), boxes(count)], 1)


def close(ours, expected, atol=1e-10):
    assert ours.shape == expected.shape and torch.allclose(ours, expected, atol=atol), (ours - expected).abs().max()


def same_gradients(ours, expected, inputs, atol=1e-10):
    """Two functions of the same inputs have the same values and the same gradients."""
    close(ours, expected, atol)
    upstream = torch.randn_like(expected)
    grads = (torch.autograd.grad(y, inputs, upstream, retain_graph=True) for y in (ours, expected))
    for got, wanted in zip(*grads, strict=True):
        close(got, wanted, atol)


def deformable_inputs(geometry, extra=0, size=(6, 5)):
    """Input, offset, mask, weight and bias in double precision; offsets of ``extra`` more rows than the output."""
    kernel, stride, padding, dilation, groups, deform_groups = geometry
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    out = [(n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 + extra for n, k in zip(size, kernel, strict=True)]
    taps = kernel[0] * kernel[1] * deform_groups
    offset, mask = torch.randn(2, 2 * taps, *out, dtype=torch.float64), torch.rand(2, taps, *out, dtype=torch.float64)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    weight, bias = torch.randn(8, 4 // groups, *kernel, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    return [tensor.requires_grad_() for tensor in (x, offset, mask, weight, bias)]
