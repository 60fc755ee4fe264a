"""The optimum of a TabularMDP: backward induction over its horizon, policy iteration where it has none.

Bellman 1957; Howard 1960 (policy iteration); Bertsekas and Tsitsiklis 1991 (undiscounted).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tokenwalk.agents.exact.bellman import (
    RESIDUAL_TOLERANCE,
    TIE_TOLERANCE,
    NoFiniteAnswerError,
    NotConvergedError,
    Outcomes,
)
from tokenwalk.agents.exact.policy import checked_slice, kl_and_entropy, log_reference, one_hot, policy_slices
from tokenwalk.agents.exact.regularized import (
    MAX_IMPROVEMENTS,
    SoftProblem,
    Weights,
    soft_backup,
)
from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.tabular import TabularMDP

__all__ = [
    "NoFiniteAnswerError",
    "NotConvergedError",
    "Solution",
    "evaluate_policy",
    "optimal_actions",
    "solve",
]

MAX_POLICY_ENTRIES = 100_000_000  # T * S * A: 800 MB
LOOK_AHEAD = 200  # sweeps of value iteration before each linear solve


@dataclass(frozen=True)
class Solution:
    """An optimum: of the value if ``kl_coef`` is 0, else of the value minus ``kl_coef`` times the KL.

    Attributes:
        value: float64 [T or 1, S] in reward units; T is the horizon. Undiscounted and without a horizon, NaN
            in a state from which no policy ends almost surely.
        policy: float64 [T or 1, S, A] (the reference policy where the value is NaN).
        residual: the largest violation of Bellman's equation; 0 for backward induction.
        discount: as asked.
        kl_coef: as asked.
    """

    value: FloatArray
    policy: FloatArray
    residual: float
    discount: float
    kl_coef: float

    def start_value(self, mdp: TabularMDP) -> float:
        """Return the value from the start distribution of ``mdp``."""
        begins = mdp.start > 0
        return float(mdp.start[begins] @ self.value[0, begins])


def solve(
    mdp: TabularMDP, weights: Mapping[str, float], *, discount: float, kl_coef: float = 0.0
) -> Solution:
    """Return the optimum of ``mdp``, whose reward is the sum of its channels times ``weights``.

    With a horizon H: V_t(s) = max_a r + discount E[V_t+1(s')], V_H = 0, the last rewards added at t = H - 1.
    Without one: the fixed point V(s) = max_a r + discount E[V(s')], and there are no last rewards. To ignore
    a time limit that only truncates, pass ``mdp.without_time_limit()``. Undiscounted and without a horizon,
    the optimum is the best of the policies that end almost surely.

    ``kl_coef`` > 0 replaces the maximum by kl_coef log sum_a pi_ref(a|s) exp(. / kl_coef). The KL is
    discounted like the rewards.

    The policy of a hard optimum is the limit kl_coef -> 0, which splits ties per completion:
    log W(s) = log sum over optimal a of pi_ref(a|s) exp(discount E[log W(s')]), and pi(a|s) is proportional
    to the terms. (W is itself a regularized optimum, with reward 0: it exists without a horizon too.) Ties
    are within 1e-9 of the largest absolute value, over a horizon that of the step and later ones. Where no
    optimal policy stays in the reference's support there is no such limit: the optimal actions share equally.

    Raises:
        ValueError: a discount outside (0, 1], a kl_coef below 0, unknown weights, a policy of more than 1e8
            entries.
        NoFiniteAnswerError: undiscounted without a horizon, and no policy ends almost surely, or a loop has a positive
            return.
        NotConvergedError: an equation was not solved to 1e-10.
    """
    check_coefficients(discount, kl_coef)
    per_step, last = mdp.reward(weights)
    outcomes = Outcomes.of(mdp)
    reward = outcomes.average(per_step)
    if mdp.horizon is None:
        return _solve_stationary(mdp, outcomes, reward, discount, kl_coef)
    if (entries := mdp.horizon * reward.size) > MAX_POLICY_ENTRIES:
        raise ValueError(
            f"{mdp.horizon} steps x {mdp.n_states:,} states x {mdp.n_actions} actions are {entries:,} "
            f"probabilities, more than {MAX_POLICY_ENTRIES:,}: shorten the horizon or shrink the process"
        )
    if kl_coef > 0:
        return _soft_induction(
            mdp, outcomes, [reward] * (mdp.horizon - 1) + [reward + last], discount, kl_coef
        )
    return _hard_induction(mdp, outcomes, [reward] * (mdp.horizon - 1) + [reward + last], discount)


def check_coefficients(discount: float, kl_coef: float = 0.0) -> None:
    """Raise ValueError unless ``discount`` is in (0, 1] and ``kl_coef`` is finite and 0 or more."""
    if not 0 < discount <= 1:
        raise ValueError(f"discount is {discount}: give a number above 0 and at most 1")
    if not 0 <= kl_coef < np.inf:
        raise ValueError(f"kl_coef is {kl_coef}: give a finite number of 0 or more")


def _soft_induction(
    mdp: TabularMDP, outcomes: Outcomes, rewards: list[FloatArray], discount: float, kl_coef: float
) -> Solution:
    """Return the regularized optimum over the horizon; ``rewards`` holds one [S, A] for each step."""
    reference = Weights.of(log_reference(mdp))
    value, policy = np.empty((len(rewards), mdp.n_states)), np.empty((len(rewards), *mdp.available.shape))
    after = np.zeros(mdp.n_states)
    for t in reversed(range(len(rewards))):
        value[t], policy[t] = soft_backup(rewards[t] + discount * outcomes.expect(after), reference, kl_coef)
        after = value[t]
    return Solution(value, policy, 0.0, discount, kl_coef)


def _hard_induction(
    mdp: TabularMDP, outcomes: Outcomes, rewards: list[FloatArray], discount: float
) -> Solution:
    """Return the optimum over the horizon; ``rewards`` holds one [S, A] for each step."""
    closed, reference = np.where(mdp.available, 0.0, -np.inf), log_reference(mdp)
    value, policy = np.empty((len(rewards), mdp.n_states)), np.empty((len(rewards), *mdp.available.shape))
    after, log_mass, scale = np.zeros(mdp.n_states), np.zeros(mdp.n_states), 0.0
    for t in reversed(range(len(rewards))):
        q = rewards[t] + discount * outcomes.expect(after) + closed
        after = value[t] = q.max(axis=1)
        scale = max(scale, float(np.abs(after).max()))
        optimal = q >= (after - TIE_TOLERANCE * scale)[:, None]
        log_mass, policy[t] = _split(optimal, reference + discount * outcomes.expect(log_mass))
    return Solution(value, policy, 0.0, discount, 0.0)


def _split(optimal: BoolArray, log_terms: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return log W [S] = log sum over ``optimal`` of exp(log_terms) and each action's share in it, [S, A].

    A state without weight has log W = -inf, so that no share of another leads there; its own optimal actions
    share equally.
    """
    terms = np.where(optimal, log_terms, -np.inf)
    top = terms.max(axis=1)
    weightless = top == -np.inf
    terms[weightless] = np.where(optimal[weightless], 0.0, -np.inf)
    shares = np.exp(terms - np.where(weightless, 0.0, top)[:, None])
    total = shares.sum(axis=1)
    shares /= total[:, None]
    return np.where(weightless, -np.inf, top + np.log(total)), shares


def _solve_stationary(
    mdp: TabularMDP, outcomes: Outcomes, reward: FloatArray, discount: float, kl_coef: float
) -> Solution:
    """Return the optimum without a horizon; ``reward`` is [S, A]."""
    reference = log_reference(mdp)
    allowed = mdp.available if kl_coef == 0 else reference > -np.inf
    endless = np.zeros(mdp.n_states, dtype=np.bool_)
    if discount == 1:
        able, kept = outcomes.able_to_end(allowed)
        endless = ~able
        refuse_endless(mdp, endless, "no policy is sure to end the episode")
        outcomes = outcomes.ended_in(endless)
        allowed = kept | (allowed & endless[:, None])
    if kl_coef > 0:
        weights = Weights.of(np.where(allowed, reference, -np.inf))
        value, policy, residual = SoftProblem(outcomes, reward, weights, kl_coef, discount).solve()
    else:
        value, residual = _policy_iteration(outcomes, reward, allowed, discount)
        slack = TIE_TOLERANCE * float(np.abs(value).max())
        optimal = allowed & (reward + discount * outcomes.expect(value) >= (value - slack)[:, None])
        weights = Weights.of(_tie_weights(outcomes, optimal, reference, discount))
        try:
            _, policy, _ = SoftProblem(outcomes, np.zeros_like(reward), weights, 1.0, discount).solve()
        except (NoFiniteAnswerError, NotConvergedError) as error:
            raise NotConvergedError(
                f"the optimum was found, but not the split of its ties: {error}"
            ) from error
    value[endless], policy[endless] = np.nan, np.exp(reference[endless])
    return Solution(value[None], policy[None], residual, discount, kl_coef)


def refuse_endless(mdp: TabularMDP, endless: BoolArray, why: str) -> None:
    """Raise NoFiniteAnswerError, with the reason ``why``, if an episode may begin in ``endless`` [S]."""
    if (begins := np.flatnonzero(endless & (mdp.start > 0))).size:
        raise NoFiniteAnswerError(
            f"from state {begins[0]} {why}, so at discount 1 without a horizon there is no finite answer: "
            "lower the discount or set a horizon"
        )


def _policy_iteration(
    outcomes: Outcomes, reward: FloatArray, allowed: BoolArray, discount: float
) -> tuple[FloatArray, float]:
    """Return the optimal values [S] and the Bellman residual, by linear solves.

    Undiscounted it starts from the shortest way to the end and changes an action only for a strict gain. The
    improved policy then ends as well, unless it has a loop of positive return: then values have no bound.
    """
    n_states, n_actions = reward.shape
    closed = np.where(allowed, 0.0, -np.inf)

    def action_values(value: FloatArray) -> FloatArray:
        return reward + discount * outcomes.expect(value) + closed

    actions = outcomes.way_out(allowed) if discount == 1 else _look_ahead(action_values, np.zeros(n_states))
    value = np.zeros(n_states)
    for _ in range(MAX_IMPROVEMENTS):
        policy = one_hot(actions, n_actions)
        if discount == 1 and not (ends := outcomes.sure_to_end(policy > 0)).all():
            raise NoFiniteAnswerError(
                f"from state {int(ends.argmin())} a loop of positive return never ends, so at discount 1 without a horizon "
                "there is no finite answer: lower the discount or set a horizon"
            )
        received = np.take_along_axis(reward, actions[:, None], axis=1)[:, 0]
        value, error = outcomes.chain(policy).solve(received, discount, value)
        q = action_values(value)
        gain = q.max(axis=1) - value
        scale = float(np.abs(value).max())
        better = gain > max(1e-13 * scale, 2 * error if discount == 1 else 0.0)
        if not better.any():
            break
        actions = (
            np.where(better, q.argmax(axis=1), actions)
            if discount == 1
            else _look_ahead(action_values, value)
        )
    if (residual := float(np.abs(gain).max())) <= RESIDUAL_TOLERANCE * scale:
        return value, residual
    raise NotConvergedError(
        f"policy iteration left a residual of {residual:.3g} where values reach {scale:.3g}: "
        "lower the discount or set a horizon",
        residual,
    )


def _look_ahead(action_values: Callable[[FloatArray], FloatArray], value: FloatArray) -> IntArray:
    """Return the greedy actions [S] after some sweeps of value iteration from ``value`` [S].

    One improvement moves the effect of a reward one state further. A sweep does the same at a fraction of the
    time of a linear solve.
    """
    for _ in range(LOOK_AHEAD):
        q = action_values(value)
        before, value = value, q.max(axis=1)
        if np.abs(value - before).max() <= 1e-13 * np.abs(value).max():
            break
    actions: IntArray = q.argmax(axis=1)
    return actions


def _tie_weights(
    outcomes: Outcomes, optimal: BoolArray, reference: FloatArray, discount: float
) -> FloatArray:
    """Return log-weights [S, A] of the ``optimal`` actions: those of the reference where some policy can stay within both.

    Elsewhere the optimal actions share equally.
    """
    kept = optimal & (reference > -np.inf)
    if discount == 1:
        _, kept = outcomes.able_to_end(kept)
    else:
        while (leaving := kept & outcomes.may_enter(np.asarray(~kept.any(axis=1)), ended=False)).any():
            kept &= ~leaving
    equal = np.where(optimal, -np.log(optimal.sum(axis=1, keepdims=True)), -np.inf)
    return np.where(kept.any(axis=1, keepdims=True), np.where(kept, reference, -np.inf), equal)


def evaluate_policy(
    mdp: TabularMDP,
    policy: FloatArray,
    weights: Mapping[str, float],
    *,
    discount: float,
    kl_coef: float = 0.0,
) -> FloatArray:
    """Return the values of ``policy`` ([S, A], [1, S, A] or [T, S, A]) at each step and state, [T or 1, S].

    V_t(s) = sum_a pi_t(a|s) (r + discount E[V_t+1(s')]) - kl_coef KL(pi_t(.|s) || pi_ref(.|s)). Undiscounted
    and without a horizon, a state from which the policy may never end holds NaN.

    Raises:
        ValueError: a discount or kl_coef out of range, unknown weights, a policy of another shape or
            without valid probabilities, or with ``kl_coef`` > 0 an action that the reference never plays.
        NoFiniteAnswerError: undiscounted without a horizon, and the policy may never end from a start.
        NotConvergedError: the linear equations were not solved to 1e-10.
    """
    check_coefficients(discount, kl_coef)
    slices = policy_slices(mdp, policy)
    per_step, last = mdp.reward(weights)
    outcomes = Outcomes.of(mdp)
    reward, reference = outcomes.average(per_step), log_reference(mdp)
    if mdp.horizon is None:
        now = checked_slice(mdp, slices[0])
        endless = np.zeros(mdp.n_states, dtype=np.bool_)
        if discount == 1:
            endless = ~outcomes.sure_to_end(now > 0)
            refuse_endless(mdp, endless, "the policy may never end the episode")
            outcomes = outcomes.ended_in(endless)
        received = (now * reward).sum(axis=1) - _kl_cost(now, reference, kl_coef)
        value, _ = outcomes.chain(now).solve(received, discount)
        return np.where(endless, np.nan, value)[None]
    values, after = np.empty((mdp.horizon, mdp.n_states)), np.zeros(mdp.n_states)
    for t in reversed(range(mdp.horizon)):
        if t == mdp.horizon - 1 or len(slices) > 1:
            now = checked_slice(mdp, slices[min(t, len(slices) - 1)])
            cost = _kl_cost(now, reference, kl_coef)
        q = reward + last if t == mdp.horizon - 1 else reward + discount * outcomes.expect(after)
        after = values[t] = (now * q).sum(axis=1) - cost
    return values


def _kl_cost(policy: FloatArray, reference: FloatArray, kl_coef: float) -> FloatArray:
    """Return kl_coef times the KL of ``policy`` [S, A], [S]. Raises ValueError where that is infinite."""
    if kl_coef == 0:
        return np.zeros(len(policy))
    kl, _ = kl_and_entropy(policy, reference)
    if np.isinf(kl).any():
        raise ValueError(
            f"in state {int(np.isinf(kl).argmax())} the policy plays an action that the reference never plays: "
            "its KL is infinite; give kl_coef 0"
        )
    return kl_coef * kl


def optimal_actions(mdp: TabularMDP, solution: Solution, weights: Mapping[str, float]) -> BoolArray:
    """Return which actions attain the hard optimum ``solution``, bool [T or 1, S, A].

    Ties are those of ``solve``: within 1e-9 of the largest absolute value (over a horizon that of the step
    and later ones). A state whose value is NaN has none.

    Raises:
        ValueError: a solution with kl_coef > 0, whose optimum plays every action that the reference plays.
    """
    if solution.kl_coef > 0:
        raise ValueError(
            f"kl_coef is {solution.kl_coef}: only a hard optimum (kl_coef 0) has optimal actions"
        )
    per_step, last = mdp.reward(weights)
    outcomes = Outcomes.of(mdp)
    reward = outcomes.average(per_step)
    optimal = np.zeros((len(solution.value), *reward.shape), dtype=np.bool_)
    after, scale = solution.value[-1] if mdp.horizon is None else np.zeros(mdp.n_states), 0.0
    for t in reversed(range(len(optimal))):
        q = reward + solution.discount * outcomes.expect(after)
        if t + 1 == mdp.horizon:
            q = q + last
        after = solution.value[t]
        scale = max(scale, float(np.nanmax(np.abs(after))))
        optimal[t] = mdp.available & (q >= (after - TIE_TOLERANCE * scale)[:, None])
    return optimal
