"""Statistics over runs: the interquartile mean, its bootstrap interval, and means of figures that may be missing.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (the interquartile
mean, and stratified bootstrap intervals: the seeds of each cell are resampled separately).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 2_000
CONFIDENCE = 0.95
TRIM = 0.25  # the share that is cut off at either end


def interquartile_mean(cells: Sequence[Any]) -> float:
    """Return the mean of the middle half of all scores of ``cells``, pooled."""
    from scipy.stats import trim_mean

    return float(trim_mean(np.concatenate(list(cells)), TRIM))


def interval(cells: Sequence[Any]) -> tuple[float | None, float | None]:
    """Return the 95 % bootstrap interval of the interquartile mean, or (None, None) if a cell has a single seed."""
    if min(map(len, cells)) < 2:
        return None, None
    from scipy.stats import bootstrap, trim_mean

    def statistic(*resampled: Any, axis: int = -1) -> Any:
        return trim_mean(np.concatenate(resampled, axis=axis), TRIM, axis=axis)

    rng = np.random.default_rng(0)
    options: dict[str, Any] = {
        "n_resamples": RESAMPLES,
        "confidence_level": CONFIDENCE,
        "method": "percentile",
        "rng": rng,
    }
    found = bootstrap(tuple(cells), statistic, **options).confidence_interval
    return float(found.low), float(found.high)


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if all are."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def median_of_known(values: Sequence[float | None]) -> float | None:
    """Return the median with None as infinity; None if the median is infinite."""
    middle = float(np.median([math.inf if value is None else value for value in values]))
    return middle if math.isfinite(middle) else None
