"""Exact evaluation of any policy: the return of every channel, KL, entropy, length and regret."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tokenwalk.agents.exact.bellman import Outcomes
from tokenwalk.agents.exact.dynamic_programming import Solution, check_coefficients, refuse_endless, solve
from tokenwalk.agents.exact.policy import checked_slice, kl_and_entropy, log_reference, policy_slices
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.tabular import TabularMDP

DOMINANCE_TOLERANCE = 1e-9


class DominanceError(AssertionError):
    """A policy was evaluated above the optimum: one of the two figures is wrong."""


@dataclass(frozen=True)
class Evaluation:
    """Returns of a policy from the start distribution: sums over its occupancy, discounted as it is.

    Attributes:
        returns: of each reward channel by name, its last-step part included.
        kl: to the reference policy over whole episodes, in nats; infinite if the reference never plays one of its actions.
        entropy: of its actions over whole episodes, in nats.
        length: the sum of the occupancy; at discount 1 the expected number of steps.
        occupancy: expected (discounted) visits, float64 [T, S] over a horizon, else [S].
        discount: as asked.
    """

    returns: Mapping[str, float]
    kl: float
    entropy: float
    length: float
    occupancy: FloatArray
    discount: float

    def value(self, weights: Mapping[str, float], kl_coef: float = 0.0) -> float:
        """Return the weighted sum of the returns minus ``kl_coef`` times the KL."""
        total = sum(weight * self.returns[name] for name, weight in weights.items())
        return total - kl_coef * self.kl if kl_coef > 0 else total


def evaluate(mdp: TabularMDP, policy: FloatArray, *, discount: float = 1.0) -> Evaluation:
    """Return every figure of ``policy`` ([S, A], [1, S, A] or [T, S, A]) in one pass over its occupancy.

    occupancy_0 = start, occupancy_t+1(s') = discount sum over s, a of occupancy_t(s) pi_t(a|s) P(s'|s, a),
    ended episodes left out; without a horizon their sum over t, by one linear solve.

    Raises:
        ValueError: a discount out of range, or a policy of another shape or without valid probabilities.
        NoFiniteAnswerError: undiscounted without a horizon, and the policy may never end.
        NotConvergedError: the linear equations were not solved to 1e-10.
    """
    check_coefficients(discount)
    slices, outcomes = policy_slices(mdp, policy), Outcomes.of(mdp)
    stationary = _over_horizon_alike if len(slices) == 1 else _over_horizon
    follow = _until_end if mdp.horizon is None else stationary
    passage = follow(mdp, outcomes, slices, discount)
    returns = {
        name: float((passage.played * outcomes.average(table)).sum()) for name, table in mdp.rewards.items()
    }
    for name, table in mdp.last_rewards.items():
        returns[name] += float((passage.played_last * table).sum())
    length = float(passage.occupancy.sum())
    return Evaluation(returns, passage.kl, passage.entropy, length, passage.occupancy, discount)


@dataclass(frozen=True)
class _Passage:
    """The occupancy of a policy; by action [S, A] its sum over time and that of the last step."""

    occupancy: FloatArray
    played: FloatArray
    played_last: FloatArray
    kl: float
    entropy: float


def _until_end(mdp: TabularMDP, outcomes: Outcomes, slices: FloatArray, discount: float) -> _Passage:
    """Return the passage of a stationary policy without a horizon."""
    policy = checked_slice(mdp, slices[0])
    if discount == 1:
        endless = ~outcomes.sure_to_end(policy > 0)
        refuse_endless(mdp, endless, "the policy may never end the episode")
        outcomes = outcomes.ended_in(endless)
    occupancy = outcomes.chain(policy).solve_occupancy(mdp.start, discount)
    kl, entropy = (_expect(occupancy, per_state) for per_state in kl_and_entropy(policy, log_reference(mdp)))
    return _Passage(occupancy, occupancy[:, None] * policy, np.zeros_like(policy), kl, entropy)


def _over_horizon(mdp: TabularMDP, outcomes: Outcomes, slices: FloatArray, discount: float) -> _Passage:
    """Return the passage of a policy over the horizon, step by step."""
    assert mdp.horizon is not None
    reference, occupancy = log_reference(mdp), np.empty((mdp.horizon, mdp.n_states))
    total, kl, entropy, arrived = np.zeros(mdp.available.shape), 0.0, 0.0, mdp.start
    for t in range(mdp.horizon):
        if t < len(slices):
            policy = checked_slice(mdp, slices[t])
            kl_of_state, entropy_of_state = kl_and_entropy(policy, reference)
        occupancy[t] = arrived
        kl += _expect(arrived, kl_of_state)
        entropy += _expect(arrived, entropy_of_state)
        played = arrived[:, None] * policy
        total += played
        arrived = discount * outcomes.push(played)
    return _Passage(occupancy, total, played, kl, entropy)


def _over_horizon_alike(mdp: TabularMDP, outcomes: Outcomes, slices: FloatArray, discount: float) -> _Passage:
    """Return the passage of a policy that is the same at each step of the horizon, by the Markov chain of its states."""
    assert mdp.horizon is not None
    policy, occupancy = checked_slice(mdp, slices[0]), np.empty((mdp.horizon, mdp.n_states))
    chain, occupancy[0] = outcomes.chain(policy), mdp.start
    for t in range(1, mdp.horizon):
        occupancy[t] = discount * chain.push(occupancy[t - 1])
    visits = occupancy.sum(axis=0)
    kl, entropy = (_expect(visits, per_state) for per_state in kl_and_entropy(policy, log_reference(mdp)))
    return _Passage(occupancy, visits[:, None] * policy, occupancy[-1][:, None] * policy, kl, entropy)


def _expect(occupancy: FloatArray, per_state: FloatArray) -> float:
    """Return the sum of ``per_state`` [S] over ``occupancy`` [S]; infinity counts only where visited."""
    visited = occupancy > 0
    return float(occupancy[visited] @ per_state[visited])


def regret(
    mdp: TabularMDP,
    policy: FloatArray,
    weights: Mapping[str, float],
    *,
    discount: float,
    kl_coef: float = 0.0,
) -> float:
    """Return J* - J(policy) from the start distribution, in reward units.

    J is the (discounted) value minus ``kl_coef`` times the (discounted) KL.

    Raises:
        DominanceError: as ``regret_against``.
        ValueError, NoFiniteAnswerError, NotConvergedError: as ``solve`` and ``evaluate``.
    """
    solution = solve(mdp, weights, discount=discount, kl_coef=kl_coef)
    return regret_against(mdp, solution, evaluate(mdp, policy, discount=discount), weights)


def regret_against(
    mdp: TabularMDP, solution: Solution, evaluation: Evaluation, weights: Mapping[str, float]
) -> float:
    """Return J* - J for a ``solution`` and an ``evaluation`` of the same process, weights and discount.

    Raises:
        ValueError: two different discounts.
        DominanceError: the evaluation exceeds the optimum by more than 1e-9 of the largest value.
    """
    if evaluation.discount != solution.discount:
        raise ValueError(
            f"the policy was evaluated at discount {evaluation.discount}, the optimum at "
            f"{solution.discount}: give both the same"
        )
    best, reached = solution.start_value(mdp), evaluation.value(weights, solution.kl_coef)
    if reached - best > DOMINANCE_TOLERANCE * max(float(np.nanmax(np.abs(solution.value))), abs(reached)):
        raise DominanceError(
            f"the policy was evaluated at {reached!r}, above the optimum {best!r}: they are not of the same "
            "process and weights, or one of the two is wrong"
        )
    return best - reached


def reference_policy(mdp: TabularMDP) -> FloatArray:
    """Return the reference policy as a table, float64 [1, S, A]."""
    return np.exp(log_reference(mdp))[None]
