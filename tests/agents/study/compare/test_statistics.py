"""The statistics of a comparison, against values derived by hand."""

import numpy as np
import pytest

from tokenwalk.agents.study.compare.statistics import (
    interquartile_mean,
    interval,
    mean_of_known,
    median_of_known,
)


def test_the_interquartile_mean_cuts_off_a_quarter_at_either_end() -> None:
    assert interquartile_mean([np.array([0.0, 1.0, 3.0, 100.0])]) == pytest.approx(2.0)
    assert interquartile_mean([np.array([0.0, 100.0]), np.array([1.0, 3.0])]) == pytest.approx(2.0)
    assert interquartile_mean([np.array([1.0, 3.0])]) == pytest.approx(2.0)


def test_intervals_resample_the_seeds_of_each_cell_separately() -> None:
    low, high = interval([np.zeros(4), np.ones(4)])  # in every resample half of the scores are 0
    assert (low, high) == (0.5, 0.5)
    assert interval([np.array([1.0]), np.ones(4)]) == (None, None)
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(100):
        low, high = interval([rng.normal(size=20)])
        assert low is not None
        assert high is not None
        inside.append(low <= 0.0 <= high)
    assert 0.8 <= np.mean(inside) <= 1.0


def test_a_run_that_never_reaches_the_threshold_counts_as_infinite_in_the_median() -> None:
    assert median_of_known([100.0, None, 300.0]) == 300.0  # sorted: 100, 300, infinity
    assert median_of_known([100.0, 200.0, None, 400.0]) == 300.0  # the mean of 200 and 400
    assert median_of_known([100.0, None]) is None  # the mean of 100 and infinity
    assert median_of_known([None, None, 5.0]) is None
    assert median_of_known([7.0]) == 7.0


def test_the_mean_leaves_out_missing_figures() -> None:
    assert mean_of_known([1.0, None, 4.0]) == 2.5
    assert mean_of_known([None, None]) is None


def test_the_interval_is_the_percentile_interval_of_the_resampled_means() -> None:
    # Two scores, 0 and 1: a resample has mean 0 or 1 with probability 1/4 each, so both quantiles are ends.
    assert interval([np.array([0.0, 1.0])]) == (0.0, 1.0)
    assert interval([np.array([0.5, 0.5])]) == (0.5, 0.5)
