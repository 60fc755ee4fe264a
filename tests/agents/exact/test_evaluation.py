"""The figures of a policy, exactly: forward against backward, enumeration and simulation; dominance and regret."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwalk.agents.exact.dynamic_programming import evaluate_policy, solve
from tokenwalk.agents.exact.evaluation import (
    DominanceError,
    Evaluation,
    evaluate,
    reference_policy,
    regret,
    regret_against,
)
from tokenwalk.envs.tabular import TabularMDP

GOLD = {"gold": 1.0}
seeds = st.integers(0, 2**32 - 1)
N_EPISODES = 40_000


def deviations(evaluation: Evaluation, sample: Any) -> dict[str, float]:
    """Return by how many standard errors the mean of each simulated figure is off."""
    pairs = {name: (values, evaluation.returns[name]) for name, values in sample.returns.items()}
    pairs["kl"] = (sample.log_ratio, evaluation.kl)
    pairs["entropy"] = (sample.surprise, evaluation.entropy)
    pairs["length"] = (sample.length, evaluation.length)
    return {
        name: abs(float(values.mean()) - exact) / (float(values.std()) / np.sqrt(len(values)))
        for name, (values, exact) in pairs.items()
    }


@pytest.mark.parametrize(("horizon", "n_slices"), [(None, 1), (6, 1), (6, 6)])
@pytest.mark.parametrize("discount", [0.8, 1.0])
def test_exact_figures_are_within_four_standard_errors_of_simulated_ones(
    workshop: ModuleType, horizon: int | None, n_slices: int, discount: float
) -> None:
    mdp = workshop.random_process(21, horizon=horizon)
    mdp = replace(mdp, terminated=mdp.terminated | (np.arange(2) == 0) * (np.arange(4) > 1)[:, None, None])
    policy = workshop.random_policy(mdp, 3, n_slices)
    evaluation = evaluate(mdp, policy, discount=discount)
    sample = workshop.simulate(mdp, policy, N_EPISODES, discount, seed=7)
    off = deviations(evaluation, sample)
    assert set(off) == {"gold", "proxy", "kl", "entropy", "length"}
    assert max(off.values()) < 4


@pytest.mark.parametrize("env_id", ["FrozenLake", "CliffWalking", "Taxi", "tokenwalk/CounterWalkLong-v0"])
def test_exact_figures_of_known_environments_are_within_four_standard_errors(
    workshop: ModuleType, env_id: str
) -> None:
    mdp = workshop.make(env_id)
    half = 0.5 * reference_policy(mdp) + 0.5 * solve(mdp, GOLD, discount=1.0).policy
    off = deviations(evaluate(mdp, half), workshop.simulate(mdp, half, 4_000, 1.0, seed=1))
    assert off["gold"] < 4
    assert off["length"] < 4


def test_the_simulation_notices_tables_that_ignore_termination_or_forget_the_last_reward(
    workshop: ModuleType,
) -> None:
    mdp = workshop.random_process(22, horizon=2)
    policy = workshop.random_policy(mdp, 3)
    sample = workshop.simulate(mdp, policy, N_EPISODES, 1.0, seed=7)
    assert deviations(evaluate(mdp, policy), sample)["gold"] < 4
    endless = replace(mdp, terminated=np.zeros_like(mdp.terminated))
    assert deviations(evaluate(endless, policy), sample)["length"] > 40
    forgetful = replace(mdp, last_rewards={})
    assert deviations(evaluate(forgetful, policy), sample)["gold"] > 8


@given(
    seed=seeds,
    horizon=st.sampled_from([None, 1, 4]),
    discount=st.sampled_from([0.5, 0.99]),
    kl_coef=st.sampled_from([0.0, 0.7]),
    stationary=st.booleans(),
)
@settings(max_examples=60)
def test_occupancy_forward_and_values_backward_give_the_same_figure(
    workshop: ModuleType, seed: int, horizon: int | None, discount: float, kl_coef: float, stationary: bool
) -> None:
    mdp = workshop.random_process(seed, horizon=horizon)
    weights = {"gold": 0.3, "proxy": -2.0}
    policy = workshop.random_policy(mdp, seed + 1, 1 if stationary else horizon or 1)
    forward = evaluate(mdp, policy, discount=discount).value(weights, kl_coef)
    backward = evaluate_policy(mdp, policy, weights, discount=discount, kl_coef=kl_coef)
    assert backward.shape == (horizon or 1, mdp.n_states)
    assert forward == pytest.approx(float(mdp.start @ backward[0]), rel=1e-11, abs=1e-12)


@given(seed=seeds, time_dependent=st.booleans())
@settings(max_examples=30)
def test_every_figure_is_the_sum_over_all_completions(
    workshop: ModuleType, seed: int, time_dependent: bool
) -> None:
    mdp = workshop.token_tree(seed)
    policy = workshop.random_policy(mdp, seed, 3 if time_dependent else 1)
    completions = workshop.enumerate_completions(mdp, GOLD)
    log_prob = np.array([one.log_prob(policy) for one in completions])
    log_ratio = log_prob - np.array([one.log_prob(reference_policy(mdp)) for one in completions])
    mass = np.exp(log_prob) * mdp.start[[one.prompt for one in completions]]
    evaluation = evaluate(mdp, policy)
    assert mass.sum() == pytest.approx(1, abs=1e-14)
    assert evaluation.returns["gold"] == pytest.approx(mass @ [one.return_ for one in completions], abs=1e-13)
    assert evaluation.kl == pytest.approx(mass @ log_ratio, abs=1e-13)
    assert evaluation.entropy == pytest.approx(-(mass @ log_prob), abs=1e-13)
    assert evaluation.length == pytest.approx(mass @ [len(one.steps) for one in completions], abs=1e-13)


@pytest.mark.parametrize("horizon", [None, 5])
def test_returns_are_linear_in_the_channels_and_one_pass_has_them_all(
    workshop: ModuleType, horizon: int | None
) -> None:
    mdp = workshop.random_process(9, horizon=horizon)
    mixed = 2.0 * mdp.rewards["gold"] - 3.0 * mdp.rewards["proxy"]
    last = {name: 2.0 * table for name, table in mdp.last_rewards.items()}
    both = replace(mdp, rewards={**mdp.rewards, "mixed": mixed})
    both = replace(both, last_rewards={**mdp.last_rewards, **({"mixed": last["gold"]} if last else {})})
    evaluation = evaluate(both, workshop.random_policy(mdp, 2), discount=0.9)
    assert set(evaluation.returns) == {"gold", "proxy", "mixed"}
    expected = 2 * evaluation.returns["gold"] - 3 * evaluation.returns["proxy"]
    assert evaluation.returns["mixed"] == pytest.approx(expected, abs=1e-12)
    assert evaluation.value({"gold": 2.0, "proxy": -3.0}) == pytest.approx(expected, abs=1e-12)
    assert evaluation.value(GOLD, 0.5) == evaluation.returns["gold"] - 0.5 * evaluation.kl


def test_the_occupancy_sums_to_the_expected_length() -> None:
    # A coin decides each step whether the episode goes on, so t steps are reached with probability 2^-t.
    coin = TabularMDP(
        next_state=np.zeros((1, 1, 2), dtype=int),
        probability=np.full((1, 1, 2), 0.5),
        terminated=np.array([[[False, True]]]),
        rewards={"gold": np.array([[[1.0, 3.0]]])},
        last_rewards={"gold": np.array([[16.0]])},
        available=np.ones((1, 1), dtype=bool),
        log_reference=np.zeros((1, 1)),
        start=np.ones(1),
        horizon=5,
        horizon_terminates=True,
    )
    over_five = evaluate(coin, np.ones((1, 1)))
    assert over_five.occupancy.tolist() == [[1.0], [0.5], [0.25], [0.125], [0.0625]]
    assert (over_five.length, over_five.returns["gold"]) == (1.9375, 2 * 1.9375 + 1)
    until_end = evaluate(replace(coin, horizon=None), np.ones((1, 1)))
    assert until_end.occupancy == pytest.approx([2.0], rel=1e-15)
    assert until_end.returns["gold"] == pytest.approx(4, rel=1e-15)
    assert evaluate(replace(coin, horizon=None), np.ones((1, 1)), discount=0.5).length == pytest.approx(4 / 3)


@pytest.mark.parametrize("horizon", [None, 3])
def test_the_reference_has_no_kl_and_a_policy_outside_its_support_has_infinite_kl_only_where_it_goes(
    workshop: ModuleType, horizon: int | None
) -> None:
    mdp = workshop.token_tree(4)
    mdp = replace(mdp, horizon=horizon)
    assert evaluate(mdp, reference_policy(mdp), discount=0.9).kl == pytest.approx(0, abs=1e-15)
    reference = np.exp(mdp.log_reference)
    reference[0] = [0.0, 0.5, 0.5]
    with np.errstate(divide="ignore"):
        mdp = replace(mdp, log_reference=np.log(reference), start=np.eye(mdp.n_states)[0])
    outside = workshop.random_policy(mdp, 0)
    stray = evaluate(mdp, outside, discount=0.9)
    assert stray.kl == np.inf
    assert np.isfinite(stray.value(GOLD))
    assert regret(mdp, outside, GOLD, discount=0.9, kl_coef=0.1) == np.inf
    with pytest.raises(
        ValueError, match="in state 0 the policy plays an action that the reference never plays"
    ):
        evaluate_policy(mdp, outside, GOLD, discount=0.9, kl_coef=0.1)
    elsewhere = replace(mdp, start=np.eye(mdp.n_states)[1])
    assert np.isfinite(evaluate(elsewhere, outside, discount=0.9).kl)


@given(seed=seeds, horizon=st.sampled_from([None, 4]), kl_coef=st.sampled_from([0.0, 0.3]))
@settings(max_examples=30)
def test_regret_is_zero_at_the_optimum_and_never_negative(
    workshop: ModuleType, seed: int, horizon: int | None, kl_coef: float
) -> None:
    mdp = workshop.random_process(seed, horizon=horizon)
    optimum = solve(mdp, GOLD, discount=0.9, kl_coef=kl_coef)
    scale = 1 + np.abs(optimum.value).max()
    assert regret(mdp, optimum.policy, GOLD, discount=0.9, kl_coef=kl_coef) == pytest.approx(
        0, abs=1e-10 * scale
    )
    for policy_seed in range(3):
        policy = workshop.random_policy(mdp, policy_seed)
        assert regret(mdp, policy, GOLD, discount=0.9, kl_coef=kl_coef) > -1e-12 * scale


def test_a_policy_above_the_optimum_is_refused_with_both_figures(workshop: ModuleType) -> None:
    mdp = workshop.random_process(2, horizon=5)
    optimum = solve(mdp, GOLD, discount=1.0)
    evaluation = evaluate(mdp, optimum.policy)
    best = optimum.start_value(mdp)
    scale = np.abs(optimum.value).max()
    within = replace(evaluation, returns={"gold": best + 0.5e-9 * scale})
    assert regret_against(mdp, optimum, within, GOLD) == pytest.approx(-0.5e-9 * scale, rel=1e-3)
    above = replace(evaluation, returns={"gold": best + 2e-9 * scale})
    with pytest.raises(DominanceError, match=f"evaluated at .*, above the optimum {best!r}") as caught:
        regret_against(mdp, optimum, above, GOLD)
    assert isinstance(caught.value, AssertionError)
    with pytest.raises(ValueError, match=r"at discount 0.9, the optimum at 1.0: give both the same"):
        regret_against(mdp, optimum, evaluate(mdp, optimum.policy, discount=0.9), GOLD)


def test_dominance_notices_an_optimum_of_other_tables(workshop: ModuleType) -> None:
    mdp = workshop.random_process(2, horizon=5)
    evaluation = evaluate(mdp, solve(mdp, GOLD, discount=1.0).policy)
    forgetful = solve(replace(mdp, last_rewards={}), GOLD, discount=1.0)
    with pytest.raises(DominanceError):
        regret_against(mdp, forgetful, evaluation, GOLD)


def test_the_reference_policy_is_the_process_own(workshop: ModuleType) -> None:
    mdp = workshop.random_process(5)
    reference = reference_policy(mdp)
    assert reference.shape == (1, 4, 3)
    assert reference.sum(axis=2) == pytest.approx(1, abs=1e-15)
    assert ((reference[0] > 0) == mdp.available).all()
    finite = np.maximum(mdp.log_reference, -1.0 * ~mdp.available - 1e3 * mdp.available)
    assert (reference_policy(replace(mdp, log_reference=finite)) == reference).all()


def test_a_float32_policy_is_normalized_before_it_is_evaluated(workshop: ModuleType) -> None:
    mdp = workshop.random_process(5, horizon=6)
    policy = workshop.random_policy(mdp, 0)
    rough = policy.astype(np.float32) * np.float32(1 + 3e-6)
    exact, rounded = evaluate(mdp, policy), evaluate(mdp, rough)
    assert rounded.length == pytest.approx(exact.length, rel=1e-6)
    assert rounded.returns["gold"] == pytest.approx(exact.returns["gold"], abs=1e-6)
    assert evaluate(replace(mdp, terminated=np.zeros_like(mdp.terminated)), rough).length == pytest.approx(
        6, rel=1e-14
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:, :, :2], r"the policy has shape \(1, 4, 2\): give \[S, A\] = \[4, 3\], or T = 1 or 6"),
        (lambda p: np.repeat(p, 5, axis=0), r"the policy has shape \(5, 4, 3\)"),
        (lambda p: p * 0.9, "the policy of state 0 is .*: give probabilities that sum to 1"),
        (lambda p: p * np.nan, "the policy of state 0 is .*: give probabilities that sum to 1"),
        (lambda p: np.array([1.5, -0.5, 0.0]) + 0 * p, "the policy of state 0 is .*: give probabilities"),
        (
            lambda p: np.full_like(p, 1 / 3),
            "the policy plays action 1 in state 2, which is not available there",
        ),
    ],
)
def test_an_invalid_policy_is_refused_by_name(workshop: ModuleType, change: object, message: str) -> None:
    mdp = workshop.random_process(5, horizon=6)
    available = np.ones((4, 3), dtype=bool)
    available[2, 1] = False
    mdp = replace(
        mdp, available=available, log_reference=np.log(available / available.sum(1, keepdims=True) + 1e-300)
    )
    policy = change(reference_policy(mdp))  # type: ignore[operator]
    for ask in (lambda: evaluate(mdp, policy), lambda: evaluate_policy(mdp, policy, GOLD, discount=1.0)):
        with pytest.raises(ValueError, match=message):
            ask()
