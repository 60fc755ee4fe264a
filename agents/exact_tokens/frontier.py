"""Gold against KL: the exact gold of the KL-regularized optima of a proxy as kl_coef falls.

Source: Gao, Schulman and Hilton 2022, "Scaling Laws for Reward Model Overoptimization", with d = sqrt(KL) and the
gold counted from the reference policy's. Best of n: gold = d (alpha - beta d). RL: gold = d (alpha - beta log d).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, log

import numpy as np

from tokenwalk.agents.exact.bellman import NotConvergedError
from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.evaluation import evaluate, reference_policy
from tokenwalk.agents.exact_tokens.exact_tables import ExactTables, train_weights
from tokenwalk.envs.arrays import BoolArray, FloatArray

COEFFICIENTS = 40
GAP = 0.01  # the last point may be below the optimum by this share of it and of its distance to the reference
FIRST_KL = 0.01  # nats, or this share of the optimum's KL where that is less: the first point
PEAK_TOLERANCE = 1e-3  # of the peak's kl_coef, relative
KL_TOLERANCE = 1e-9  # of the KL at which the best gold is read, relative
NEAR_ZERO = 0.1  # of the largest d: a fit leaves out smaller d
MAX_STEPS = 200
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Peak:
    """Where the gold is largest along a proxy's path.

    Attributes:
        kl_coef: to a relative 1e-3 inside the path; an end of the path if the gold only rises or falls.
        kl: in nats.
        gold: of this point.
    """

    kl_coef: float
    kl: float
    gold: float


@dataclass(frozen=True, eq=False)
class Frontier:
    """The exact KL-regularized optima of a proxy, by falling ``kl_coef`` and so by rising KL; n points.

    Attributes:
        kl_coef: float64 [n], geometrically spaced, and closer around the gold's peak.
        kl: float64 [n], of each optimum to the reference policy, in nats.
        proxy: float64 [n], the training return of each.
        gold: float64 [n], its gold return.
        best_gold: float64 [n], the largest gold return of any policy of no larger KL.
        spaced: bool [n], which points are of the geometric spacing; the others locate the peak.
        peak: of the gold.
        proxy_optimum: the largest training return of any policy.
        reference_proxy: the training return of the reference policy.
        reference_gold: its gold return.
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
    return_: float
    gold: float


class _Path:
    """The exact regularized optima of the channels of ``weights``, each computed once."""

    def __init__(self, tables: ExactTables, weights: Mapping[str, float]) -> None:
        self.mdp, self.weights = tables.mdp, weights
        self._known: dict[float, _Point] = {}

    def at(self, kl_coef: float) -> _Point:
        """Return the optimum at ``kl_coef``; at 0 that of the return alone, at infinity the reference policy."""
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
        """Return the point of that ``kl`` (to a relative 1e-9), or the end of the path if its KL is smaller.

        The KL falls as kl_coef rises, so two points enclose it. Bisection of log kl_coef alternates with the
        secant method for log KL, which is nearly linear in log kl_coef.

        Raises:
            NotConvergedError: the point was not found in 200 steps.
        """
        if self.at(0.0).kl <= kl:
            return self.at(0.0)
        far, near = self._enclose(kl)
        for step in range(MAX_STEPS):
            middle = (log(far.kl_coef) + log(near.kl_coef)) / 2
            if step % 2 == 0 and near.kl > 0:
                share = (log(kl) - log(near.kl)) / (log(far.kl) - log(near.kl))
                middle = log(near.kl_coef) + share * (log(far.kl_coef) - log(near.kl_coef))
            point = self.at(exp(middle))
            if abs(point.kl - kl) <= KL_TOLERANCE * kl or point.kl_coef in (far.kl_coef, near.kl_coef):
                return point
            far, near = (point, near) if point.kl > kl else (far, point)
        raise NotConvergedError(
            f"no kl_coef with a KL of {kl} was found: the nearest have {near.kl} and {far.kl}"
        )

    def _enclose(self, kl: float) -> tuple[_Point, _Point]:
        """Return a point farther than ``kl`` from the reference and one that is not, both of positive, finite kl_coef."""
        known = [point for point in self._known.values() if 0 < point.kl_coef < np.inf] or [self.at(1.0)]
        far = min((point for point in known if point.kl > kl), key=lambda point: point.kl, default=None)
        near = max((point for point in known if point.kl <= kl), key=lambda point: point.kl, default=None)
        kl_coef = (far or near or known[0]).kl_coef
        while far is None or near is None:
            kl_coef *= 4.0 if near is None else 0.25
            point = self.at(kl_coef)
            far, near = (point, near) if point.kl > kl else (far, point)
        return far, near


def trace_frontier(
    tables: ExactTables, weights: Mapping[str, float] | None = None, *, best_gold: bool = True
) -> Frontier:
    """Return the gold of the optima of ``weights`` (channel -> weight; the training reward if None) as kl_coef falls.

    The path begins near the reference policy and ends at 99 % of the way to the optimal return. Without
    ``best_gold``, which takes most of the time, that array is NaN.

    Raises:
        ValueError: unknown weights, or a return that no policy can raise above the reference's.
        NotConvergedError: as ``solve``.
    """
    weights = train_weights(tables.model.composition) if weights is None else weights
    path, truth = _Path(tables, weights), _Path(tables, {"gold": 1.0})
    best, reference = path.at(0.0), path.at(np.inf)
    if not best.return_ > reference.return_:
        raise ValueError(
            f"no policy has a larger return than the reference's {reference.return_}: there is no path to trace"
        )
    lack = GAP * min(best.return_ - reference.return_, abs(best.return_) or np.inf)
    last = 1.0
    while best.return_ - path.at(last).return_ > lack:
        last /= 2.0
    first = path.with_kl(min(FIRST_KL, FIRST_KL * best.kl)).kl_coef
    spaced = np.geomspace(first, last, COEFFICIENTS)
    points = [path.at(float(kl_coef)) for kl_coef in spaced]
    peak, located = _locate_peak(path, points)
    every = sorted(
        [(point, True) for point in points] + [(point, False) for point in located],
        key=lambda one: -one[0].kl_coef,
    )
    path_points = [point for point, _ in every]
    return Frontier(
        kl_coef=np.array([point.kl_coef for point in path_points]),
        kl=np.array([point.kl for point in path_points]),
        proxy=np.array([point.return_ for point in path_points]),
        gold=np.array([point.gold for point in path_points]),
        best_gold=np.array([truth.with_kl(point.kl).gold if best_gold else np.nan for point in path_points]),
        spaced=np.array([is_spaced for _, is_spaced in every]),
        peak=Peak(peak.kl_coef, peak.kl, peak.gold),
        proxy_optimum=best.return_,
        reference_proxy=reference.return_,
        reference_gold=reference.gold,
    )


def _locate_peak(path: _Path, points: list[_Point]) -> tuple[_Point, list[_Point]]:
    """Return the point of the largest gold and those that located it, by golden sections of log kl_coef."""
    top = max(range(len(points)), key=lambda number: points[number].gold)
    if top in (0, len(points) - 1):
        return points[top], []
    low, high = log(points[top + 1].kl_coef), log(points[top - 1].kl_coef)
    tried: list[_Point] = []

    def gold_at(log_coef: float) -> float:
        tried.append(path.at(exp(log_coef)))
        return tried[-1].gold

    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    gold_left, gold_right = gold_at(left), gold_at(right)
    while high - low > PEAK_TOLERANCE / 2:
        if gold_left > gold_right:
            high, right, gold_right = right, left, gold_left
            left = high - GOLDEN * (high - low)
            gold_left = gold_at(left)
        else:
            low, left, gold_left = left, right, gold_right
            right = low + GOLDEN * (high - low)
            gold_right = gold_at(right)
    return max([points[top], *tried], key=lambda point: point.gold), tried


def fit_rl(kl: FloatArray, gained: FloatArray) -> Fit:
    """Fit gained = d (alpha - beta log d), d = sqrt(kl), to ``kl`` and ``gained`` (gold above the reference's), [n]."""
    return _fit(kl, gained, np.log, lambda alpha, beta: exp(2 * (alpha / beta - 1)))


def fit_best_of_n(kl: FloatArray, gained: FloatArray) -> Fit:
    """Fit gained = d (alpha - beta d), d = sqrt(kl), to ``kl`` and ``gained`` (gold above the reference's), [n]."""
    return _fit(kl, gained, lambda d: d, lambda alpha, beta: (alpha / (2 * beta)) ** 2)


def _fit(
    kl: FloatArray,
    gained: FloatArray,
    falls: Callable[[FloatArray], FloatArray],
    peak_kl: Callable[[float, float], float],
) -> Fit:
    """Fit gained = d (alpha - beta falls(d)), linear in alpha and beta, without the points of d below 0.1 of the largest.

    Raises:
        ValueError: fewer than 3 points to fit.
    """
    far = np.sqrt(kl) >= NEAR_ZERO * np.sqrt(kl.max(initial=0.0))
    d = np.sqrt(kl[far & (kl > 0)])
    if len(d) < 3:
        raise ValueError(f"{len(d)} points are left to fit two coefficients to: give 3 or more")
    design = np.stack([d, -d * falls(d)], axis=1)
    truth = gained[far & (kl > 0)]
    (alpha, beta), *_ = np.linalg.lstsq(design, truth, rcond=None)
    residual = float(np.sqrt(np.mean((design @ [alpha, beta] - truth) ** 2)))
    return Fit(float(alpha), float(beta), peak_kl(alpha, beta) if alpha > 0 and beta > 0 else None, residual)
