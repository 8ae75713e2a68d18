"""Frequency responses of neurons and layers: gain and phase, by the Fourier transform of signed receptive fields.

A signed field is the mean linear response of the layer to a small change of its input. To an input that goes up and down
at some frequency it answers at the same frequency, with a gain and a phase:

    H(f) = sum over lags of  dy[T]/dx[T - lag] * exp(-2 pi i f lag)               in time, from the T-ERF
    H(f) = sum over pixels p of  dy/dx[p] * exp(2 pi i f (p - p0))                in space, from the S-ERF

A leaky integrator ``v[t] = a v[t-1] + (1 - a) x[t]`` has the gain ``(1 - a) / sqrt(1 + a**2 - 2 a cos(2 pi f))``. Of spiking
neurons this is the response of the surrogate gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .numbers.estimate import group_sizes
from .numbers.number import Number, jackknife, pseudo_values
from .result import ERFResult

_POINTS = 256  # a transform's length at least, by zeros behind the last lag and the last pixel


@dataclass(frozen=True)
class FrequencyResponse:
    """Gain and phase by frequency; arrays of one length.

    Attributes:
        frequencies: in cycles per time step, or cycles per pixel, from 0 to 1/2.
        gain: absolute value of the response; in space its mean over all directions.
        phase: in radians, negative where the output comes later; in space that of the mean over all directions.
        gain_error: standard errors of the gain over inputs; NaN for a single input, and for a result from a file.
        cutoff: the frequency beyond the peak at which the gain has fallen to 1/sqrt(2) of the peak, interpolated;
            infinite if it does not fall so far.
    """

    frequencies: np.ndarray
    gain: np.ndarray
    phase: np.ndarray
    gain_error: np.ndarray
    cutoff: Number


def temporal_response(result: ERFResult, layer: str) -> FrequencyResponse:
    """The response in time of a layer's last step to an input that changes alike everywhere, from its T-ERF.

    Args:
        result: computed with ``reduce="signed"`` and inputs with a time axis. T should be several time constants: what lies
            beyond the last lag is missing.
        layer: its name.

    Raises:
        ValueError: the result is not signed, or has no such layer or no temporal field.
    """

    def transform(curve: np.ndarray) -> np.ndarray:
        return np.fft.rfft(curve, max(_POINTS, len(curve)))

    curve = _signed(result, layer, "temporal")
    frequencies = np.fft.rfftfreq(max(_POINTS, len(curve)))
    return _response(result, layer, "temporal", frequencies, lambda c: (np.abs(transform(c)), transform(c)))


def spatial_response(result: ERFResult, layer: str) -> FrequencyResponse:
    """The response of a layer at its target to gratings over the image that stand still, from its S-ERF.

    Raises:
        ValueError: the result is not signed, or has no such layer or no spatial field.
    """
    field = _signed(result, layer, "spatial")
    transform, rings, frequencies = _gratings(result, layer, field.shape)
    count = np.bincount(rings)

    def means(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        response = transform(field)
        real, imaginary = (np.bincount(rings, part) for part in (response.real, response.imag))
        return np.bincount(rings, np.abs(response)) / count, (real + 1j * imaginary) / count

    return _response(result, layer, "spatial", frequencies, means)


def _signed(result: ERFResult, layer: str, kind: str) -> np.ndarray:
    """A layer's field of one kind; ``ValueError`` if it is not signed, or not there."""
    if result.info.get("reduce") != "signed":
        raise ValueError(
            f"a frequency response needs the signed field, and this result has reduce={result.info.get('reduce')!r}; "
            f"compute it with reduce='signed'."
        )
    fields = getattr(result, kind)
    if layer not in fields:
        raise ValueError(f"no {kind} field of layer {layer!r} in this result; it has {', '.join(fields) or 'none'}.")
    return fields[layer]


def _gratings(
    result: ERFResult, layer: str, shape: tuple[int, ...]
) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray, np.ndarray]:
    """What gives the responses to gratings about the target, to 1/2 cycle per pixel; their rings; the rings' frequencies."""
    size, at = result.target(layer)
    if size is None or at is None:
        size, at = (1, 1), (0, 0)  # the middle of the image
    row, column = ((i + 0.5) * n / m - 0.5 for i, n, m in zip(at, shape, size, strict=True))
    points = max(_POINTS, *shape)
    fy, fx = np.meshgrid(np.fft.fftfreq(points), np.fft.fftfreq(points), indexing="ij")
    radius = np.hypot(fy, fx)
    inside = radius <= 0.5
    rings = np.round(radius[inside] * points).astype(int)
    turn = np.exp(-2j * np.pi * (fy * row + fx * column))

    def transform(field: np.ndarray) -> np.ndarray:
        return (np.conj(np.fft.fft2(field.astype(np.float64), (points, points))) * turn)[inside]

    return transform, rings, np.bincount(rings, radius[inside]) / np.bincount(rings)


def _response(
    result: ERFResult,
    layer: str,
    kind: str,
    frequencies: np.ndarray,
    means: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> FrequencyResponse:
    """A response with the errors of a jackknife; ``means`` gives the gain and the mean response of a field."""
    field, estimate = getattr(result, kind)[layer], result.estimate(layer, kind)
    gain, response = means(field)
    scale = (
        1.0 if estimate is None else np.abs(field).max() / np.abs(estimate.value()).max()
    )  # what `normalize` divided by
    parts = [] if estimate is None else [scale * means(part)[0] for part in estimate.without_groups()]
    sizes = [] if estimate is None else group_sizes(estimate.count)

    def error(value: float, left_out: list[float]) -> float:
        return jackknife(value, pseudo_values(value, left_out, sizes), sizes).error

    errors = np.array([error(float(g), [float(part[i]) for part in parts]) for i, g in enumerate(gain)])
    cutoff = _cutoff(frequencies, gain)
    spread = error(cutoff, [_cutoff(frequencies, part) for part in parts])
    dof = result.degrees_of_freedom(layer, kind)
    return FrequencyResponse(frequencies, gain, np.unwrap(np.angle(response)), errors, Number(cutoff, spread, dof))


def _cutoff(frequencies: np.ndarray, gain: np.ndarray) -> float:
    """Where the gain has fallen to 1/sqrt(2) of its peak.

    Between two frequencies 1/gain² is taken as linear in the squared frequency, as it is for a slow leaky integrator.
    """
    peak = int(gain.argmax())
    level = gain[peak] / np.sqrt(2)
    below = np.flatnonzero(gain[peak:] <= level)
    if not below.size or not gain[peak] > 0:
        return float("inf")
    end = peak + int(below[0])
    before, at = (gain[end] / level) ** 2, (gain[end] / gain[end - 1]) ** 2
    share = (before - at) / (1 - at)
    low, high = frequencies[end - 1] ** 2, frequencies[end] ** 2
    return float(np.sqrt(low + share * (high - low)))
