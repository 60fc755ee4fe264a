"""The KL-regularized optimum against the closed form over completions, and every identity that it must obey."""

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwalk.agents.exact.dynamic_programming import NoFiniteAnswerError, evaluate_policy, solve
from tokenwalk.agents.exact.evaluation import evaluate, reference_policy, regret
from tokenwalk.envs.tabular import TabularMDP

GOLD = {"gold": 1.0}
BOTH = {"gold": 1.0, "proxy": 0.5}
seeds = st.integers(0, 2**32 - 1)
betas = st.sampled_from([0.05, 0.35, 1.0, 20.0])


def log_mean_exp(weight: np.ndarray, exponent: np.ndarray) -> float:
    """Return log sum weight exp(exponent) for weights that sum to 1."""
    top = exponent.max()
    return float(top + np.log((weight * np.exp(exponent - top)).sum()))


def discounted_kl(mdp: TabularMDP, policy: np.ndarray, other: np.ndarray, discount: float) -> float:
    """Return sum_t discount^t E[KL(policy || other)] over the states that ``policy`` [T or 1, S, A] visits."""
    occupancy = np.atleast_2d(evaluate(mdp, policy, discount=discount).occupancy)
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = np.where(policy > 0, policy * (np.log(policy) - np.log(other)), 0.0).sum(axis=-1)
    return float((occupancy * kl).sum())


@given(seed=seeds, beta=betas)
@settings(max_examples=40)
def test_closed_form_token_form_and_direct_evaluation_agree(
    workshop: ModuleType, seed: int, beta: float
) -> None:
    mdp = workshop.token_tree(seed)
    completions = workshop.enumerate_completions(mdp, BOTH)
    solution = solve(mdp, BOTH, discount=1.0, kl_coef=beta)
    reference = reference_policy(mdp)
    closed = 0.0
    for prompt in np.flatnonzero(mdp.start).tolist():
        mine = [one for one in completions if one.prompt == prompt]
        weight = np.exp([one.log_prob(reference) for one in mine])
        exponent = np.array([one.return_ for one in mine]) / beta
        log_z = log_mean_exp(weight, exponent)
        assert solution.value[0, prompt] == pytest.approx(beta * log_z, rel=1e-12, abs=1e-12)
        reached = np.exp([one.log_prob(solution.policy) for one in mine])
        assert reached == pytest.approx(weight * np.exp(exponent - log_z), rel=1e-11, abs=1e-300)
        closed += mdp.start[prompt] * beta * log_z
    direct = evaluate(mdp, solution.policy).value(BOTH, beta)
    assert (solution.start_value(mdp), direct) == pytest.approx((closed, closed), rel=1e-12, abs=1e-12)


def test_prompts_are_averaged_after_the_logarithm_and_not_before(workshop: ModuleType) -> None:
    mdp = workshop.token_tree(8)
    value = solve(mdp, GOLD, discount=1.0, kl_coef=0.35).value[0]
    averaged = solve(mdp, GOLD, discount=1.0, kl_coef=0.35).start_value(mdp)
    assert averaged == pytest.approx(float(mdp.start @ value), abs=1e-14)
    broken = 0.35 * log_mean_exp(mdp.start, value / 0.35)
    assert broken > averaged + 0.01


@given(seed=seeds, beta=betas, horizon=st.sampled_from([None, 3]), discount=st.sampled_from([0.6, 0.95, 1.0]))
@settings(max_examples=60)
def test_regret_is_kl_coef_times_the_kl_to_the_optimum(
    workshop: ModuleType, seed: int, beta: float, horizon: int | None, discount: float
) -> None:
    mdp = workshop.random_process(seed, horizon=horizon)
    if horizon is None:
        mdp = replace(mdp, rewards={"gold": -np.abs(mdp.rewards["gold"])})
        mdp = replace(mdp, terminated=mdp.terminated | (np.arange(2) == 0))
    optimum = solve(mdp, GOLD, discount=discount, kl_coef=beta)
    policy = workshop.random_policy(mdp, seed + 1, horizon or 1)
    expected = beta * discounted_kl(mdp, policy, optimum.policy, discount)
    lost = regret(mdp, policy, GOLD, discount=discount, kl_coef=beta)
    assert lost == pytest.approx(expected, rel=1e-9, abs=1e-11)
    assert regret(mdp, optimum.policy, GOLD, discount=discount, kl_coef=beta) == pytest.approx(0, abs=1e-11)


def test_the_regret_identity_notices_a_kl_that_is_not_discounted(workshop: ModuleType) -> None:
    mdp = workshop.random_process(4, horizon=5)
    policy = workshop.random_policy(mdp, 1)
    optimum = solve(mdp, GOLD, discount=0.8, kl_coef=0.5)
    expected = 0.5 * discounted_kl(mdp, policy, optimum.policy, 0.8)
    earned = evaluate(mdp, policy, discount=0.8).value(GOLD)
    undiscounted = earned - 0.5 * evaluate(mdp, policy).kl
    assert abs(optimum.start_value(mdp) - undiscounted - expected) > 0.05
    assert regret(mdp, policy, GOLD, discount=0.8, kl_coef=0.5) == pytest.approx(expected, abs=1e-12)


@given(seed=seeds, beta=betas, discount=st.sampled_from([0.5, 0.95]))
@settings(max_examples=30)
def test_soft_policy_iteration_reaches_the_fixed_point_of_soft_value_iteration(
    workshop: ModuleType, seed: int, beta: float, discount: float
) -> None:
    mdp = workshop.random_process(seed)
    reward = (mdp.probability * mdp.rewards["gold"]).sum(axis=2)
    value = np.zeros(mdp.n_states)
    for _ in range(700):
        q = reward + discount * (mdp.probability * ~mdp.terminated * value[mdp.next_state]).sum(axis=2)
        value = np.array([beta * log_mean_exp(np.exp(mdp.log_reference[s]), q[s] / beta) for s in range(4)])
    solution = solve(mdp, GOLD, discount=discount, kl_coef=beta)
    assert solution.value[0] == pytest.approx(value, rel=1e-12, abs=1e-12)
    assert solution.residual <= 1e-13 * (1 + beta + np.abs(value).max())


@given(seed=seeds, beta=betas)
@settings(max_examples=30)
def test_without_noise_the_exponentials_of_undiscounted_values_solve_linear_equations(
    workshop: ModuleType, seed: int, beta: float
) -> None:
    mdp = workshop.random_process(seed, n_outcomes=1)
    ends = mdp.terminated.copy()
    ends[:, 0] |= ~mdp.available[:, 1:].any(axis=1, keepdims=True)
    ends[np.arange(4), mdp.available.argmax(axis=1)] = True
    mdp = replace(mdp, terminated=ends, rewards={"gold": -np.abs(mdp.rewards["gold"])})
    weight = np.exp(mdp.log_reference + mdp.rewards["gold"][:, :, 0] / beta)
    goes_on = np.zeros((4, 4))
    for s, a in np.argwhere(~mdp.terminated[:, :, 0]):
        goes_on[s, mdp.next_state[s, a, 0]] += weight[s, a]
    z = np.linalg.solve(np.eye(4) - goes_on, (weight * mdp.terminated[:, :, 0]).sum(axis=1))
    solution = solve(mdp, GOLD, discount=1.0, kl_coef=beta)
    assert solution.value[0] == pytest.approx(beta * np.log(z), rel=1e-11, abs=1e-12)


@pytest.mark.parametrize(("kl_coef", "finite"), [(1.45, True), (1.44, False), (0.1, False)])
def test_a_loop_has_an_undiscounted_value_exactly_where_its_kl_penalty_exceeds_its_return(
    kl_coef: float, finite: bool
) -> None:
    # z = (e^(1/beta) z + 1) / 2 has a positive solution only where e^(1/beta) < 2: beta > 1 / log 2 = 1.4427.
    mdp = TabularMDP(
        next_state=np.zeros((1, 2, 1), dtype=int),
        probability=np.ones((1, 2, 1)),
        terminated=np.array([[[False], [True]]]),
        rewards={"gold": np.array([[[1.0], [0.0]]])},
        last_rewards={},
        available=np.ones((1, 2), dtype=bool),
        log_reference=np.full((1, 2), np.log(0.5)),
        start=np.ones(1),
        horizon=None,
        horizon_terminates=False,
    )
    if finite:
        expected = kl_coef * -np.log(2 - np.exp(1 / kl_coef))
        assert solve(mdp, GOLD, discount=1.0, kl_coef=kl_coef).value[0, 0] == pytest.approx(
            expected, rel=1e-11
        )
    else:
        with pytest.raises(NoFiniteAnswerError, match=f"grows beyond any bound at kl_coef {kl_coef}"):
            solve(mdp, GOLD, discount=1.0, kl_coef=kl_coef)


@pytest.mark.parametrize("horizon", [None, 4])
def test_a_huge_kl_coef_gives_the_reference_and_its_return_to_the_last_digits(
    workshop: ModuleType, horizon: int | None
) -> None:
    mdp = workshop.random_process(6, horizon=horizon)
    reference = reference_policy(mdp)
    expected = evaluate_policy(mdp, reference, GOLD, discount=0.9)
    solution = solve(mdp, GOLD, discount=0.9, kl_coef=1e9)
    assert solution.policy == pytest.approx(np.broadcast_to(reference, solution.policy.shape), abs=1e-8)
    # Without a horizon the value is solved for with the KL in it, whose last digit is 1e-16 times kl_coef.
    assert solution.value == pytest.approx(expected, abs=1e-8 if horizon else 1e-6)
    # beta log(sum w exp(q / beta)), taken literally, has lost all but the first digits.
    q = mdp.rewards["gold"][:, :, 0]
    naive = 1e9 * np.log((np.exp(mdp.log_reference) * np.exp(q / 1e9)).sum(axis=1))
    assert np.abs(naive - (np.exp(mdp.log_reference) * q).sum(axis=1)).max() > 1e-8


def test_a_small_kl_coef_gives_the_hard_optimum(workshop: ModuleType) -> None:
    mdp = workshop.random_process(6, horizon=4)
    hard = solve(mdp, GOLD, discount=0.9)
    soft = solve(mdp, GOLD, discount=0.9, kl_coef=1e-6)
    assert soft.policy == pytest.approx(hard.policy, abs=1e-12)
    assert soft.value == pytest.approx(hard.value, abs=1e-4)
    assert (soft.value <= hard.value).all()


@given(seed=seeds, constant=st.sampled_from([-3.0, 50.0]), factor=st.sampled_from([0.01, 7.0]))
@settings(max_examples=20)
def test_a_constant_moves_the_value_alone_and_scaling_all_leaves_the_policy(
    workshop: ModuleType, seed: int, constant: float, factor: float
) -> None:
    mdp = workshop.token_tree(seed)
    plain = solve(mdp, GOLD, discount=1.0, kl_coef=0.4)
    # Each completion ends once: on <eos>, the last action, or by the last step of the horizon.
    at_the_end = {"gold": mdp.rewards["gold"] + constant * mdp.terminated}
    by_horizon = {"gold": mdp.last_rewards["gold"] + constant * ~mdp.terminated[:, :, 0]}
    moved = solve(replace(mdp, rewards=at_the_end, last_rewards=by_horizon), GOLD, discount=1.0, kl_coef=0.4)
    assert moved.policy[0, :2] == pytest.approx(plain.policy[0, :2], abs=1e-12)
    assert moved.start_value(mdp) == pytest.approx(plain.start_value(mdp) + constant, abs=1e-12)
    scaled = solve(mdp, {"gold": factor}, discount=1.0, kl_coef=0.4 * factor)
    assert scaled.policy == pytest.approx(plain.policy, abs=1e-12)
    assert scaled.start_value(mdp) == pytest.approx(plain.start_value(mdp) * factor, abs=1e-12)


@pytest.mark.parametrize("horizon", [None, 4])
def test_what_the_reference_never_plays_is_never_played(workshop: ModuleType, horizon: int | None) -> None:
    mdp = workshop.random_process(13, horizon=horizon)
    reference = np.exp(mdp.log_reference)
    reference[0] = np.eye(3)[int(mdp.available[0].argmax())]
    with np.errstate(divide="ignore"):
        mdp = replace(mdp, log_reference=np.log(reference))
    rewards = mdp.rewards["gold"] + 1e6 * (reference == 0)[:, :, None]
    tempted = solve(replace(mdp, rewards={"gold": rewards}), GOLD, discount=0.9, kl_coef=0.1)
    plain = solve(mdp, GOLD, discount=0.9, kl_coef=0.1)
    assert (tempted.policy[:, reference == 0] == 0).all()
    assert tempted.policy == pytest.approx(plain.policy, abs=1e-13)
    assert tempted.value == pytest.approx(plain.value, abs=1e-13)


@pytest.mark.parametrize("scale", [1e4, 1e8, 1e300])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_rewards_far_above_the_kl_coef_do_not_overflow(
    workshop: ModuleType, scale: float, sign: float
) -> None:
    mdp = workshop.token_tree(2, horizon=2)
    weights = {"gold": sign * scale}
    solution = solve(mdp, weights, discount=1.0, kl_coef=1e-3)
    hard = solve(mdp, weights, discount=1.0)
    assert solution.value == pytest.approx(hard.value, rel=1e-5)
    assert solution.policy == pytest.approx(hard.policy, abs=1e-12)
    endless = replace(mdp, horizon=None)
    assert solve(endless, weights, discount=0.9, kl_coef=1e-3).value == pytest.approx(
        solve(endless, weights, discount=0.9).value, rel=1e-5
    )


def test_an_unlikely_token_far_better_than_the_rest_is_weighed_without_underflow() -> None:
    mdp = TabularMDP(
        next_state=np.zeros((1, 2, 1), dtype=int),
        probability=np.ones((1, 2, 1)),
        terminated=np.ones((1, 2, 1), dtype=bool),
        rewards={"gold": np.array([[[1000.0], [0.0]]])},
        last_rewards={},
        available=np.ones((1, 2), dtype=bool),
        log_reference=np.array([[-900.0, 0.0]]),
        start=np.ones(1),
        horizon=1,
        horizon_terminates=True,
    )
    assert solve(mdp, GOLD, discount=1.0, kl_coef=1.0).value[0, 0] == pytest.approx(100, abs=1e-12)
    assert solve(mdp, GOLD, discount=1.0, kl_coef=10.0).value[0, 0] == pytest.approx(0, abs=1e-12)
