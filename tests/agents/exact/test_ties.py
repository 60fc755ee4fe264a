"""How an optimum's ties are split: per completion, as the limit kl_coef -> 0 splits them."""

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwalk.agents.exact.dynamic_programming import optimal_actions, solve
from tokenwalk.agents.exact.evaluation import evaluate
from tokenwalk.envs.tabular import TabularMDP

GOLD = {"gold": 1.0}
PROXY = {"proxy": 1.0}
seeds = st.integers(0, 2**32 - 1)


def length_bias(n_tokens: int, horizon: int) -> TabularMDP:
    """Return LengthBias over ``n_tokens`` letters and <eos>: states 0 to 2 count letters of "cab", 3 has spelt it.

    Gold is 1 the first time and -0.05 for each later letter. The proxy is 1 and +0.05 for every letter.
    """
    c, a, b, eos = 0, 1, 2, n_tokens
    to = np.zeros((4, n_tokens + 1), dtype=int)
    to[:3, c] = 1
    to[1, a], to[2, b], to[3] = 2, 3, 3
    gold, proxy = np.zeros(to.shape), np.full(to.shape, 0.05)
    gold[2, b], gold[3] = 1.0, -0.05
    proxy[2, b] += 1.0
    gold[:, eos] = proxy[:, eos] = 0.0
    return TabularMDP(
        next_state=to[:, :, None],
        probability=np.ones((*to.shape, 1)),
        terminated=np.broadcast_to(np.arange(n_tokens + 1) == eos, to.shape)[:, :, None].copy(),
        rewards={"gold": gold[:, :, None], "proxy": proxy[:, :, None]},
        last_rewards={},
        available=np.ones(to.shape, dtype=bool),
        log_reference=np.full(to.shape, -np.log(n_tokens + 1)),
        start=np.eye(4)[0],
        horizon=horizon,
        horizon_terminates=True,
    )


def split_per_token(mdp: TabularMDP, weights: dict[str, float]) -> np.ndarray:
    """Return the broken twin: tied tokens share by the reference alone."""
    share = optimal_actions(mdp, solve(mdp, weights, discount=1.0), weights) * np.exp(mdp.log_reference)
    return np.asarray(share / share.sum(axis=-1, keepdims=True))


def test_the_proxys_optimum_on_length_bias_has_the_gold_of_its_completions() -> None:
    mdp = length_bias(n_tokens=8, horizon=16)
    per_completion = evaluate(mdp, solve(mdp, PROXY, discount=1.0).policy)
    assert per_completion.returns["proxy"] == pytest.approx(1.8, abs=1e-12)
    assert per_completion.returns["gold"] == pytest.approx(0.674, abs=5e-4)
    per_token = evaluate(mdp, split_per_token(mdp, PROXY))
    assert per_token.returns["proxy"] == pytest.approx(1.8, abs=1e-12)
    assert per_token.returns["gold"] == pytest.approx(0.988, abs=5e-4)


def test_tied_completions_keep_the_references_proportions_and_tokens_split_alone_do_not(
    workshop: ModuleType,
) -> None:
    mdp = length_bias(n_tokens=3, horizon=6)
    rng = np.random.default_rng(5)
    mdp = replace(mdp, log_reference=np.log(rng.dirichlet(np.ones(4), 4)))
    completions = workshop.enumerate_completions(mdp, PROXY)
    best = max(one.return_ for one in completions)
    reference = np.exp(mdp.log_reference)[None]
    mass = np.array([np.exp(one.log_prob(reference)) * (one.return_ > best - 1e-9) for one in completions])
    assert (mass > 0).sum() > 10
    policy = solve(mdp, PROXY, discount=1.0).policy
    reached = np.exp([one.log_prob(policy) for one in completions])
    assert reached == pytest.approx(mass / mass.sum(), abs=1e-13)
    broken = np.exp([one.log_prob(split_per_token(mdp, PROXY)) for one in completions])
    assert np.abs(broken - mass / mass.sum()).max() > 0.01


@given(
    seed=seeds,
    horizon=st.sampled_from([None, 4]),
    discount=st.sampled_from([0.5, 0.9, 1.0]),
    n_outcomes=st.integers(1, 2),
)
@settings(max_examples=80)
def test_a_hard_optimum_is_the_limit_of_regularized_ones(
    workshop: ModuleType, seed: int, horizon: int | None, discount: float, n_outcomes: int
) -> None:
    mdp = workshop.random_process(seed, n_outcomes=n_outcomes, horizon=horizon, whole_rewards=True)
    probability = np.full_like(mdp.probability, 1 / n_outcomes)
    rewards = {
        name: np.minimum(table, 0.0) for name, table in mdp.rewards.items()
    }  # so that no loop has a positive return
    mdp = replace(mdp, probability=probability, rewards=rewards, terminated=mdp.terminated | (seed % 3 == 0))
    if discount == 1 and horizon is None:
        mdp = replace(mdp, terminated=mdp.terminated | (np.arange(n_outcomes) == 0))
    hard = solve(mdp, GOLD, discount=discount)
    soft = solve(mdp, GOLD, discount=discount, kl_coef=1e-4)
    assert soft.policy == pytest.approx(hard.policy, abs=1e-6)
    assert (soft.value <= hard.value + 1e-12).all()
    assert soft.value == pytest.approx(hard.value, abs=1e-2)


def test_loops_that_cost_nothing_are_split_so_that_the_episode_ends() -> None:
    stay_or_go = TabularMDP(
        next_state=np.zeros((1, 2, 1), dtype=int),
        probability=np.ones((1, 2, 1)),
        terminated=np.array([[[False], [True]]]),
        rewards={"gold": np.zeros((1, 2, 1))},
        last_rewards={},
        available=np.ones((1, 2), dtype=bool),
        log_reference=np.log([[0.75, 0.25]]),
        start=np.ones(1),
        horizon=None,
        horizon_terminates=False,
    )
    for discount in (1.0, 0.9):
        policy = solve(stay_or_go, GOLD, discount=discount).policy
        assert policy == pytest.approx(np.exp(stay_or_go.log_reference)[None], abs=1e-12)
    assert evaluate(stay_or_go, policy).length == pytest.approx(4, rel=1e-12)


@pytest.mark.parametrize(("horizon", "discount"), [(3, 1.0), (None, 1.0), (None, 0.9)])
def test_without_support_of_the_reference_optimal_actions_share_equally_and_others_avoid_it(
    horizon: int | None, discount: float
) -> None:
    # State 0 ties between 1 (whose optimal actions 0 and 1 the reference never plays) and 2 (where it plays 1).
    to = np.array([[1, 2, 2], [0, 0, 0], [0, 0, 0]])[:, :, None]
    reward = np.array([[0.0, 0.0, -5.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])[:, :, None]
    reference = np.array([[0.8, 0.1, 0.1], [0.0, 0.0, 1.0], [0.4, 0.3, 0.3]])
    with np.errstate(divide="ignore"):
        log_reference = np.log(reference)
    ends = np.zeros(to.shape, dtype=bool)
    ends[1:] = True
    every = np.ones((3, 3), dtype=bool)
    mdp = TabularMDP(
        to, np.ones(to.shape), ends, {"gold": reward}, {}, every, log_reference, np.eye(3)[0], horizon, True
    )
    solution = solve(mdp, GOLD, discount=discount)
    assert solution.start_value(mdp) == discount
    assert solution.policy[0] == pytest.approx(np.array([[0, 1, 0], [0.5, 0.5, 0], [0, 1, 0]]), abs=1e-12)
    soft = solve(mdp, GOLD, discount=discount, kl_coef=0.2)
    assert (soft.policy[0, 1] == [0, 0, 1]).all()


def test_without_support_a_loop_that_costs_nothing_still_ends() -> None:
    ends = np.array([[[False], [True], [True]]])
    with np.errstate(divide="ignore"):
        log_reference = np.log([[0.0, 0.0, 1.0]])
    mdp = TabularMDP(
        next_state=np.zeros((1, 3, 1), dtype=int),
        probability=np.ones((1, 3, 1)),
        terminated=ends,
        rewards={"gold": np.array([[[0.0], [0.0], [-1.0]]])},
        last_rewards={},
        available=np.ones((1, 3), dtype=bool),
        log_reference=log_reference,
        start=np.ones(1),
        horizon=None,
        horizon_terminates=False,
    )
    assert solve(mdp, GOLD, discount=1.0).policy == pytest.approx(np.array([[[0.5, 0.5, 0]]]), abs=1e-12)


@pytest.mark.parametrize("horizon", [None, 5])
def test_an_optimal_action_that_the_reference_hardly_ever_plays_is_played(horizon: int | None) -> None:
    mdp = TabularMDP(
        next_state=np.zeros((1, 3, 1), dtype=int),
        probability=np.ones((1, 3, 1)),
        terminated=np.ones((1, 3, 1), dtype=bool),
        rewards={"gold": np.array([[[1.0], [1.0], [0.0]]])},
        last_rewards={},
        available=np.ones((1, 3), dtype=bool),
        log_reference=np.array([[-900.0, -900.0 + np.log(3), 0.0]]),
        start=np.ones(1),
        horizon=horizon,
        horizon_terminates=True,
    )
    assert solve(mdp, GOLD, discount=1.0).policy[0] == pytest.approx(np.array([[0.25, 0.75, 0]]), abs=1e-12)


def test_a_difference_above_the_tolerance_is_no_tie(workshop: ModuleType) -> None:
    mdp = workshop.make("tokenwalk/CounterWalk-v0", time_limit=False)
    gold = mdp.rewards["gold"].copy()
    gold[1, 0] += 1e-9
    nearly = replace(mdp, rewards={"gold": gold})
    assert solve(nearly, GOLD, discount=0.9).policy[0, 1].tolist() == [1.0, 0.0]
    gold[1, 0] -= 1e-9 - 1e-13
    assert solve(nearly, GOLD, discount=0.9).policy[0, 1] == pytest.approx([0.5, 0.5], abs=1e-12)


@pytest.mark.parametrize(("large", "tied"), [([1, 1e6], True), ([1e6, 1], True), ([1, 1], False)])
def test_the_tolerance_is_of_the_largest_value_of_this_step_and_the_later_ones(
    large: list[float], tied: bool
) -> None:
    # Every action ends the episode, so the values of a step are its rewards. In state 0 the two actions differ by 1e-5:
    # 1e-9 of the largest value is 1e-3 where a value is 1e6, and 1e-9 where every value is 1.
    shape = (2, 2, 1)
    reward = np.array([[1.0, 1.0 + 1e-5], [large[0], large[0]]])
    last = np.array([[0.0, 0.0], [large[1] - large[0]] * 2])
    mdp = TabularMDP(
        next_state=np.zeros(shape, dtype=int),
        probability=np.ones(shape),
        terminated=np.ones(shape, dtype=bool),
        rewards={"gold": reward[:, :, None]},
        last_rewards={"gold": last},
        available=np.ones(shape[:2], dtype=bool),
        log_reference=np.log([[0.75, 0.25]] * 2),
        start=np.array([0.5, 0.5]),
        horizon=2,
        horizon_terminates=True,
    )
    solution = solve(mdp, GOLD, discount=1.0)
    optimal = optimal_actions(mdp, solution, GOLD)
    assert solution.policy[0, 0].tolist() == pytest.approx([0.75, 0.25] if tied else [0.0, 1.0])
    assert optimal[0, 0].tolist() == [tied, True]
    # The last step has no later one: a large value before it changes nothing.
    late = large[1] > 1
    assert solution.policy[1, 0].tolist() == pytest.approx([0.75, 0.25] if late else [0.0, 1.0])
    assert optimal[1, 0].tolist() == [late, True]
