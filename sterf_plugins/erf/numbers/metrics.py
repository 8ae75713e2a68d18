"""Numbers that describe a receptive field in space. All are of the linear map, never of a scaled one.

Each function takes a map (H, W) without negative values, unless it says otherwise, and raises ``ValueError`` for one
that is empty, has a negative or infinite value or NaN, or is zero everywhere. Distances are in input pixels. Radii and
extents are about the map's own centre of mass, so that they do not depend on how a stack of strides places its output
over the input.
"""

from collections.abc import Sequence

import numpy as np

from .gaussian import fit_gaussian

SHARES = (0.2, 0.3, 0.5, 0.9, 0.99)


def _mass(field: np.ndarray) -> np.ndarray:
    """The checked map, divided by its sum; float64."""
    mass = np.asarray(field, np.float64)
    if mass.ndim != 2 or not mass.size or not mass.min() >= 0 or not 0 < mass.max() < np.inf:
        raise ValueError("`field` must be a finite, non-negative map (H, W) with some mass.")
    return mass / mass.sum()


def _checked(shares: Sequence[float]) -> np.ndarray:
    """The shares, checked; all of the mass is taken as a rounding error less, which sums of exact parts reach."""
    for share in shares:
        if not 0 < share <= 1:
            raise ValueError(f"`share` is {share!r}; it must be in (0, 1].")
    return np.minimum(shares, 1 - 1e-12)


def area_ratio(field: np.ndarray, share: float = 0.5) -> float:
    """Smallest area, as a share of the image, that holds ``share`` of the map's mass; it need not be connected.

    The mass of a pixel lies evenly within it, and the last pixel counts in part, so that the area does not move in steps.

    Args:
        field: (H, W), non-negative.
        share: in (0, 1].

    Returns:
        A number in (0, 1]; ``share / (H * W)`` for a single pixel, ``share`` for a flat map.

    Raises:
        ValueError: ``share`` out of range, or the map is empty, negative or all zero.
    """
    return _area_ratios(_mass(field), (share,))[0]


def _area_ratios(mass: np.ndarray, shares: Sequence[float]) -> list[float]:
    cumulative = np.append(0, np.cumsum(np.sort(mass, axis=None)[::-1]))
    return [float(n) / mass.size for n in np.interp(_checked(shares), cumulative, np.arange(mass.size + 1))]


def _rectangle_ratios(
    mass: np.ndarray, shares: Sequence[float], centre: tuple[float, float] | None = None
) -> list[float]:
    """Areas, as shares of the image, of the smallest rectangles about a centre that hold these shares of the mass.

    The rectangles have the image's aspect ratio; what would lie outside the image is cut off. The mass of a pixel lies
    evenly within it, so that an area does not move in steps. RepLKNet's area score (arXiv:2203.06717) takes whole pixels
    about the image's centre, and the logarithm of the map.

    Args:
        mass: (H, W), its sum 1.
        shares: in (0, 1].
        centre: row and column in pixels from the upper left corner of the image, so that the middle of the first pixel
            is at (0.5, 0.5); the middle of the image unless given.
    """
    from scipy.ndimage import map_coordinates

    h, w = mass.shape
    y, x = centre or (h / 2, w / 2)
    table = np.pad(mass.cumsum(0).cumsum(1), ((1, 0), (1, 0)))  # [i, j]: the mass above row i and left of column j
    half = np.arange(2 * max(h, w) + 1) / 2  # half the longer side of each rectangle
    top, bottom = (np.clip(y + sign * half * min(1, h / w), 0, h) for sign in (-1, 1))
    left, right = (np.clip(x + sign * half * min(1, w / h), 0, w) for sign in (-1, 1))
    corners = [[bottom, top, bottom, top], [right, right, left, left]]
    inside = np.array([1, -1, -1, 1]) @ map_coordinates(table, corners, order=1)
    areas = (bottom - top) * (right - left) / (h * w)
    return [float(a) for a in np.interp(_checked(shares), np.maximum.accumulate(inside), areas)]


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


def _effective_radii(mass: np.ndarray, shares: Sequence[float]) -> list[float]:
    """Radii of the circles about the centre of mass that hold each share, in (0, 1], of the mass, in pixels.

    The mass of a pixel lies evenly over one pixel along the radius, so that the radius does not move in steps.
    """
    radii = _radii(mass).ravel()
    ring = radii.astype(int)
    outer = mass.ravel() * (radii - ring)  # what of a pixel's mass belongs to the next ring
    count = int(ring.max()) + 2
    rings = np.bincount(ring, mass.ravel() - outer, count) + np.bincount(ring + 1, outer, count)
    squares = np.append(0, (np.arange(count) + 0.5) ** 2)  # the mass within a small circle grows with its area
    return [float(r) for r in np.sqrt(np.interp(_checked(shares), np.append(0, rings.cumsum()), squares))]


def row_extent(field: np.ndarray) -> float:
    """Standard deviation of the mass across rows, i.e. its vertical spread, in pixels."""
    return float(np.sqrt(_moments(_mass(field))[2]))


def column_extent(field: np.ndarray) -> float:
    """Standard deviation of the mass across columns, i.e. its horizontal spread, in pixels."""
    return float(np.sqrt(_moments(_mass(field))[3]))


def _axes(mass: np.ndarray) -> tuple[float, float, float]:
    """Variances along the longer and the shorter principal axis, and the angle of the longer one in degrees."""
    cy, cx, vy, vx = _moments(mass)
    covariance = float((np.arange(mass.shape[0]) - cy) @ mass @ (np.arange(mass.shape[1]) - cx))
    mean, half = (vx + vy) / 2, np.hypot((vx - vy) / 2, covariance)
    angle = np.degrees(np.arctan2(2 * covariance, vx - vy)) / 2 if half > 1e-9 * mean else np.nan
    return float(mean + half), float(max(mean - half, 0)), float(angle)


def anisotropy(field: np.ndarray) -> float:
    """Extent along the longer principal axis over that along the shorter one: 1 for a round field, above for strips.

    It is infinite for a straight line, and NaN for a single pixel, which has no extent.
    """
    longer, shorter, _ = _axes(_mass(field))
    if not longer > 0:
        return float("nan")
    return float(np.sqrt(longer / shorter)) if shorter > 1e-12 * longer else float("inf")


def orientation(field: np.ndarray) -> float:
    """Angle from the horizontal to the longer principal axis, in degrees, in (-90, 90], positive downwards.

    It is NaN for a round field, such as a single pixel.
    """
    return _axes(_mass(field))[2]


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
    return float(cell_masses(_mass(field), size)[at or (size[0] // 2, size[1] // 2)])


def cell_edges(pixels: int, cells: int) -> np.ndarray:
    """The first pixel of each cell along an axis; a cell of less than a pixel is that pixel."""
    return np.arange(cells) * pixels // cells


def cell_masses(mass: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The sums of a map over the input cell of each output pixel, (h, w); ``size`` is that of the layer's output."""
    rows, columns = (cell_edges(n, cells) for n, cells in zip(mass.shape, size, strict=True))
    return np.add.reduceat(np.add.reduceat(mass, rows, axis=0), columns, axis=1)


def _cell_centre(
    shape: tuple[int, ...], size: tuple[int, int], at: tuple[int, int] | None = None
) -> tuple[float, float]:
    """Middle of the input cell of one output pixel, from the upper left corner; arguments as for ``cell_mass``."""
    row, column = at or (size[0] // 2, size[1] // 2)
    return (row + 0.5) * shape[0] / size[0], (column + 0.5) * shape[1] / size[1]


def radial_profile(field: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
    """Mean of the map over rings about its centre of mass, as a curve (max(H, W) // 2,), of a single pixel (1,).

    The rings reach from 0 to 1 pixel, from 1 to 2 pixels and so on, to half of the longer side.

    Args:
        field: (H, W), non-negative.
        values: (H, W), whose means are taken over the rings of ``field``; those of ``field`` itself unless given.
    """
    values = np.asarray(field if values is None else values, np.float64)
    rings = _radii(_mass(field)).astype(int).ravel()
    count = np.bincount(rings)
    longer = values.shape[0] if values.shape[0] > values.shape[1] else values.shape[1]
    profile = np.bincount(rings, values.ravel()) / np.maximum(count, 1)
    return profile[: max(longer // 2, 1)]


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
        field: (H, W); the absolute values of a map with negative ones are described. All numbers of a map that is zero
            everywhere or not finite are NaN: it has no mass that could lie anywhere.
        size: (h, w) of the layer's output; without it the number ``centre_mass`` (see ``cell_mass``) is left out, and the
            rectangles are about the middle of the image instead of the target's cell.
        at: row and column of the target in the output; the middle unless given.
    """
    field = np.abs(np.asarray(field, np.float64))
    if not np.isfinite(field).all() or not field.any():
        return dict.fromkeys(spatial_numbers(np.ones(field.shape), size, at), float("nan"))
    mass = _mass(field)
    centre = size and _cell_centre(mass.shape, size, at)
    names = [f"{s * 100:g}" for s in SHARES]
    numbers = {f"area_{n}": v for n, v in zip(names, _area_ratios(mass, SHARES), strict=True)}
    numbers |= {f"rectangle_{n}": v for n, v in zip(names, _rectangle_ratios(mass, SHARES, centre), strict=True)}
    r50, r90 = _effective_radii(mass, (0.5, 0.9))
    numbers |= {
        "rms_radius": rms_radius(field),
        "r50": r50,
        "r90": r90,
        "row_extent": row_extent(field),
        "column_extent": column_extent(field),
        "anisotropy": anisotropy(field),
        "orientation": orientation(field),
        "entropy": entropy(field),
    }
    if size is not None:
        numbers["centre_mass"] = cell_mass(field, size, at)
    fit = fit_gaussian(field)
    return numbers | {"sigma_x": fit.sigma_x, "sigma_y": fit.sigma_y, "theta": fit.theta, "gaussian_r2": fit.r2}


def mass_at(field: np.ndarray, size: tuple[int, ...], at: tuple[int, ...]) -> float:
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
