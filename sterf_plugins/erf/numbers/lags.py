"""Numbers that describe a receptive field in time.

Each function takes a curve (T,): a T-ERF by lag 0..T-1 in time steps, of which the absolute values count. It raises
``ValueError`` for an array of another shape and for a curve that is zero everywhere.
"""

import numpy as np


def lag_mass(curve: np.ndarray) -> np.ndarray:
    """Share of the mass at each lag 0..T-1, (T,).

    Raises:
        ValueError: ``curve`` is not (T,), or is zero everywhere.
    """
    mass = np.abs(np.asarray(curve, np.float64))
    if mass.ndim != 1 or not mass.size or not mass.sum() > 0:
        raise ValueError("`curve` must be (T,) with some mass.")
    return mass / mass.sum()


def mean_lag(curve: np.ndarray) -> float:
    """Mean of the lags, weighted by the mass at each, in steps."""
    mass = lag_mass(curve)
    return float(mass @ np.arange(len(mass)))


def half_life(curve: np.ndarray) -> float:
    """Steps from the peak until the mass per lag has fallen to half of it, interpolated in the logarithm.

    Infinite if it does not fall so far within T steps.
    """
    mass = lag_mass(curve)
    peak = int(mass.argmax())
    below = np.flatnonzero(mass[peak:] <= mass[peak] / 2)
    if not below.size:
        return float("inf")
    end = peak + int(below[0])
    high, low = mass[end - 1], mass[end]
    if low <= 0:
        return float(end - 1 - peak + (high - mass[peak] / 2) / high)
    return float(end - 1 - peak + np.log(high / (mass[peak] / 2)) / np.log(high / low))


def exponential_fit(curve: np.ndarray) -> tuple[float, float]:
    """Time constant of ``exp(-lag / constant)`` fitted to the curve, in steps, and R^2.

    The fit is a straight line through the logarithm, weighted by the squared mass, which to first order is the
    least-squares fit of the curve itself. A curve that grows with the lag has a negative time constant, a flat one an
    infinite one. Both numbers are NaN if fewer than two lags have mass.
    """
    mass = lag_mass(curve)
    lags = np.flatnonzero(mass > 0)
    if lags.size < 2:
        return float("nan"), float("nan")
    weights = mass[lags]
    slope, offset = np.polyfit(lags, np.log(mass[lags]), 1, w=weights)
    fit = np.exp(offset + slope * np.arange(len(mass)))
    spread = ((mass - mass.mean()) ** 2).sum()
    r2 = 1 - ((mass - fit) ** 2).sum() / spread if spread > 0 else 1.0
    return (float(-1 / slope) if abs(slope) > 1e-12 else float("inf")), float(r2)


def temporal_numbers(curve: np.ndarray) -> dict[str, float]:
    """All numbers of a curve by name: the functions above, and the mass at each lag as ``lag_0``, ``lag_1``, ...

    All are NaN for a curve that is zero everywhere or not finite: it has no mass that could lie at any lag.
    """
    if not np.isfinite(curve).all() or not np.any(curve):
        return dict.fromkeys(temporal_numbers(np.ones(len(curve))), float("nan"))
    constant, r2 = exponential_fit(curve)
    numbers = {"mean_lag": mean_lag(curve), "half_life": half_life(curve), "time_constant": constant}
    numbers["exponential_r2"] = r2
    return numbers | {f"lag_{i}": float(m) for i, m in enumerate(lag_mass(curve))}


def frame_numbers(curve: np.ndarray) -> dict[str, float]:
    """Where the mass of a field lies along the frames of a video or the slices of a volume, of its sums over each, (D,).

    ``mean_frame`` is the centre of mass, counted from 0, and ``frame_extent`` the standard deviation, in frames.
    """
    mass, frames = lag_mass(curve), np.arange(len(curve))
    mean = float(mass @ frames)
    return {"mean_frame": mean, "frame_extent": float(np.sqrt(mass @ (frames - mean) ** 2))}
