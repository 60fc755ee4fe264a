"""The hard optimum: known answers, and each algorithm against another way to the same figure."""

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.sparse import csr_matrix

from tokenwalk.agents.exact.bellman import Chain
from tokenwalk.agents.exact.dynamic_programming import evaluate_policy, optimal_actions, solve
from tokenwalk.agents.exact.evaluation import evaluate
from tokenwalk.envs.tabular import TabularMDP

GOLD = {"gold": 1.0}
BOTH = {"gold": 1.0, "proxy": -0.5}
seeds = st.integers(0, 2**32 - 1)


def linear_program(mdp: TabularMDP, discount: float) -> np.ndarray:
    """Return the smallest V with V(s) >= r + discount E[V(s')] for every available action, [S]."""
    n_states = mdp.n_states
    state, action = np.nonzero(mdp.available)
    rows = np.arange(len(state))
    going_on = mdp.probability * ~mdp.terminated
    matrix = csr_matrix((np.ones(len(rows)), (rows, state)), (len(rows), n_states))
    for k in range(mdp.next_state.shape[2]):
        entries = (going_on[state, action, k], (rows, mdp.next_state[state, action, k]))
        matrix = matrix - discount * csr_matrix(entries, (len(rows), n_states))
    reward = (mdp.probability * mdp.rewards["gold"]).sum(axis=2)[state, action]
    answer = linprog(np.ones(n_states), A_ub=-matrix, b_ub=-reward, bounds=(None, None), method="highs")
    assert answer.status == 0, answer.message
    return np.asarray(answer.x)


def test_the_documented_walk_has_the_documented_values_and_actions(workshop: ModuleType) -> None:
    mdp = workshop.make("tokenwalk/CounterWalk-v0", time_limit=False)
    solution = solve(mdp, GOLD, discount=0.9)
    assert solution.value == pytest.approx(np.array([[10, -10, 10]]) / 19, abs=1e-15)
    assert solution.residual <= 1e-15
    assert optimal_actions(mdp, solution, GOLD).tolist() == [[[True, False], [True, True], [False, True]]]
    assert solution.policy[0] == pytest.approx(np.array([[1, 0], [0.5, 0.5], [0, 1]]), abs=1e-15)


@pytest.mark.parametrize(
    ("env_id", "time_limit", "best"),
    [
        ("tokenwalk/CounterWalk-v0", True, 0),
        ("tokenwalk/CounterWalkLong-v0", True, -98),
        ("tokenwalk/CounterWalkLong-v0", False, -98),
        ("CliffWalking", False, -13),
        ("FrozenLake", False, 14 / 17),
        ("FrozenLake8x8", False, 1),
        ("Taxi", True, 7.93),
        ("Taxi", False, 7.93),
    ],
)
def test_the_best_undiscounted_return_is_the_known_one(
    workshop: ModuleType, env_id: str, time_limit: bool, best: float
) -> None:
    mdp = workshop.make(env_id, time_limit)
    solution = solve(mdp, GOLD, discount=1.0)
    assert solution.start_value(mdp) == pytest.approx(best, rel=1e-12, abs=1e-12)
    assert evaluate(mdp, solution.policy).returns["gold"] == pytest.approx(best, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("env_id", "discount"),
    [
        ("tokenwalk/CounterWalk-v0", 0.9),
        ("tokenwalk/CounterWalkLong-v0", 0.99),
        ("tokenwalk/CounterWalkLong-v0", 1.0),
        ("FrozenLake", 0.99),
        ("FrozenLake", 1.0),
        ("CliffWalking", 0.99),
        ("CliffWalking", 1.0),
        ("Taxi", 0.99),
        ("Taxi", 1.0),
    ],
)
def test_policy_iteration_agrees_with_linear_programming(
    workshop: ModuleType, env_id: str, discount: float
) -> None:
    mdp = workshop.make(env_id, time_limit=False)
    solution = solve(mdp, GOLD, discount=discount)
    scale = np.abs(solution.value).max()
    assert solution.residual <= 1e-12 * scale
    assert solution.value[0] == pytest.approx(linear_program(mdp, discount), abs=1e-7 * scale)


@given(
    seed=seeds, n_outcomes=st.integers(1, 3), whole=st.booleans(), discount=st.sampled_from([0.3, 0.9, 0.99])
)
@settings(max_examples=40)
def test_policy_iteration_agrees_with_linear_programming_on_random_processes(
    workshop: ModuleType, seed: int, n_outcomes: int, whole: bool, discount: float
) -> None:
    mdp = workshop.random_process(seed, n_outcomes=n_outcomes, whole_rewards=whole)
    solution = solve(mdp, GOLD, discount=discount)
    scale = 1 + np.abs(solution.value).max()
    assert solution.value[0] == pytest.approx(linear_program(mdp, discount), abs=1e-7 * scale)
    assert evaluate_policy(mdp, solution.policy, GOLD, discount=discount) == pytest.approx(
        solution.value, abs=1e-9 * scale
    )


def test_a_far_reward_takes_few_linear_solves(workshop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = {"n_states": 500, "start": 499, "goal": 0, "terminate_at_goal": True}
    mdp = workshop.make("tokenwalk/CounterWalk-v0", time_limit=False, **walk)
    solved, solves = Chain.solve, []
    monkeypatch.setattr(Chain, "solve", lambda *args: solves.append(1) or solved(*args))
    value = solve(mdp, GOLD, discount=0.99).start_value(mdp)
    assert value == pytest.approx(-(1 - 0.99**498) / 0.01 + 0.99**498, rel=1e-13)
    assert len(solves) < 12


def test_the_linear_program_notices_a_solver_that_ignores_termination(workshop: ModuleType) -> None:
    mdp = workshop.make("CliffWalking", time_limit=False)
    broken = replace(mdp, terminated=np.zeros_like(mdp.terminated))
    value = solve(broken, GOLD, discount=0.99).value[0]
    assert np.abs(value - linear_program(mdp, 0.99)).max() > 1


@given(
    seed=seeds,
    discount=st.sampled_from([0.5, 0.95, 1.0]),
    kl_coef=st.sampled_from([0.0, 0.7]),
    whole=st.booleans(),
)
@settings(max_examples=60)
def test_backward_induction_agrees_with_iteration_over_the_process_expanded_in_time(
    workshop: ModuleType, seed: int, discount: float, kl_coef: float, whole: bool
) -> None:
    mdp = workshop.random_process(seed, horizon=4, whole_rewards=whole)
    induction = solve(mdp, BOTH, discount=discount, kl_coef=kl_coef)
    iteration = solve(workshop.expand_over_time(mdp), BOTH, discount=discount, kl_coef=kl_coef)
    assert induction.value.ravel() == pytest.approx(iteration.value[0], abs=1e-12)
    assert induction.policy.reshape(iteration.policy[0].shape) == pytest.approx(iteration.policy[0], abs=1e-9)


@given(seed=seeds)
@settings(max_examples=20)
def test_backward_induction_finds_the_best_completion_of_each_prompt(workshop: ModuleType, seed: int) -> None:
    mdp = workshop.token_tree(seed)
    completions = workshop.enumerate_completions(mdp, BOTH)
    value = solve(mdp, BOTH, discount=1.0).value[0]
    for prompt in np.flatnonzero(mdp.start).tolist():
        best = max(one.return_ for one in completions if one.prompt == prompt)
        assert value[prompt] == pytest.approx(best, abs=1e-13)


def test_the_last_reward_counts_once_at_the_end_of_the_horizon_and_never_without_one(
    workshop: ModuleType,
) -> None:
    mdp = workshop.random_process(3, horizon=5)
    plain = replace(mdp, terminated=np.zeros_like(mdp.terminated), last_rewards={})
    bonus = replace(plain, last_rewards={"gold": np.full((4, 3), 1000.0)})
    gain = solve(bonus, GOLD, discount=0.9).value - solve(plain, GOLD, discount=0.9).value
    assert gain == pytest.approx(1000 * 0.9 ** np.arange(4, -1, -1)[:, None].repeat(4, 1), rel=1e-12)
    endless = [solve(replace(one, horizon=None), GOLD, discount=0.9).value for one in (bonus, plain)]
    assert (endless[0] == endless[1]).all()


@given(seed=seeds, discount=st.sampled_from([0.9, 1.0]), horizon=st.sampled_from([None, 3]))
@settings(max_examples=40)
def test_no_policy_exceeds_the_optimum_in_any_state(
    workshop: ModuleType, seed: int, discount: float, horizon: int | None
) -> None:
    mdp = workshop.random_process(seed, horizon=horizon)
    if horizon is None:  # undiscounted, a loop of positive return would leave no optimum
        mdp = replace(mdp, rewards={"gold": -np.abs(mdp.rewards["gold"])})
        mdp = replace(mdp, terminated=mdp.terminated | (np.arange(2) == 0))
    best = solve(mdp, GOLD, discount=discount).value
    for policy_seed in range(5):
        policy = workshop.random_policy(mdp, policy_seed, horizon or 1)
        value = evaluate_policy(mdp, policy, GOLD, discount=discount)
        assert (value <= best + 1e-12 * (1 + np.abs(best).max())).all()


@pytest.mark.parametrize("horizon", [None, 6])
def test_optimal_actions_are_those_that_the_policy_of_an_optimum_plays(
    workshop: ModuleType, horizon: int | None
) -> None:
    mdp = workshop.random_process(11, n_states=6, horizon=horizon, whole_rewards=True)
    solution = solve(mdp, GOLD, discount=0.9)
    optimal = optimal_actions(mdp, solution, GOLD)
    assert (optimal == (solution.policy > 0)).all()
    assert (optimal & ~mdp.available).sum() == 0
    with pytest.raises(ValueError, match="only a hard optimum"):
        optimal_actions(mdp, solve(mdp, GOLD, discount=0.9, kl_coef=0.5), GOLD)


def test_a_time_limit_is_solved_as_given_and_ignored_when_it_is_removed(workshop: ModuleType) -> None:
    mdp = workshop.make("FrozenLake")
    limited, unlimited = (solve(one, GOLD, discount=1.0) for one in (mdp, mdp.without_time_limit()))
    assert limited.value.shape == (100, 16)
    assert unlimited.value.shape == (1, 16)
    assert limited.start_value(mdp) < unlimited.start_value(mdp) - 0.05


@pytest.mark.parametrize("discount", [0.0, -0.1, 1.1, float("nan"), float("inf")])
def test_a_discount_out_of_range_is_refused_by_name(workshop: ModuleType, discount: float) -> None:
    mdp = workshop.random_process(0)
    policy = workshop.random_policy(mdp, 0)
    for ask in (
        lambda: solve(mdp, GOLD, discount=discount),
        lambda: evaluate_policy(mdp, policy, GOLD, discount=discount),
        lambda: evaluate(mdp, policy, discount=discount),
    ):
        with pytest.raises(ValueError, match=f"discount is {discount}: give a number above 0 and at most 1"):
            ask()


@pytest.mark.parametrize("kl_coef", [-0.1, float("nan"), float("inf")])
def test_a_kl_coef_out_of_range_is_refused_by_name(workshop: ModuleType, kl_coef: float) -> None:
    with pytest.raises(ValueError, match=f"kl_coef is {kl_coef}: give a finite number of 0 or more"):
        solve(workshop.random_process(0), GOLD, discount=0.9, kl_coef=kl_coef)


def test_a_horizon_whose_policy_would_not_fit_is_refused_with_the_count(workshop: ModuleType) -> None:
    mdp = workshop.random_process(0, horizon=10**7)
    with pytest.raises(ValueError, match="10000000 steps x 4 states x 3 actions are 120,000,000 prob"):
        solve(mdp, GOLD, discount=1.0)
    with pytest.raises(ValueError, match="no reward channel is called 'silver'"):
        solve(mdp, {"silver": 1.0}, discount=1.0)


@pytest.mark.parametrize("gain", [1e-9, 1e-11, 1e-12])
def test_policy_iteration_takes_an_action_that_gains_1e_12_of_the_value(gain: float) -> None:
    # Both actions end the episode: the value is the larger reward. Policy iteration begins with the first action.
    mdp = TabularMDP(
        next_state=np.zeros((1, 2, 1), dtype=int),
        probability=np.ones((1, 2, 1)),
        terminated=np.ones((1, 2, 1), dtype=bool),
        rewards={"gold": np.array([[[1.0], [1.0 + gain]]])},
        last_rewards={},
        available=np.ones((1, 2), dtype=bool),
        log_reference=np.log([[0.5, 0.5]]),
        start=np.ones(1),
        horizon=None,
        horizon_terminates=False,
    )
    for discount in (1.0, 0.9):
        assert solve(mdp, GOLD, discount=discount).value[0, 0] == 1.0 + gain
