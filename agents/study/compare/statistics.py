"""Statistics over runs: the interquartile mean, its bootstrap interval, and means where some figures do not exist.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (the interquartile
mean, and bootstrap intervals that draw the seeds of each cell apart).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 2_000
CONFIDENCE = 0.95
TRIM = 0.25  # on either side of the interquartile mean


def interquartile_mean(cells: Sequence[Any]) -> float:
    """Return the mean of what lies between the quartiles of all the scores of ``cells`` together."""
    from scipy.stats import trim_mean

    return float(trim_mean(np.concatenate(list(cells)), TRIM))


def interval(cells: Sequence[Any]) -> tuple[float | None, float | None]:
    """Return the 95 % interval of that mean, the seeds of each cell drawn apart; None where a cell has one seed."""
    if min(map(len, cells)) < 2:
        return None, None
    from scipy.stats import bootstrap, trim_mean

    def statistic(*drawn: Any, axis: int = -1) -> Any:
        return trim_mean(np.concatenate(drawn, axis=axis), TRIM, axis=axis)

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
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def median_of_known(values: Sequence[float | None]) -> float | None:
    """Return the median where most are known: one that was never reached lies above all."""
    middle = float(np.median([math.inf if value is None else value for value in values]))
    return middle if math.isfinite(middle) else None
