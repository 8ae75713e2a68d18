"""What a bank of receptive fields accepts: its numbers, its orders and its window, and what the pixel grid can hold."""

import math
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ...checks import distinct, entries, finite_number, positive_int, whole_number
from ...functional import affine_gaussian as ag

# Below these standard deviations along the shorter axis, in pixels, a derivative of order 1 or 2 is more than about a
# per cent wrong.
_ACCURATE = {"sampled": {1: 0.65, 2: 0.8}, "integrated": {1: 0.65, 2: 0.8}, "integrated_comp": {1: 0.6, 2: 0.6}}
# The pixel grid cannot represent fields whose shorter standard deviation is not above these, in pixels.
_REPRESENTABLE = {"sampled": 0.3, "integrated": 0.1, "integrated_comp": 0.3, "stencil": 0.3, "discrete": 0.0}
# Learned sigmas start at so much of the range of their bounds from each bound, in logarithms, at least.
_ROOM = 0.01


def numbers(name: str, values: Sequence[float], lowest: float | None = None) -> list[float]:
    """The values as different floats that are finite and, for ``lowest`` 0 or 1, > 0 or >= 1."""
    values = [finite_number(name, v) for v in entries(name, values)]
    if not values:
        raise ValueError(f"`{name}` is empty; a bank needs at least one entry.")
    requirement = {None: "finite", 0.0: "> 0", 1.0: ">= 1; swap the axes by angle + pi/2 instead"}[lowest]
    for v in values:
        if not (lowest is None or (v >= 1 if lowest else v > 0)):
            raise ValueError(f"`{name}` holds {v}; it must be {requirement}.")
    distinct(name, values)
    return values


def derivative_orders(orders: int | Iterable[ag.Order]) -> tuple[ag.Order, ...]:
    """The pairs (m, n); an int N stands for all with m + n <= N."""
    if not isinstance(orders, Iterable):
        highest = whole_number("orders", orders, "an int, or a list of (m, n)")
        if highest < 0:
            raise ValueError(f"`orders` is {orders}; it must be >= 0, or a list of (m, n).")
        return tuple((k - n, n) for k in range(highest + 1) for n in range(k + 1))
    pairs = [entries("orders", pair) for pair in entries("orders", orders)]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"`orders` is {orders!r}; it must be an int, or a list of at least one (m, n).")
    checked = tuple((whole_number("orders", m), whole_number("orders", n)) for m, n in pairs)
    if min(map(min, checked)) < 0:
        raise ValueError(f"`orders` is {checked}; m and n must be >= 0.")
    distinct("orders", checked)
    return checked


def window_size(frames: Tensor, kernel_size: int | None, truncate: float) -> int:
    """The side of the window: as given, or ``truncate`` standard deviations of the widest field to each side."""
    if kernel_size is not None:
        if positive_int("kernel_size", kernel_size) % 2 == 0:
            raise ValueError(f"`kernel_size` is {kernel_size}; it must be odd, so that a field has a centre pixel.")
        return int(kernel_size)
    if not truncate > 0:
        raise ValueError(f"`truncate` is {truncate}; it must be > 0 standard deviations, such as 3.")
    reach = ag.eigen_of_covariance(ag.covariance_of(frames))[0].max().item()
    return 2 * max(1, math.ceil(truncate * reach - 1e-9)) + 1


def sigma_bounds(bounds: tuple[float, float], frames: Tensor) -> tuple[float, float]:
    """The bounds as floats; an error unless they leave room about all sigmas, since at a bound the gradient is 0."""
    ends = tuple(finite_number("bounds", b) for b in entries("bounds", bounds))
    if len(ends) != 2:
        raise ValueError(f"`bounds` is {bounds}; it must be two numbers, (lowest, highest) sigma.")
    low, high = ends
    sigma = torch.linalg.det(frames).abs().sqrt()
    room = (high / low) ** _ROOM if 0 < low < high else math.inf
    if not (sigma.min() >= low * room and sigma.max() <= high / room):
        raise ValueError(
            f"`bounds` is {bounds}; it must be 0 < low < high, with all sigmas, {sigma.min().item():.3g} to "
            f"{sigma.max().item():.3g}, well between them: one at a bound would never be learned."
        )
    return low, high


def check_sampling(frames: Tensor, orders: Sequence[ag.Order], kernel_size: int, discretization: str) -> None:
    """Raise or warn if fields are too small for the pixel grid or too large for the window.

    Args:
        frames: the fields' frames in pixels, (N, 2, 2).
        orders: (m, n) derivative orders along the two columns of a frame.
        kernel_size: side of the window in pixels.
        discretization: one of ``functional.affine_gaussian.DISCRETIZATIONS``.

    Raises:
        ValueError: the fields cannot be represented.

    Warns:
        UserWarning: their derivatives are inaccurate, or the window is below 2 standard deviations.
    """
    sigma1, sigma2, _ = ag.eigen_of_covariance(ag.covariance_of(frames))
    smallest, widest, half = sigma2.min().item(), sigma1.max().item(), kernel_size // 2
    lowest = _REPRESENTABLE[discretization]
    if smallest <= lowest:
        raise ValueError(
            f"the smallest standard deviation of the bank is {smallest:.3g} pixels; {discretization!r} needs "
            f"more than {lowest}. Take larger `sigmas`, smaller `ratios`, or discretization='discrete'."
        )
    if half < widest:
        raise ValueError(
            f"`kernel_size` {kernel_size} is too small for a field with a standard deviation of {widest:.3g} "
            f"pixels: its window must reach 1 of them and should reach 3, kernel_size={2 * math.ceil(3 * widest) + 1}."
        )
    if half < 2 * widest:
        warnings.warn(
            f"kernel_size {kernel_size} is a window of {half / widest:.2g} standard deviations of the widest "
            f"field ({widest:.3g} pixels); below 2 the responses are more than 10 % off.",
            stacklevel=4,
        )
    order = min(2, max(m + n for m, n in orders))
    needed = _ACCURATE.get(discretization, {}).get(order, 0)
    if smallest < needed:
        other = "'stencil' or 'discrete'" if smallest < 0.6 else "'integrated_comp'"
        warnings.warn(
            f"derivatives of order {order} are inaccurate at a standard deviation of {smallest:.3g} pixels with "
            f"discretization={discretization!r} (they need {needed}); use {other}, or larger fields.",
            stacklevel=4,
        )
