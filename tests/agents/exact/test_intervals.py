"""The normal interval against the inverse of the normal distribution function and a standard deviation by hand."""

from statistics import NormalDist

import numpy as np
import pytest

from tokenwalk.agents.exact.intervals import NORMAL_95, NORMAL_9999, half_width, mean_and_interval


def test_the_quantiles_leave_5_and_a_hundredth_of_a_percent_outside() -> None:
    assert pytest.approx(NormalDist().inv_cdf(1 - 0.05 / 2), abs=1e-14) == NORMAL_95
    assert pytest.approx(NormalDist().inv_cdf(1 - 0.0001 / 2), abs=1e-9) == NORMAL_9999


def test_the_half_width_divides_by_one_less_than_the_number_of_values() -> None:
    # The values 0 and 2 have the mean 1 and the variance ((0 - 1)^2 + (2 - 1)^2) / (2 - 1) = 2: s / sqrt(n) is 1.
    assert half_width(np.array([0.0, 2.0])) == pytest.approx(NORMAL_95, abs=1e-15)
    assert half_width(np.array([0.0, 2.0]), NORMAL_9999) == pytest.approx(NORMAL_9999, abs=1e-15)
    mean, (low, high) = mean_and_interval([0.0, 2.0])
    assert (mean, low, high) == (1.0, pytest.approx(1 - NORMAL_95), pytest.approx(1 + NORMAL_95))


def test_one_value_has_an_unknown_interval() -> None:
    assert mean_and_interval([3.0]) == (3.0, (float("-inf"), float("inf")))
