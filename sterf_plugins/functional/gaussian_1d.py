"""One-dimensional Gaussian filters, for separable passes and as references. Arrays are float64, on the CPU."""

import math

import torch
from torch import Tensor

from .affine_gaussian import difference_mask

FILTERS = ("sampled", "normalized", "integrated", "linear", "discrete")


def gaussian_filter(sigma: float, kind: str = "discrete", epsilon: float = 1e-3) -> Tensor:
    """A smoothing filter (2 N + 1,).

    "sampled": at the integers; "normalized": divided by its sum; "integrated": over each pixel; "linear": weighted
    by a triangle of width 2 (adds 1/6 to the variance); "discrete": e^-s I_n(s), s = sigma^2, the discrete analogue.

    The half width leaves out at most ``epsilon`` of the mass: of the discrete analogue itself for "discrete", a tenth
    more than the continuous Gaussian needs for the others.

    Raises:
        ValueError: unknown kind, or ``sigma <= 0``.
    """
    if not sigma > 0:
        raise ValueError(f"`sigma` is {sigma}; it must be > 0 pixels.")
    if kind == "discrete":
        return _discrete(sigma, epsilon)
    reach = -float(torch.special.ndtri(torch.tensor(epsilon / 2, dtype=torch.float64)))
    n = torch.arange(-(half := math.ceil(1.1 * sigma * reach)), half + 1, dtype=torch.float64)
    if kind == "sampled":
        return _density(n, sigma)
    if kind == "normalized":
        return _density(n, sigma) / _density(n, sigma).sum()
    if kind == "integrated":
        return _mass(n + 0.5, sigma) - _mass(n - 0.5, sigma)
    if kind == "linear":
        return _ramp(n + 1, sigma) - 2 * _ramp(n, sigma) + _ramp(n - 1, sigma)
    raise ValueError(f"`kind` is {kind!r}; allowed: {', '.join(FILTERS)}.")


def gaussian_derivative_filter(sigma: float, order: int, kind: str = "sampled", half: int = 8) -> Tensor:
    """d^order/dx^order of a Gaussian, not scale-normalised; (2 half + 1,), a convolution filter.

    "sampled" at the integers; "integrated" over each pixel; "discrete": central differences of the discrete analogue.
    """
    if kind == "discrete":
        reach = (order + 1) // 2
        smooth = discrete_analogue(sigma, half + reach)
        taps = torch.tensor(difference_mask(order), dtype=torch.float64)
        found = torch.nn.functional.conv1d(smooth[None, None], taps[None, None])[0, 0]
        extra = (len(found) - 2 * half - 1) // 2
        return found[extra : extra + 2 * half + 1]
    n = torch.arange(-half, half + 1, dtype=torch.float64)
    if kind == "sampled":
        return _derivative(n, sigma, order)
    if kind == "integrated":
        if order == 0:
            return _mass(n + 0.5, sigma) - _mass(n - 0.5, sigma)
        return _derivative(n + 0.5, sigma, order - 1) - _derivative(n - 0.5, sigma, order - 1)
    raise ValueError(f"`kind` is {kind!r}; allowed: 'sampled', 'integrated', 'discrete'.")


def discrete_analogue(sigma: float, half: int) -> Tensor:
    """e^-s I_n(s) for n = -half..half, s = sigma^2, by Miller's downward recurrence (the upward one is unstable)."""
    s = sigma * sigma
    start = 2 * (half + 20 + math.ceil(6 * sigma))
    after, now, values = 0.0, 1e-280, [0.0] * (start + 1)
    for n in range(start, -1, -1):
        values[n] = now
        before = after + (2 * n / s) * now
        after, now = now, before
        if abs(now) > 1e200:  # rescale before it overflows
            after, now, values = after * 1e-200, now * 1e-200, [v * 1e-200 for v in values]
    right = torch.tensor(values, dtype=torch.float64)
    right = right / (right[0] + 2 * right[1:].sum())
    return torch.cat([right[1 : half + 1].flip(0), right[: half + 1]])


def _discrete(sigma: float, epsilon: float) -> Tensor:
    full = discrete_analogue(sigma, 4 + math.ceil(12 * sigma + 8))
    middle = len(full) // 2
    tails = 2 * full[middle + 1 :].flip(0).cumsum(0).flip(0)  # two-sided mass beyond 0, 1, ...
    half = int((tails >= epsilon).sum())
    return full[middle - half : middle + half + 1]


def _density(x: Tensor, sigma: float) -> Tensor:
    return torch.exp(-(x**2) / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma)


def _mass(x: Tensor, sigma: float) -> Tensor:
    return torch.special.ndtr(x / sigma)


def _ramp(x: Tensor, sigma: float) -> Tensor:
    """The second antiderivative of the Gaussian."""
    return x * _mass(x, sigma) + sigma**2 * _density(x, sigma)


def _derivative(x: Tensor, sigma: float, order: int) -> Tensor:
    before, now = torch.zeros_like(x), torch.ones_like(x)
    for k in range(order):
        before, now = now, x / sigma * now - k * before
    return (-1 / sigma) ** order * now * _density(x, sigma)
