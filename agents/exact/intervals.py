"""The normal interval of a mean, the one that every estimate of the package reports."""

from collections.abc import Iterable
from math import sqrt

import numpy as np

from tokenwalk.envs.arrays import FloatArray

NORMAL_95 = 1.959963984540054  # half-width of a 95 % interval in standard errors
NORMAL_9999 = 3.890591886413120  # the same of a 99.99 % interval


def half_width(values: FloatArray, quantile: float = NORMAL_95) -> float:
    """Return quantile * s / sqrt(n) of ``values`` [n], n >= 2; s is the standard deviation with n - 1 below."""
    return quantile * float(values.std(ddof=1)) / sqrt(len(values))


def mean_and_interval(values: Iterable[float]) -> tuple[float, tuple[float, float]]:
    """Return the mean and its 95 % interval (normal approximation); of one value the interval is (-inf, inf)."""
    sample = np.fromiter(values, dtype=np.float64)
    mean = float(sample.mean())
    if len(sample) < 2:
        return mean, (float("-inf"), float("inf"))
    half = half_width(sample)
    return mean, (mean - half, mean + half)
