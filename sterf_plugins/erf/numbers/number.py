"""A number that is computed from the mean over inputs: its value, standard error and interval, by a jackknife.

A field averaged over few inputs is spikier than that of many, so that an area computed from it is too small. The
jackknife corrects such a bias: a number is computed again with each group of inputs left out in turn, and from that
follows for each group a *pseudo-value*, what the number would be if it were a mean over groups. Their mean is the
number, and their spread its standard error; those of two results on the same inputs can be subtracted, group by group.
Busing, Meijer, van der Leeden, "Delete-m jackknife for unequal m", Statistics and Computing 9, 1999.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

PERIODS = {"theta": 90.0, "orientation": 180.0}  # of the numbers that are angles, in degrees
_SHARES = ("area_", "rectangle_", "lag_", "entropy", "centre_mass", "gaussian_r2", "exponential_r2")
ROUNDING = 1e-6  # share of a value; an error below it is that of float32


@dataclass(frozen=True)
class Number:
    """A value, its standard error (NaN where there is none), and the degrees of freedom of the error.

    It unpacks as ``value, error = number``.
    """

    value: float
    error: float
    dof: float = math.inf

    def __iter__(self) -> Iterator[float]:
        return iter((self.value, self.error))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval, by Student's t; NaN where there is no error."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.dof, 0.975)) * self.error
        return self.value - half, self.value + half

    def stepping(self, step: float) -> "Number":
        """The number with the error of one that moves in steps at least, which is that of rounding: step / sqrt(12)."""
        return replace(self, error=float(np.maximum(self.error, step / math.sqrt(12))))

    @property
    def format_spec(self) -> str:
        """How the value is written: to the second digit of its error, or with four digits."""
        if not has_error(self.value, self.error):
            return ".4g"
        places = 1 - math.floor(math.log10(self.error))
        return f".{max(places, 0)}f" if places < 9 and abs(self.value) < 1e6 else ".4g"

    def __str__(self) -> str:
        if not has_error(self.value, self.error):
            return significant(self.value, 4)
        return (
            f"{self.value:{self.format_spec}} ± {self.error:{self.format_spec if self.format_spec != '.4g' else '.2g'}}"
        )


def columns(numbers: Mapping[str, Number]) -> dict[str, float]:
    """For each number ``name`` and ``name_error``, as a row of a table has them."""
    return {key: part for name, n in numbers.items() for key, part in ((name, n.value), (f"{name}_error", n.error))}


def has_error(value: float, error: float) -> bool:
    """Whether an error is known, and more than what float32 rounds."""
    return math.isfinite(error) and error > ROUNDING * abs(value)


def significant(value: float, digits: int) -> str:
    """A number as text, with so many significant digits, zeros at its end among them; a whole number has none behind it."""
    if not math.isfinite(value) or (value == round(value) and abs(value) < 1e6):
        return f"{value:.0f}"
    scientific = f"{value:.{digits - 1}e}"
    places = digits - 1 - int(scientific.partition("e")[2])
    return scientific if places > 6 or abs(value) >= 1e6 else f"{value:.{max(places, 0)}f}"


def wrapped(angle: float, period: float | None) -> float:
    """An angle in (-period / 2, period / 2]; without a period the number itself."""
    return angle if period is None else -((-angle + period / 2) % period - period / 2)


def pseudo_values(
    full: float, left_out: Sequence[float], sizes: Sequence[int], period: float | None = None
) -> list[float]:
    """The pseudo-value of each group.

    Args:
        full: the number, of all inputs.
        left_out: the number with each group left out in turn.
        sizes: number of inputs in each group.
        period: that of an angle.

    Returns:
        As many values as groups; none, for an unknown error, below two groups, and where the number or one of the values
        is not finite, as a half-life is that is longer than the steps.
    """
    if len(left_out) < 2 or not np.isfinite([full, *left_out]).all():
        return []
    changes = [wrapped(part - full, period) for part in left_out]
    if max(map(abs, changes)) <= 1e-12 * abs(full):  # they differ by rounding alone
        changes = [0.0] * len(changes)
    total = sum(sizes)
    return [full - (total / size - 1) * change for size, change in zip(sizes, changes, strict=True)]


def jackknife(full: float, pseudo: Sequence[float], sizes: Sequence[int], period: float | None = None) -> Number:
    """The number that pseudo-values give; without any, ``full`` with an unknown error.

    What a correction of the bias may leave is an error of its own, which the spread does not hold.
    """
    if not len(pseudo):
        return Number(full, math.nan)
    deviations = np.asarray(pseudo) - full
    bias = float(np.average(deviations, weights=sizes))
    error = math.hypot(_spread(deviations, sizes), _left_of(bias, None if period else full))
    return Number(wrapped(full + bias, period), error, len(pseudo) - 1)


def _left_of(bias: float, value: float | None) -> float:
    """What the correction of a bias may leave of it, as a standard error: a quarter.

    Of a large one, by a share r of the value, it is twice that share or more: the jackknife removes the part of the bias that
    falls with the number of inputs, and the next one, that falls with its square, is of the order of r². Few fields with a
    value of its own at each pixel, most of them near zero, have such a bias.
    """
    if not value:
        return abs(bias) / 4
    return abs(bias) * math.hypot(1 / 4, min(1.0, 2 * abs(bias / value)))


def _spread(pseudo: np.ndarray, sizes: Sequence[int]) -> float:
    """Standard error of the mean of pseudo-values, weighted by the size of each group."""
    share = np.asarray(sizes) / sum(sizes)
    return math.sqrt(float(np.mean((pseudo - share @ pseudo) ** 2 * share / (1 - share))))


def _correction_error(number: Number, pseudo: Sequence[float], sizes: Sequence[int]) -> float:
    """What ``jackknife`` adds to an error for the correction of the bias."""
    return math.sqrt(max(number.error**2 - _spread(np.asarray(pseudo), sizes) ** 2, 0.0))


def possible(name: str, corrected: float, value: float) -> float:
    """A number whose bias is corrected, but not beyond what it can be.

    It is as it was where few inputs would make a positive one negative; a share is 1 at most, and an anisotropy at least.
    """
    if value > 0 > corrected:
        return value
    if name == "anisotropy":
        return max(corrected, 1.0)
    return min(corrected, 1.0) if name.startswith(_SHARES) else corrected


def effective(masses: Sequence[float]) -> float:
    """How many equal groups are worth as much as some of different mass: Kish's effective size of a sample."""
    return sum(masses) ** 2 / sum(mass**2 for mass in masses)


def change(
    a: Number,
    b: Number,
    pseudo: tuple[Sequence[float], Sequence[float]] | None,
    sizes: Sequence[int],
    period: float | None = None,
) -> Number:
    """``b - a`` with its standard error.

    Args:
        a: the one number.
        b: the other one.
        pseudo: their pseudo-values, of the same groups of inputs; ``None`` if the inputs of the two are independent.
        sizes: number of inputs in each group.
        period: that of an angle.
    """
    same = a.value == b.value or (math.isnan(a.value) and math.isnan(b.value))  # inf - inf would be NaN
    value = 0.0 if same else wrapped(b.value - a.value, period)
    if pseudo is not None:
        changes = [wrapped(q - p, period) for p, q in zip(*pseudo, strict=True)]
        # Twice the difference of what is left of the two biases; of small ones that is half of how much the corrections differ.
        corrections = [_correction_error(number, values, sizes) for number, values in zip((a, b), pseudo, strict=True)]
        error = math.hypot(_spread(np.asarray(changes), sizes), 2 * (corrections[1] - corrections[0]))
        return Number(value, error, min(a.dof, b.dof))
    u, v = a.error**2, b.error**2
    if not u + v > 0:  # none has an error, or that of one is unknown
        return Number(value, u + v)
    inverse = (u**2 / a.dof + v**2 / b.dof) / (u + v) ** 2  # of the degrees of freedom: Welch, Biometrika 34, 1947
    return Number(value, math.sqrt(u + v), 1 / inverse if inverse else math.inf)
