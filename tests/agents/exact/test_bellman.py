"""Linear equations, endless episodes, and the refusal to answer where there is no answer or no digit of it."""

import pickle
from dataclasses import replace
from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest

from tokenwalk.agents.exact import bellman
from tokenwalk.agents.exact.dynamic_programming import (
    NoFiniteAnswerError,
    NotConvergedError,
    evaluate_policy,
    optimal_actions,
    solve,
)
from tokenwalk.agents.exact.evaluation import evaluate, reference_policy
from tokenwalk.envs.tabular import TabularMDP

GOLD = {"gold": 1.0}
END = -1


def walk(*arcs: dict[int, float], start: int = 0) -> TabularMDP:
    """Return a process of one state an argument, each a dictionary from next state (or END) to reward."""
    n_states, n_actions = len(arcs), max(len(arc) for arc in arcs)
    to, reward = np.zeros((n_states, n_actions, 1), dtype=int), np.zeros((n_states, n_actions, 1))
    available = np.zeros((n_states, n_actions), dtype=bool)
    for s, arc in enumerate(arcs):
        for a, (target, received) in enumerate(arc.items()):
            to[s, a], reward[s, a], available[s, a] = target, received, True
    with np.errstate(divide="ignore"):
        log_reference = np.log(available / available.sum(axis=1, keepdims=True))
    one_hot = np.eye(n_states)[start]
    return TabularMDP(
        np.maximum(to, 0), np.ones(to.shape), to == END, {"gold": reward}, {}, available, log_reference, one_hot,
        None, False,
    )  # fmt: skip


def test_an_endless_process_has_no_undiscounted_answer_and_the_message_gives_the_fix(
    workshop: ModuleType,
) -> None:
    mdp = workshop.make("tokenwalk/CounterWalk-v0", time_limit=False)
    for ask in (
        lambda: solve(mdp, GOLD, discount=1.0),
        lambda: solve(mdp, GOLD, discount=1.0, kl_coef=0.5),
        lambda: evaluate(mdp, reference_policy(mdp)),
        lambda: evaluate_policy(mdp, reference_policy(mdp), GOLD, discount=1.0),
    ):
        with pytest.raises(NoFiniteAnswerError, match="lower the discount or set a horizon") as caught:
            ask()
        assert isinstance(caught.value, ValueError)


def test_a_policy_that_may_never_end_is_refused_though_another_would_end() -> None:
    mdp = walk({0: 0.0, END: -1.0})
    stays, leaves = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    with pytest.raises(NoFiniteAnswerError, match="from state 0 the policy may never end"):
        evaluate(mdp, stays)
    assert evaluate(mdp, leaves).returns["gold"] == -1
    assert evaluate(mdp, stays, discount=0.9).length == pytest.approx(10, rel=1e-14)


def test_undiscounted_the_optimum_is_over_policies_that_end() -> None:
    loops_free = walk({0: 0.0, END: -1.0})
    solution = solve(loops_free, GOLD, discount=1.0)
    assert solution.value.tolist() == [[-1.0]]
    assert evaluate(loops_free, solution.policy).returns["gold"] == pytest.approx(-1, abs=1e-12)


def test_a_loop_of_positive_return_leaves_no_undiscounted_answer() -> None:
    rewarding = walk({1: 1.0, END: 5.0}, {0: -0.5})
    with pytest.raises(NoFiniteAnswerError, match="a loop of positive return never ends"):
        solve(rewarding, GOLD, discount=1.0)
    assert solve(rewarding, GOLD, discount=0.99).value[0, 0] == pytest.approx((1 - 0.495) / (1 - 0.99**2))
    costs = walk({1: 0.5, END: 5.0}, {0: -1.0})
    assert solve(costs, GOLD, discount=1.0).value.tolist() == [[5.0, 4.0]]


def test_the_value_of_an_endless_state_is_nan_and_changes_no_other() -> None:
    mdp = walk({END: 1.0, 1: 9.0}, {1: 0.0})
    solution = solve(mdp, GOLD, discount=1.0)
    assert solution.value[0].tolist() == pytest.approx([1.0, np.nan], nan_ok=True)
    assert solution.start_value(mdp) == 1
    assert optimal_actions(mdp, solution, GOLD).tolist() == [[[True, False], [False, False]]]
    assert solution.policy.tolist() == [[[1.0, 0.0], [1.0, 0.0]]]
    soft = solve(mdp, GOLD, discount=1.0, kl_coef=1.0)
    assert soft.start_value(mdp) == pytest.approx(1 + np.log(0.5), abs=1e-15)
    value = evaluate_policy(mdp, solution.policy, GOLD, discount=1.0)
    assert value[0].tolist() == pytest.approx([1.0, np.nan], nan_ok=True)
    assert evaluate(mdp, np.array([[1.0, 0.0], [1.0, 0.0]])).returns["gold"] == 1
    with pytest.raises(NoFiniteAnswerError, match="from state 1 no policy is sure to end"):
        solve(replace(mdp, start=np.array([0.5, 0.5])), GOLD, discount=1.0)


def test_a_chance_of_never_ending_is_enough_to_leave_no_answer() -> None:
    # State 0 ends or falls into 2, at even chances; 1 can only go to 0; 2 stays where it is; 3 ends or goes to 1.
    to = np.array([[[0, 2], [0, 2]], [[0, 0], [0, 0]], [[2, 2], [2, 2]], [[3, 3], [1, 1]]])
    ends = np.zeros(to.shape, dtype=bool)
    ends[0, :, 0] = ends[3, 0] = True
    every, uniform = np.ones((4, 2), dtype=bool), np.full((4, 2), np.log(0.5))
    rewards = {"gold": np.full(to.shape, -1.0)}
    mdp = TabularMDP(to, np.full(to.shape, 0.5), ends, rewards, {}, every, uniform, np.eye(4)[3], None, False)
    solution = solve(mdp, GOLD, discount=1.0)
    assert solution.value[0].tolist() == pytest.approx([np.nan, np.nan, np.nan, -1.0], nan_ok=True)
    assert solution.policy[0, 3].tolist() == [1.0, 0.0]
    for state in (0, 1):
        begun = replace(mdp, start=np.eye(4)[state])
        with pytest.raises(NoFiniteAnswerError, match=f"from state {state} no policy is sure to end"):
            solve(begun, GOLD, discount=1.0)
        with pytest.raises(NoFiniteAnswerError, match=f"from state {state} the policy may never end"):
            evaluate(begun, reference_policy(begun))


def test_an_outcome_of_probability_zero_ends_nothing_and_leads_nowhere() -> None:
    to, probability = np.array([[[0, 0]], [[1, 0]]]), np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    ends = np.array([[[False, True]], [[False, True]]])
    every, only = np.ones((2, 1), dtype=bool), np.zeros((2, 1))
    mdp = TabularMDP(
        to, probability, ends, {"gold": np.ones(to.shape)}, {}, every, only, np.eye(2)[1], None, False
    )
    assert solve(mdp, GOLD, discount=1.0).value[0].tolist() == pytest.approx([np.nan, 1.0], nan_ok=True)
    with pytest.raises(NoFiniteAnswerError, match="from state 0"):
        evaluate(replace(mdp, start=np.eye(2)[0]), np.ones((2, 1)))


def test_a_reference_that_hardly_ever_ends_still_has_a_regularized_optimum() -> None:
    # A lock of 60 digits: "right" goes on, "wrong" starts again; the reference needs some 2^61 steps.
    lock = walk(*({i + 1 if i < 59 else END: -1.0, 0: -1.0} if i else {1: -1.0, 0: -1.0} for i in range(60)))
    with pytest.raises(NotConvergedError, match="lower the discount or set a horizon"):
        evaluate(lock, reference_policy(lock))
    assert solve(lock, GOLD, discount=1.0).start_value(lock) == -60
    solution = solve(lock, GOLD, discount=1.0, kl_coef=0.1)
    # z = exp(V / beta) solves z_i = (z_i+1 + z_0) e^-10 / 2, so z_0 = x^60 + z_0 (x + .. + x^60), x = e^-10 / 2.
    x = np.exp(-10) / 2
    expected = 0.1 * (60 * np.log(x) - np.log1p(-x * (1 - x**60) / (1 - x)))
    assert solution.start_value(lock) == pytest.approx(expected, rel=1e-13)


def test_the_uniform_policys_value_on_cliff_walking_is_right_to_twelve_digits(workshop: ModuleType) -> None:
    mdp = workshop.make("CliffWalking", time_limit=False)
    n = mdp.n_states
    rows = [[Fraction(int(i == j)) for j in range(n)] + [Fraction(0)] for i in range(n)]
    for s, a in np.ndindex(n, 4):
        rows[s][n] += Fraction(int(mdp.rewards["gold"][s, a, 0]), 4)
        if not mdp.terminated[s, a, 0]:
            rows[s][int(mdp.next_state[s, a, 0])] -= Fraction(1, 4)
    for i in range(n):  # rational Gauss-Jordan elimination
        rows[i] = [entry / rows[i][i] for entry in rows[i]]
        for j in range(n):
            if j != i and rows[j][i]:
                rows[j] = [x - rows[j][i] * y for x, y in zip(rows[j], rows[i], strict=True)]
    value = evaluate_policy(mdp, reference_policy(mdp), GOLD, discount=1.0)[0]
    assert value == pytest.approx([float(row[n]) for row in rows], rel=1e-12)
    start = int(mdp.start.argmax())
    assert evaluate(mdp, reference_policy(mdp)).returns["gold"] == pytest.approx(
        float(rows[start][n]), rel=1e-12
    )


@pytest.mark.parametrize(("discount", "kl_coef"), [(0.99, 0.0), (0.99, 0.3), (1.0, 0.0), (1.0, 0.3)])
def test_sweeps_over_many_states_agree_with_dense_linear_solves(
    workshop: ModuleType, monkeypatch: pytest.MonkeyPatch, discount: float, kl_coef: float
) -> None:
    mdp = workshop.make("FrozenLake8x8", time_limit=False)
    dense = solve(mdp, GOLD, discount=discount, kl_coef=kl_coef)
    figures = evaluate(mdp, dense.policy, discount=discount)
    monkeypatch.setattr(bellman, "DENSE_STATES", 1)
    swept = solve(mdp, GOLD, discount=discount, kl_coef=kl_coef)
    assert swept.value == pytest.approx(dense.value, abs=1e-12)
    assert swept.policy == pytest.approx(dense.policy, abs=1e-9)
    assert evaluate(mdp, dense.policy, discount=discount).occupancy == pytest.approx(
        figures.occupancy, rel=1e-10
    )


def test_sweeps_that_do_not_converge_are_refused_with_the_last_change(
    workshop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    mdp = workshop.make("FrozenLake", time_limit=False)
    monkeypatch.setattr(bellman, "DENSE_STATES", 1)
    monkeypatch.setattr(bellman, "MAX_SWEEPS", 30)
    for ask in (
        lambda: solve(mdp, GOLD, discount=0.99),
        lambda: evaluate(mdp, reference_policy(mdp)),
        lambda: evaluate_policy(mdp, reference_policy(mdp), GOLD, discount=0.999),
    ):
        with pytest.raises(NotConvergedError, match="did not converge in 30 sweeps") as caught:
            ask()
        assert 0 < caught.value.residual < 1


def test_a_linear_solve_with_an_error_in_the_eighth_digit_is_refused(
    workshop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    mdp = workshop.make("FrozenLake", time_limit=False)
    right = np.linalg.solve

    def off(system: np.ndarray, rhs: np.ndarray) -> np.ndarray:
        answer = right(system, rhs)
        answer[0] *= 1 + 1e-8
        return answer

    monkeypatch.setattr(np.linalg, "solve", off)
    for ask in (
        lambda: solve(mdp, GOLD, discount=0.99),
        lambda: solve(mdp, GOLD, discount=0.99, kl_coef=0.1),
        lambda: evaluate(mdp, reference_policy(mdp), discount=0.99),
        lambda: evaluate_policy(mdp, reference_policy(mdp), GOLD, discount=0.99),
    ):
        with pytest.raises(NotConvergedError, match="have a residual of") as caught:
            ask()
        assert caught.value.residual > 0


@pytest.mark.parametrize("leaving", [1e-17, 1e-10])
def test_a_policy_that_ends_too_rarely_for_float64_is_refused(leaving: float) -> None:
    mdp = walk({0: -1.0, 1: -1.0}, {0: -1.0, END: -1.0})
    rarely = np.array([[0.3, 0.7], [1 - leaving, leaving]])
    with pytest.raises(NotConvergedError, match="lower the discount or set a horizon"):
        evaluate_policy(mdp, rarely, GOLD, discount=1.0)
    often = np.array([[0.3, 0.7], [0.999, 0.001]])
    assert evaluate_policy(mdp, often, GOLD, discount=1.0)[0, 1] == pytest.approx(
        -(1 + 0.999 / 0.7) / 0.001, rel=1e-12
    )


def test_a_refusal_survives_pickling_with_its_residual() -> None:
    error = pickle.loads(pickle.dumps(NotConvergedError("left with a residual of 0.5", 0.5)))
    assert (str(error), error.residual) == ("left with a residual of 0.5", 0.5)
