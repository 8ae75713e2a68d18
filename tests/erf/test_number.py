"""Numbers with errors: the jackknife, intervals, and how they are written."""

import math

import numpy as np
import pytest

from sterf_plugins.erf import Number
from sterf_plugins.erf.numbers.estimate import Estimate, group_sizes
from sterf_plugins.erf.numbers.number import change, effective, jackknife, pseudo_values, wrapped


def of_groups(function, values):
    """A number of the mean of values, one input each."""
    estimate = Estimate()
    estimate.add(np.asarray(values, float)[:, None])
    full, parts = function(estimate.value()[0]), [function(part[0]) for part in estimate.without_groups()]
    sizes = group_sizes(len(values))
    pseudo = pseudo_values(full, parts, sizes)
    return jackknife(full, pseudo, sizes), pseudo


@pytest.mark.parametrize("count", [4, 10, 16, 30])
def test_of_a_mean_the_jackknife_gives_its_standard_error(count):
    values = np.random.default_rng(0).normal(5, 1, count)
    number, pseudo = of_groups(float, values)
    assert number.value == pytest.approx(values.mean())
    groups = np.array([values[g::10].mean() for g in range(min(count, 10))])
    assert pseudo == pytest.approx(groups)
    if count <= 10 or count % 10 == 0:  # groups of one size
        assert number.error == pytest.approx(groups.std(ddof=1) / np.sqrt(len(groups)))
    else:
        assert number.error == pytest.approx(values.std(ddof=1) / np.sqrt(count), rel=0.3)


def test_a_bias_is_corrected():
    """The square of a mean is too large by the squared standard error, all of which a jackknife finds."""
    rng = np.random.default_rng(0)
    samples = rng.normal(3, 2, (2000, 8))
    numbers = [of_groups(lambda mean: float(mean**2), sample)[0] for sample in samples]
    assert np.mean([sample.mean() ** 2 for sample in samples]) == pytest.approx(9.5, abs=0.1)
    assert np.mean([n.value for n in numbers]) == pytest.approx(9, abs=0.1)


def test_the_interval_is_by_students_t():
    assert Number(1.0, 0.1, 3).interval == pytest.approx((1 - 0.31824, 1 + 0.31824), abs=1e-5)
    assert Number(1.0, 0.1).interval == pytest.approx((1 - 0.195996, 1 + 0.195996), abs=1e-5)
    assert all(map(math.isnan, Number(1.0, math.nan).interval)) and Number(2.0, 0.0, 9).interval == (2, 2)


def test_numbers_are_written_to_the_second_digit_of_their_error():
    written = {
        (0.01234567, 0.000212): "0.01235 ± 0.00021",
        (31.41592, 0.5): "31.42 ± 0.50",
        (1234.5, 67.0): "1234 ± 67",
        (123456.0, 4321.0): "123456 ± 4321",
        (1234567.0, 4321.0): "1.235e+06 ± 4.3e+03",
        (0.0000123456, math.nan): "1.235e-05",
        (0.25, 0.0): "0.2500",
        (0.005673, 4.5e-12): "0.005673",  # rounding is no error
        (17.0, math.nan): "17",
        (math.inf, math.nan): "inf",
    }
    for (value, error), text in written.items():
        assert str(Number(value, error)) == text


def test_unknown_errors_and_rounding():
    assert pseudo_values(1.0, [1.0], [1]) == [] and pseudo_values(1.0, [math.inf, 1.0], [1, 1]) == []
    assert math.isnan(jackknife(1.0, [], []).error)
    number = jackknife(0.1, pseudo_values(0.1, [0.1 + 1e-16, 0.1 - 1e-16], [2, 2]), [2, 2])
    assert (number.value, number.error) == (0.1, 0.0)


def test_angles_are_subtracted_around_the_circle():
    assert wrapped(91.0, 180.0) == -89 and wrapped(90.0, 180.0) == 90 and wrapped(-90.0, 180.0) == 90
    pseudo = pseudo_values(89.0, [89.0, -89.0], [1, 1], 180.0)  # 89 and 91 degrees
    assert pseudo == [89.0, 87.0]
    assert jackknife(89.0, pseudo, [1, 1], 180.0).value == 88
    assert change(Number(89.0, 1.0), Number(-89.0, 1.0), None, [], 180.0).value == pytest.approx(2)


def test_changes_paired_and_independent():
    rng = np.random.default_rng(0)
    x = rng.normal(5, 1, 40)
    (a, p), (b, q) = of_groups(float, x), of_groups(float, x + 0.1 + rng.normal(0, 0.01, 40))
    paired, independent = change(a, b, (p, q), group_sizes(40)), change(a, b, None, [])
    assert paired.value == independent.value == pytest.approx(0.1, abs=0.01)
    assert paired.error < 0.005 and independent.error == pytest.approx(math.hypot(a.error, b.error))
    assert paired.dof == 9 and 9 < independent.dof <= 18
    for unclear in (Number(1.0, math.nan), Number(math.inf, math.nan)):
        assert math.isnan(change(unclear, b, None, []).error)
    assert change(Number(math.inf, math.nan), Number(math.inf, math.nan), None, []).value == 0
    assert change(Number(1.0, 0.0), Number(2.0, 0.0), None, []) == Number(1.0, 0.0)


def test_groups_of_different_mass_are_worth_fewer():
    assert effective([2.0, 2.0, 2.0]) == 3 and effective([1.0, 0.0, 0.0]) == 1


def test_a_number_unpacks_as_value_and_error():
    value, error = Number(1.0, 0.1, 3)
    assert (value, error) == (1.0, 0.1) and Number(1.0, 0.1) == Number(1.0, 0.1, math.inf)
