"""Fields by autograd alone, with which tests compare those of ``compute_erf``."""

import numpy as np
import torch


def field(y, leaf, channels=1):
    """The mean over inputs and channels of the absolute gradient of the channel sum in the middle of ``y``."""
    middle = y[(slice(None), slice(None), *(n // 2 for n in y.shape[2:]))]
    (gradient,) = torch.autograd.grad(middle.sum(), leaf, retain_graph=True)
    return gradient.abs().mean(channels).mean(0).numpy()


def same(found, expected):
    return found.shape == expected.shape and np.allclose(found, expected, rtol=1e-6, atol=1e-7 * expected.max())


def leaves(*xs):
    return [x.clone().requires_grad_() for x in xs]


def field_over_time(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The field (H, W) of the output at (4, 4), over the mean of all time steps of inputs (T, B, C, H, W)."""
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, :, :, 4, 4].sum(), leaf)
    return gradient.sum(0).abs().mean(1).mean(0) / len(x)
