"""Least-squares fit of a Gaussian to a map."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gaussian:
    """``amplitude * exp(-(u / sigma_x)^2 / 2 - (v / sigma_y)^2 / 2)``, u and v turned by theta from the image's axes.

    Attributes:
        amplitude: the value at the centre.
        row, column: the centre, in pixels.
        sigma_x, sigma_y: widths along u and v, in pixels; u is the axis nearer to the horizontal one. Each is NaN where the
            map has none along this axis: it is flat, goes on falling from beyond its edge, or has a single pixel.
        theta: angle from the horizontal axis to u, in degrees, in (-45, 45], positive downwards; NaN if both widths are,
            or if one is because the map has a single row or column.
        r2: share of the map's variance that the fit explains; 1 is perfect, 0 no better than a flat map. Below 0.05 the
            widths are NaN, too.
    """

    amplitude: float
    row: float
    column: float
    sigma_x: float
    sigma_y: float
    theta: float
    r2: float


_LEAST_R2 = 0.05  # of a fit whose widths tell something about the map
WIDEST = 4  # sides of the image; a width at this bound is that of no field
_MAX_SIDE = 96  # pixels along a side that enter the fit; larger maps are averaged down first
_EVALUATIONS = 60  # of the model in one fit, at most


def fit_gaussian(field: np.ndarray) -> Gaussian:
    """Fit by least squares (``scipy.optimize.least_squares``), starting from the map's moments.

    Args:
        field: (H, W), non-negative with some mass. Larger maps are averaged in blocks to at most 96 pixels a side; this
            widens the field by the variance of a block, which is subtracted from the result.

    Returns:
        The Gaussian, in pixels of ``field``.

    Raises:
        ValueError: ``field`` is not (H, W), or has no value above zero.
    """
    values = np.asarray(field, np.float64)
    top = values.max(initial=0)
    if values.ndim != 2 or not top > 0:
        raise ValueError("`field` must be a map (H, W) with some mass.")
    h, w = values.shape
    block = -(-max(h, w) // _MAX_SIDE)
    # Blocks that reach beyond the map are filled up with the values at its edge.
    padded = np.pad(values, ((0, -h % block), (0, -w % block)), mode="edge") if block > 1 else values
    rows, columns = padded.shape[0] // block, padded.shape[1] // block
    small = padded.reshape(rows, block, columns, block).mean((1, 3)) / top
    y, x = (np.arange(n) * block + (block - 1) / 2 for n in (rows, columns))
    p = _solve(small, y, x, _start(small, y, x, block))
    model = _model(p, y, x)[0]
    spread = ((small - small.mean()) ** 2).sum()
    # A map that varies by no more than rounding is flat, whatever a fit makes of it.
    r2 = max(0.0, 1 - float(((small - model) ** 2).sum() / spread)) if spread > 1e-12 * small.size else 0.0
    covariance = np.linalg.inv(_inverse_covariance(p)) - np.eye(2) * (block**2 - 1) / 12
    variances, axes = np.linalg.eigh(covariance)
    sigmas = np.sqrt(np.maximum(variances, 0))
    first = int(np.argmax(np.abs(axes[0])))  # axes[0] has the axes' horizontal components
    u = axes[:, first] * (1 if axes[0, first] >= 0 else -1)
    theta = float(np.degrees(np.arctan2(u[1], u[0])))
    sigma_x, sigma_y = _trusted(sigmas[[first, 1 - first]], p, (h, w), r2)
    if min(h, w) == 1 or np.isnan([sigma_x, sigma_y]).all():
        theta = float("nan")
    return Gaussian(float(p[0] * top), float(p[1]), float(p[2]), sigma_x, sigma_y, theta, r2)


def _trusted(sigmas: np.ndarray, p: np.ndarray, size: tuple[int, int], r2: float) -> tuple[float, float]:
    """The widths along the axes nearer to the horizontal and the vertical, NaN where the map does not tell them."""
    h, w = size
    inside = -0.5 <= p[1] <= h - 0.5 and -0.5 <= p[2] <= w - 0.5
    told = [n > 1 and sigma < 0.99 * WIDEST * max(h - 1, w - 1) for sigma, n in zip(sigmas, (w, h), strict=True)]
    known = inside and r2 >= _LEAST_R2
    sigma_x, sigma_y = (float(s) if known and t else float("nan") for s, t in zip(sigmas, told, strict=True))
    return sigma_x, sigma_y


def _start(small: np.ndarray, y: np.ndarray, x: np.ndarray, block: int) -> np.ndarray:
    """Initial parameters from the moments of what is above half of the maximum."""
    core = np.where(small >= small.max() / 2, small, 0)
    core = core / core.sum()
    row, column = core.sum(1) @ y, core.sum(0) @ x
    # The part above half of the maximum has a smaller variance than the Gaussian; twice that is near enough to start.
    vy = max(2 * (core.sum(1) @ (y - row) ** 2), block**2 / 4)
    vx = max(2 * (core.sum(0) @ (x - column) ** 2), block**2 / 4)
    return np.array([small.max(), row, column, -0.5 * np.log(vx), 0.0, -0.5 * np.log(vy)])


def _inverse_covariance(p: np.ndarray) -> np.ndarray:
    """The inverse covariance (2, 2), positive definite as a Cholesky product; ``p[3:]`` are log l11, l21, log l22."""
    factor = np.array([[np.exp(p[3]), 0.0], [p[4], np.exp(p[5])]])
    return factor @ factor.T


def _model(p: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (h, w) and Jacobian (h * w, 6) for parameters (amplitude, row, column, log l11, l21, log l22)."""
    (a, b), (_, c) = _inverse_covariance(p)
    v, u = np.meshgrid(y - p[1], x - p[2], indexing="ij")
    shape = np.exp(-(a * u * u + 2 * b * u * v + c * v * v) / 2)
    value = p[0] * shape
    l11, l21, l22 = np.exp(p[3]), p[4], np.exp(p[5])
    along, across = l11 * u + l21 * v, l22 * v  # the exponent is -(along^2 + across^2) / 2
    derivatives = [
        shape,
        value * (b * u + c * v),
        value * (a * u + b * v),
        -value * along * l11 * u,
        -value * along * v,
        -value * across * l22 * v,
    ]
    return value, np.stack(derivatives, axis=-1).reshape(-1, 6)


def _solve(small: np.ndarray, y: np.ndarray, x: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Parameters of the least-squares fit. A flat map has no width: it stops at a bound."""
    from scipy.optimize import least_squares

    narrowest = -np.log(WIDEST * max(np.ptp(y), np.ptp(x), 1.0))
    low = np.array([-np.inf, -np.inf, -np.inf, narrowest, -np.inf, narrowest])
    fit = least_squares(
        lambda p: (_model(p, y, x)[0] - small).ravel(),
        np.maximum(start, low),
        jac=lambda p: _model(p, y, x)[1],
        bounds=(low, np.inf),
        x_scale="jac",
        max_nfev=_EVALUATIONS,
    )
    return fit.x
