"""Numbers that describe a receptive field in space. All are of the linear map, never of a scaled one.

Each function takes a map (H, W) without negative values, unless it says otherwise, and raises ``ValueError`` for one
that is empty, has a negative value, or is zero everywhere. Distances are in input pixels. Radii and extents are about
the map's own centre of mass, so that they do not depend on how a stack of strides places its output over the input.
"""

from collections.abc import Sequence

import numpy as np

from .gaussian import fit_gaussian

SHARES = (0.2, 0.3, 0.5, 0.9, 0.99)


def _mass(field: np.ndarray) -> np.ndarray:
    """The checked map, divided by its sum; float64."""
    mass = np.asarray(field, np.float64)
    if mass.ndim != 2 or not mass.size or not mass.min() >= 0 or not mass.max() > 0:
        raise ValueError("`field` must be a non-negative map (H, W) with some mass.")
    return mass / mass.sum()


def _checked(shares: Sequence[float]) -> np.ndarray:
    """The shares, checked, and made smaller by a rounding error so that sums of exact parts reach them."""
    for share in shares:
        if not 0 < share <= 1:
            raise ValueError(f"`share` is {share!r}; it must be in (0, 1].")
    return np.asarray(shares, np.float64) * (1 - 1e-12)


def area_ratio(field: np.ndarray, share: float = 0.5) -> float:
    """Smallest share of the pixels that holds ``share`` of the map's mass; they need not be connected.

    Args:
        field: (H, W), non-negative.
        share: in (0, 1].

    Returns:
        A number in (0, 1]; 1/(H*W) for a single pixel, ``share`` for a flat map.

    Raises:
        ValueError: ``share`` out of range, or the map is empty, negative or all zero.
    """
    return _area_ratios(_mass(field), (share,))[0]


def _area_ratios(mass: np.ndarray, shares: Sequence[float]) -> list[float]:
    cumulative = np.cumsum(np.sort(mass, axis=None)[::-1])
    pixels = np.searchsorted(cumulative, _checked(shares)) + 1
    return [float(n) for n in np.minimum(pixels, mass.size) / mass.size]


def rectangle_ratio(field: np.ndarray, share: float = 0.5) -> float:
    """Area, as a share of the image, of the smallest centred rectangle with ``share`` of the mass.

    The rectangle has the image's aspect ratio and lies around pixel (H // 2, W // 2); what would lie outside the image
    is cut off. This is the area score of RepLKNet (arXiv:2203.06717), but of the linear map instead of its logarithm.

    Args:
        field: (H, W), non-negative.
        share: in (0, 1].

    Raises:
        ValueError: ``share`` out of range, or the map is empty, negative or all zero.
    """
    return _rectangle_ratios(_mass(field), (share,))[0]


def _rectangle_ratios(mass: np.ndarray, shares: Sequence[float]) -> list[float]:
    h, w = mass.shape
    longer = h if h > w else w
    table = np.zeros((h + 1, w + 1))  # [i, j]: the mass above row i and left of column j
    table[1:, 1:] = mass.cumsum(0).cumsum(1)
    n = np.arange(longer // 2 + 1)  # half the longer side of each rectangle
    rows, columns = np.round(n * h / longer).astype(int), np.round(n * w / longer).astype(int)
    top, bottom = np.maximum(h // 2 - rows, 0), np.minimum(h // 2 + rows + 1, h)
    left, right = np.maximum(w // 2 - columns, 0), np.minimum(w // 2 + columns + 1, w)
    inside = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    smallest = np.minimum(np.searchsorted(inside, _checked(shares)), len(inside) - 1)
    return [float(n) for n in (bottom - top)[smallest] * (right - left)[smallest] / (h * w)]


def _moments(mass: np.ndarray) -> tuple[float, float, float, float]:
    """Centre (row, column) and variances along rows' and columns' axes."""
    rows, columns = mass.sum(1), mass.sum(0)
    y, x = np.arange(len(rows)), np.arange(len(columns))
    cy, cx = float(rows @ y), float(columns @ x)
    return cy, cx, float(rows @ (y - cy) ** 2), float(columns @ (x - cx) ** 2)


def _radii(mass: np.ndarray) -> np.ndarray:
    """Distance of each pixel from the centre of mass, (H, W)."""
    cy, cx, _, _ = _moments(mass)
    h, w = mass.shape
    return np.hypot(*np.meshgrid(np.arange(h) - cy, np.arange(w) - cx, indexing="ij"))


def rms_radius(field: np.ndarray) -> float:
    """Root of the mean squared distance of the mass from its centre, in pixels."""
    _, _, vy, vx = _moments(_mass(field))
    return float(np.sqrt(vy + vx))


def effective_radius(field: np.ndarray, share: float = 0.5) -> float:
    """Radius of the circle about the centre of mass that holds ``share``, in (0, 1], of the mass, in pixels."""
    return _effective_radii(_mass(field), (share,))[0]


def _effective_radii(mass: np.ndarray, shares: Sequence[float]) -> list[float]:
    radii = _radii(mass).ravel()
    order = np.argsort(radii)
    at = np.searchsorted(np.cumsum(mass.ravel()[order]), _checked(shares))
    return [float(r) for r in radii[order][np.minimum(at, len(order) - 1)]]


def row_extent(field: np.ndarray) -> float:
    """Standard deviation of the mass across rows, i.e. its vertical spread, in pixels."""
    return float(np.sqrt(_moments(_mass(field))[2]))


def column_extent(field: np.ndarray) -> float:
    """Standard deviation of the mass across columns, i.e. its horizontal spread, in pixels."""
    return float(np.sqrt(_moments(_mass(field))[3]))


def anisotropy(field: np.ndarray) -> float:
    """Column extent over row extent: 1 for a round field, above for horizontal strips; infinite for a single row."""
    _, _, vy, vx = _moments(_mass(field))
    if vy == vx:
        return 1.0
    return float(np.sqrt(vx / vy)) if vy > 0 else float("inf")


def entropy(field: np.ndarray) -> float:
    """Shannon entropy of the normalised map over that of a flat one: 0 for a single pixel, 1 for a flat map."""
    mass = _mass(field)
    if mass.size == 1:
        return 0.0
    some = mass[mass > 0]
    return float(-(some * np.log(some)).sum() / np.log(mass.size)) + 0.0


def cell_mass(field: np.ndarray, size: tuple[int, int], at: tuple[int, int] | None = None) -> float:
    """Share of the mass that lies in the input cell of one output pixel.

    Args:
        field: (H, W), non-negative.
        size: (h, w) of the layer's output; a cell is (H / h, W / w) input pixels.
        at: row and column of the output pixel; (h // 2, w // 2) unless given.
    """
    mass = _mass(field)
    row, column = at or (size[0] // 2, size[1] // 2)
    y, x = (n / s for n, s in zip(mass.shape, size, strict=True))
    rows = slice(int(row * y), max(int(row * y) + 1, int((row + 1) * y)))
    columns = slice(int(column * x), max(int(column * x) + 1, int((column + 1) * x)))
    return float(mass[rows, columns].sum())


def radial_profile(field: np.ndarray) -> np.ndarray:
    """Mean of the map over rings about the centre of mass, as a curve (max(H, W) // 2,).

    The rings reach from 0 to 1 pixel, from 1 to 2 pixels and so on, to half of the longer side.
    """
    values = np.asarray(field, np.float64)
    rings = _radii(_mass(field)).astype(int).ravel()
    count = np.bincount(rings)
    longer = values.shape[0] if values.shape[0] > values.shape[1] else values.shape[1]
    profile = np.bincount(rings, values.ravel()) / np.maximum(count, 1)
    return profile[: longer // 2]


def spectrum(field: np.ndarray) -> np.ndarray:
    """Magnitude (H, W) of the 2-d Fourier transform of the map with unit mass, zero frequency in the middle.

    The map may have negative values; one that is zero everywhere stays so.
    """
    values = np.asarray(field, np.float64)
    total = np.abs(values).sum()
    return np.abs(np.fft.fftshift(np.fft.fft2(values / total if total > 0 else values)))


def spatial_numbers(
    field: np.ndarray, size: tuple[int, int] | None = None, at: tuple[int, int] | None = None
) -> dict[str, float]:
    """All numbers of a map (H, W), by name.

    Args:
        field: (H, W); the absolute values of a map with negative ones are described.
        size: (h, w) of the layer's output; the number ``centre_mass`` (see ``cell_mass``) is left out without it.
        at: row and column of the target in the output; the middle unless given.
    """
    field = np.abs(np.asarray(field, np.float64))
    mass = _mass(field)
    names = [f"{s * 100:g}" for s in SHARES]
    numbers = {f"area_{n}": v for n, v in zip(names, _area_ratios(mass, SHARES), strict=True)}
    numbers |= {f"rectangle_{n}": v for n, v in zip(names, _rectangle_ratios(mass, SHARES), strict=True)}
    r50, r90 = _effective_radii(mass, (0.5, 0.9))
    numbers |= {
        "rms_radius": rms_radius(field),
        "r50": r50,
        "r90": r90,
        "row_extent": row_extent(field),
        "column_extent": column_extent(field),
        "anisotropy": anisotropy(field),
        "entropy": entropy(field),
    }
    if size is not None:
        numbers["centre_mass"] = cell_mass(field, size, at)
    fit = fit_gaussian(field)
    return numbers | {"sigma_x": fit.sigma_x, "sigma_y": fit.sigma_y, "theta": fit.theta, "gaussian_r2": fit.r2}


def mass_at(field: np.ndarray, size: tuple[int, int], at: tuple[int, int]) -> float:
    """How dense the mass is around the target, compared with the whole map: 1 for a flat map, 0 if there is none.

    Around the target is its own cell of the layer's output, with a margin of one cell and of a sixteenth of the map.

    Args:
        field: (H, W), non-negative.
        size: (h, w) of the layer's output.
        at: row and column of the target in it.
    """
    mass = _mass(field)
    spans = []
    for n, cells, index in zip(mass.shape, size, at, strict=True):
        margin = max(n / cells, n / 16)
        low, high = index * n / cells - margin, (index + 1) * n / cells + margin
        spans.append(slice(max(0, int(low)), int(np.ceil(high))))
    part = mass[spans[0], spans[1]]
    return float(part.sum() / (part.size / mass.size))
