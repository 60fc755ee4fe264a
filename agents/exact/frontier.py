"""Gold against KL: what happens to the truth while a proxy is optimised ever harder, exactly.

Source: Gao, Schulman and Hilton 2022, "Scaling Laws for Reward Model Overoptimization", with d = sqrt(KL) and the
gold counted from the reference policy's. Best of n: gold = d (alpha - beta d). RL: gold = d (alpha - beta log d).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, log

import numpy as np

from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.evaluation import evaluate, reference_policy
from tokenwalk.agents.exact.tree import ExactTables, paid_weights
from tokenwalk.envs.transition import BoolArray, FloatArray

COEFFICIENTS = 40
GAP = 0.01  # of the way from the reference's pay to the best, and of the best: what the last point may lack
FIRST_KL = 0.01  # nats, or this part of the last point's KL where that is less: where the first point is
PEAK_TOLERANCE = 1e-3  # of the peak's kl_coef, relative
KL_TOLERANCE = 1e-9  # of the KL at which the best gold is read, relative
NEAR_ZERO = 0.1  # of the largest d: a fit leaves out what is below
MAX_STEPS = 200
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Peak:
    """Where the gold is largest along a proxy's path.

    Attributes:
        kl_coef: to a relative 1e-3 where it is inside the path; an end of the path where the gold only rises or falls.
        kl: in nats.
        gold: there.
    """

    kl_coef: float
    kl: float
    gold: float


@dataclass(frozen=True, eq=False)
class Frontier:
    """The exact KL-regularised optima of a proxy, by falling ``kl_coef`` and so by rising KL; n points.

    Attributes:
        kl_coef: float64 [n], geometrically spaced, and closer around the gold's peak.
        kl: float64 [n], of each optimum to the reference policy, in nats.
        proxy: float64 [n], what each is paid.
        gold: float64 [n], what it truly earns.
        best_gold: float64 [n], the most that any policy of no larger KL truly earns.
        spaced: bool [n], which points are of the geometric spacing; the others locate the peak.
        peak: of the gold.
        proxy_optimum: the most that any policy is paid.
        reference_proxy: what the reference policy is paid.
        reference_gold: what it truly earns.
    """

    kl_coef: FloatArray
    kl: FloatArray
    proxy: FloatArray
    gold: FloatArray
    best_gold: FloatArray
    spaced: BoolArray
    peak: Peak
    proxy_optimum: float
    reference_proxy: float
    reference_gold: float


@dataclass(frozen=True)
class Fit:
    """A form of Gao, Schulman and Hilton fitted by least squares.

    Attributes:
        alpha: gold per square root of a nat.
        beta: of the same unit (best of n: gold per nat).
        peak_kl: where the form is largest, in nats; None where it has no peak.
        residual: root mean square of the form's error, in units of gold.
    """

    alpha: float
    beta: float
    peak_kl: float | None
    residual: float


@dataclass(frozen=True)
class _Point:
    """An optimum of the path."""

    kl_coef: float
    kl: float
    paid: float
    gold: float


class _Path:
    """The exact regularised optima of the channels of ``weights``, each worked out once."""

    def __init__(self, tables: ExactTables, weights: Mapping[str, float]) -> None:
        self.mdp, self.weights = tables.mdp, weights
        self._known: dict[float, _Point] = {}

    def at(self, kl_coef: float) -> _Point:
        """Return the optimum at ``kl_coef``; at 0 that of the pay alone, at infinity the reference policy."""
        if kl_coef not in self._known:
            policy = (
                solve(self.mdp, self.weights, discount=1.0, kl_coef=kl_coef).policy
                if kl_coef < np.inf
                else reference_policy(self.mdp)
            )
            found = evaluate(self.mdp, policy)
            point = _Point(kl_coef, found.kl, found.value(self.weights), found.returns["gold"])
            self._known[kl_coef] = point
        return self._known[kl_coef]

    def with_kl(self, kl: float) -> _Point:
        """Return the point of that ``kl`` (to a relative 1e-9), or the end of the path where that is nearer than it.

        The KL falls as kl_coef rises, so two points enclose it. Halving the logarithm of kl_coef is mixed with the
        secant of log KL, which the path is nearly linear in.
        """
        if self.at(0.0).kl <= kl:
            return self.at(0.0)
        known = sorted(self._known.values(), key=lambda point: point.kl_coef)
        ...
        raise NotImplementedError
