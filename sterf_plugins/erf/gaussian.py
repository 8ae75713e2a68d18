"""Least-squares fit of a Gaussian to a map."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gaussian:
    """``amplitude * exp(-(u / sigma_x)^2 / 2 - (v / sigma_y)^2 / 2)``, u and v turned by theta from the image's axes.

    Attributes:
        amplitude: the value at the centre.
        row, column: the centre, in pixels.
        sigma_x, sigma_y: widths along u and v, in pixels; u is the axis nearer to the horizontal one.
        theta: angle from the horizontal axis to u, in degrees, in (-45, 45], positive downwards.
        r2: share of the map's variance that the fit explains; 1 is perfect.
    """

    amplitude: float
    row: float
    column: float
    sigma_x: float
    sigma_y: float
    theta: float
    r2: float


_MOST = 96  # pixels along a side that enter the fit; larger maps are averaged down first
_STEPS = 40


def fit_gaussian(field: np.ndarray) -> Gaussian:
    """Fit by damped least squares (Levenberg-Marquardt), starting from the map's moments.

    Args:
        field: (H, W), non-negative with some mass. The fit is cut out around the mass and averaged down to at most
            96 pixels a side; the average of a block widens the field by the block's variance, which is taken off.

    Raises:
        ValueError: a map without mass.
    """
    values = np.asarray(field, np.float64)
    top = values.max(initial=0)
    if values.ndim != 2 or not top > 0:
        raise ValueError("`field` must be a map (H, W) with some mass.")
    h, w = values.shape
    block = -(-max(h, w) // _MOST)
    # Whole blocks only: what is left over is padded with the edge's values.
    padded = np.pad(values, ((0, -h % block), (0, -w % block)), mode="edge") if block > 1 else values
    rows, columns = padded.shape[0] // block, padded.shape[1] // block
    small = padded.reshape(rows, block, columns, block).mean((1, 3)) / top
    y, x = (np.arange(n) * block + (block - 1) / 2 for n in (rows, columns))
    p = _solve(small, y, x, _start(small, y, x, block))
    model = _model(p, y, x)[0]
    spread = ((small - small.mean()) ** 2).sum()
    r2 = 1 - ((small - model) ** 2).sum() / spread if spread > 0 else 0.0
    covariance = np.linalg.inv(np.array([[p[3], p[4]], [p[4], p[5]]])) - np.eye(2) * (block**2 - 1) / 12
    variances, axes = np.linalg.eigh(covariance)
    sigmas = np.sqrt(np.maximum(variances, 0))
    first = int(np.argmax(np.abs(axes[0])))  # axes[0]: horizontal components
    u = axes[:, first] * (1 if axes[0, first] >= 0 else -1)
    theta = float(np.degrees(np.arctan2(u[1], u[0])))
    return Gaussian(
        float(p[0] * top), float(p[1]), float(p[2]), float(sigmas[first]), float(sigmas[1 - first]), theta, float(r2)
    )


def _start(small: np.ndarray, y: np.ndarray, x: np.ndarray, block: int) -> np.ndarray:
    """Parameters (amplitude, row, column, a, b, c) from moments of the part above half of the maximum."""
    core = np.where(small >= small.max() / 2, small, 0)
    core = core / core.sum()
    row, column = core.sum(1) @ y, core.sum(0) @ x
    # The variance of what is above half maximum is smaller than the Gaussian's; 2 is near enough to start.
    vy = max(2 * (core.sum(1) @ (y - row) ** 2), block**2 / 4)
    vx = max(2 * (core.sum(0) @ (x - column) ** 2), block**2 / 4)
    return np.array([small.max(), row, column, 1 / vx, 0.0, 1 / vy])


def _model(p: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (h, w) and Jacobian (h * w, 6); a, b, c are the entries of the inverse covariance (xx, xy, yy)."""
    amplitude, row, column, a, b, c = p
    v, u = np.meshgrid(y - row, x - column, indexing="ij")
    shape = np.exp(np.clip(-(a * u * u + 2 * b * u * v + c * v * v) / 2, -700, 50))
    value = amplitude * shape
    jacobian = np.stack(
        [
            shape,
            value * (b * u + c * v),
            value * (a * u + b * v),
            -value * u * u / 2,
            -value * u * v,
            -value * v * v / 2,
        ],
        axis=-1,
    )
    return value, jacobian.reshape(-1, 6)


def _solve(small: np.ndarray, y: np.ndarray, x: np.ndarray, p: np.ndarray) -> np.ndarray:
    damping = 1e-3
    value, jacobian = _model(p, y, x)
    cost = ((small - value) ** 2).sum()
    widest = (4 * max(np.ptp(y), np.ptp(x), 1.0)) ** 2  # a flat map has no width; stop far outside the image
    for _ in range(_STEPS):
        normal = jacobian.T @ jacobian
        gradient = jacobian.T @ (small - value).ravel()
        scale = np.maximum(np.diag(normal), 1e-12)
        while damping < 1e8:
            trial = p + np.linalg.solve(normal + damping * np.diag(scale), gradient)
            smallest = np.linalg.eigvalsh(np.array([[trial[3], trial[4]], [trial[4], trial[5]]]))[0]
            if smallest > 1 / widest:
                value_new, jacobian_new = _model(trial, y, x)
                cost_new = ((small - value_new) ** 2).sum()
                if cost_new <= cost:
                    break
            damping *= 4
        else:
            return p
        done = cost - cost_new <= 1e-12 * max(cost, 1e-30)
        p, value, jacobian, cost = trial, value_new, jacobian_new, cost_new
        damping = max(damping / 4, 1e-12)
        if done:
            break
    return p
