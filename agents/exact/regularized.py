"""The KL-regularized optimum in token form (Ziebart 2010; Fox, Pakman and Tishby 2016).

V(s) = beta log sum_a w(a|s) exp(Q(s, a) / beta),  pi(a|s) = w(a|s) exp((Q(s, a) - V(s)) / beta),
Q(s, a) = r(s, a) + discount E[V(s')].

The weights w are a reference policy, or a reference policy restricted to some actions: they need not sum to 1.
"""

from dataclasses import dataclass

import numpy as np

from tokenwalk.agents.exact.bellman import (
    DENSE_STATES,
    RESIDUAL_TOLERANCE,
    NoFiniteAnswerError,
    NotConvergedError,
    Outcomes,
)
from tokenwalk.agents.exact.policy import kl_and_entropy, one_hot
from tokenwalk.envs.arrays import FloatArray

MAX_IMPROVEMENTS = 1_000


@dataclass(frozen=True)
class Weights:
    """The weights w(a|s) >= 0 in the forms that a backup reads; every state has an action with weight."""

    log: FloatArray  # [S, A], -inf where there is no weight
    log_total: FloatArray  # [S], exactly 0 where the sum is 1 up to rounding
    share: FloatArray  # [S, A], the weights divided by their sum
    closed: FloatArray  # [S, A], 0 where there is weight, else -inf: added to Q before a maximum

    @classmethod
    def of(cls, log: FloatArray) -> "Weights":
        """Return the weights whose logarithms are ``log`` [S, A]."""
        top = log.max(axis=1, keepdims=True)
        log_total = (top + np.log(np.exp(log - top).sum(axis=1, keepdims=True)))[:, 0]
        log_total[np.abs(log_total) < 1e-9] = 0.0
        share = np.exp(log - log_total[:, None])
        return cls(log, log_total, share, np.where(log > -np.inf, 0.0, -np.inf))


def soft_backup(q: FloatArray, weights: Weights, beta: float) -> tuple[FloatArray, FloatArray]:
    """Return V [S] and pi [S, A] for action values ``q`` [S, A].

    The exponents are shifted by their maximum, so |q / beta| may be of any size. Where beta is far above the
    range of ``q`` the logarithm is that of 1 + sum w (exp - 1), by log1p: log(1 + x) would lose the digits of a
    small x.
    """
    best = (q + weights.closed).max(axis=1)
    with np.errstate(over="ignore"):  # to -inf, as intended
        gap = np.minimum(q - best[:, None], 0.0) / beta
    exponent = weights.log + gap
    top = exponent.max(axis=1)
    mass = np.exp(exponent - top[:, None])
    total = mass.sum(axis=1)
    missing = (weights.share * np.expm1(gap)).sum(axis=1)  # in (-1, 0]
    near_one = weights.log_total + np.log1p(np.maximum(missing, -0.5))
    log_sum = np.where(missing > -0.5, near_one, top + np.log(total))
    return best + beta * log_sum, mass / total[:, None]


@dataclass(frozen=True)
class SoftProblem:
    """A stationary KL-regularized problem without a horizon; ``reward`` is [S, A]."""

    outcomes: Outcomes
    reward: FloatArray
    weights: Weights
    beta: float
    discount: float

    def improve(self, value: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the backup of ``value`` [S] and the policy [S, A] that attains it."""
        return soft_backup(self.reward + self.discount * self.outcomes.expect(value), self.weights, self.beta)

    def evaluate(self, policy: FloatArray, guess: FloatArray) -> FloatArray:
        """Return the regularized values of ``policy`` [S, A], [S], by one linear solve."""
        kl, _ = kl_and_entropy(policy, self.weights.log)
        received = (policy * self.reward).sum(axis=1) - self.beta * kl
        return self.outcomes.chain(policy).solve(received, self.discount, guess)[0]

    def first_value(self) -> FloatArray:
        """Return the values [S] of the weights as a policy, or of the shortest way to the end if they take too long."""
        try:
            return self.evaluate(self.weights.share, np.zeros(len(self.reward)))
        except NotConvergedError:
            if self.discount < 1:
                raise
        way_out = one_hot(self.outcomes.way_out(self.weights.log > -np.inf), self.reward.shape[1])
        return self.evaluate(way_out, np.zeros(len(self.reward)))

    def solve(self) -> tuple[FloatArray, FloatArray, float]:
        """Return the optimal values [S], their policy [S, A] and the Bellman residual.

        Soft policy iteration is Newton's method on V = backup(V): values rise with every iteration and
        finally converge quadratically. Undiscounted, every state must be able to end over the actions with
        weight; every policy on the way then does.

        Raises:
            NoFiniteAnswerError: values grow without bound: the return of a loop exceeds its KL penalty.
            NotConvergedError: the residual stayed above 1e-10 of the largest value and kl_coef.
        """
        value, last = self.first_value(), np.inf
        for _ in range(MAX_IMPROVEMENTS):
            backup, policy = self.improve(value)
            residual, scale = float(np.abs(backup - value).max()), float(np.abs(value).max())
            # Newton's last steps square the residual: one that no longer halves is rounding.
            if residual <= RESIDUAL_TOLERANCE * (scale + self.beta) and not 0 < residual <= last / 2:
                return backup, policy, residual
            last = residual
            try:
                value = self.evaluate(policy, backup)
            except NotConvergedError as error:
                if self.discount < 1 or len(value) > DENSE_STATES:
                    raise
                # Better policies took ever longer, until the linear equations were singular in float64.
                raise NoFiniteAnswerError(
                    f"the regularized value grows beyond any bound at kl_coef {self.beta}: the return of a "
                    "loop exceeds its KL penalty; raise kl_coef, lower the discount or set a horizon"
                ) from error
        raise NotConvergedError(
            f"soft policy iteration left a residual of {residual:.3g} where values reach {scale:.3g}: "
            "raise kl_coef or lower the discount",
            residual,
        )
