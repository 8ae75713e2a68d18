"""Numbers that describe a receptive-field map."""

import numpy as np


def area_ratio(field: np.ndarray, share: float = 0.5) -> float:
    """Smallest share of the pixels that holds ``share`` of the map's mass.

    Computed on the linear map; the pixels need not be connected.

    Args:
        field: (H, W), non-negative.
        share: in (0, 1].

    Returns:
        A number in (0, 1]; 1/(H*W) for a single pixel, ``share`` for a flat map.

    Raises:
        ValueError: ``share`` out of range, or the map is empty, negative or all zero.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` is {share!r}; it must be in (0, 1].")
    mass = np.sort(np.asarray(field, np.float64).ravel())[::-1]
    if not mass.size or mass[-1] < 0 or not mass[0] > 0:
        raise ValueError("`field` must be a non-negative map with some mass.")
    reached = np.searchsorted(np.cumsum(mass), share * mass.sum() * (1 - 1e-12)) + 1
    return float(min(reached, mass.size) / mass.size)
