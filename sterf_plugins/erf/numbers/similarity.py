"""How alike two maps are, with standard errors."""

from collections.abc import Callable

import numpy as np

from .estimate import Estimate, group_sizes
from .number import Number, jackknife, pseudo_values


def with_errors(
    maps: np.ndarray,
    compute: Callable[[np.ndarray], dict[str, float]],
    steps: Callable[[np.ndarray], dict[str, float]] = lambda mean: {},
) -> dict[str, Number]:
    """What a function computes of the mean over inputs of some maps, (N, ...), with jackknife standard errors.

    The numbers are not corrected for their bias, so that correlations and shares stay within their bounds. ``steps`` gives
    the steps in which some of them move, whose rounding their errors hold at least.
    """
    estimate = Estimate()
    estimate.add(maps)
    full, parts = compute(estimate.value()), [compute(m) for m in estimate.without_groups()]
    sizes, moving = group_sizes(len(maps)), steps(estimate.value())
    numbers = {}
    for key, value in full.items():
        corrected = jackknife(value, pseudo_values(value, [p[key] for p in parts], sizes), sizes)
        numbers[key] = Number(value, corrected.error, corrected.dof).stepping(moving.get(key, 0.0))
    return numbers


def similarity(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """How alike two maps without negative values are, by four numbers; all are 1 if one is a multiple of the other.

    ``rank``: Spearman's rank correlation over the patches where one of them is not zero; that both end where the layers'
    kernels end is no agreement. It is NaN if a map is constant there. ``common_mass``: the sum of the smaller of the two at
    each patch, each map divided by its sum. ``overlap_50``, ``overlap_90``: intersection over union of the smallest areas
    that hold 50 % and 90 % of the mass. The latter three are 0 if a map is zero everywhere.
    """
    from scipy.stats import spearmanr  # takes half a second, and few tools compare maps

    a, b = (np.asarray(m, np.float64).ravel() for m in (a, b))
    some = [m[(a != 0) | (b != 0)] for m in (a, b)]
    constant = any(not m.size or np.ptp(m) == 0 for m in some)
    numbers = {"rank": float("nan") if constant else float(spearmanr(*some).statistic)}
    if not a.any() or not b.any():
        return numbers | dict.fromkeys(("common_mass", "overlap_50", "overlap_90"), 0.0)
    numbers["common_mass"] = float(np.minimum(a / a.sum(), b / b.sum()).sum())
    return numbers | {name: common / both for name, (common, both) in _overlaps(a, b).items()}


def overlap_steps(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """By how much the overlaps of ``similarity`` change with one patch; none where a map is zero everywhere."""
    if not np.any(a) or not np.any(b):
        return {}
    return {name: 1 / both for name, (_, both) in _overlaps(np.ravel(a), np.ravel(b)).items()}


def _overlaps(a: np.ndarray, b: np.ndarray) -> dict[str, tuple[int, int]]:
    """Number of patches in the intersection and in the union of the smallest areas, by the name of the overlap."""
    found = {}
    for share in (0.5, 0.9):
        one, other = _top(a, share), _top(b, share)
        found[f"overlap_{share * 100:g}"] = int((one & other).sum()), int((one | other).sum())
    return found


def _top(values: np.ndarray, share: float) -> np.ndarray:
    """Mask of the smallest number of patches that hold a share of the mass."""
    mass = values / values.sum()
    order = np.argsort(-mass, kind="stable")
    mask = np.zeros(mass.size, bool)
    mask[order[: np.searchsorted(np.cumsum(mass[order]), share * (1 - 1e-12)) + 1]] = True
    return mask
