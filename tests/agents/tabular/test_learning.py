"""What is learned, held against the exact optimum: not a lucky run but every run."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from scipy.stats import norm

from tokenwalk.agents.exact.dynamic_programming import evaluate_policy, solve
from tokenwalk.agents.exact.evaluation import evaluate, reference_policy
from tokenwalk.agents.tabular.config import Backup, QLearningConfig
from tokenwalk.agents.tabular.defaults import default_config
from tokenwalk.agents.tabular.greedy import epsilon_greedy_policy
from tokenwalk.agents.tabular.q_learning import QLearning
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.registration import discount_of
from tokenwalk.envs.tabular import TabularMDP, tabular_mdp

GOLD = {"gold": 1.0}
TAXI = "Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"
ENV_IDS = [
    "tokenwalk/CounterWalk-v0",
    "tokenwalk/CounterWalkLong-v0",
    "FrozenLake-v1",
    "CliffWalking-v1",
    TAXI,
]


def learned(env_id: str, backup: Backup, runs: int = 16, seed: int = 0) -> tuple[TabularMDP, QLearning]:
    mdp = tabular_mdp(gym.make(env_id))
    config, steps = default_config(env_id, backup)
    agent = QLearning.for_mdp(mdp, config, runs=runs, seed=seed)
    agent.learn_mdp(mdp, GOLD, steps)
    return mdp, agent


def start_value(mdp: TabularMDP, policy: FloatArray, discount: float, kl_coef: float = 0.0) -> float:
    """Return the exact value of ``policy`` [1, S, A] without the time limit, from the start."""
    value = evaluate_policy(mdp.without_time_limit(), policy, GOLD, discount=discount, kl_coef=kl_coef)
    return float(value[0] @ mdp.start)


def optimum(mdp: TabularMDP, discount: float, kl_coef: float = 0.0) -> float:
    solution = solve(mdp.without_time_limit(), GOLD, discount=discount, kl_coef=kl_coef)
    return float(solution.value[0] @ mdp.start)


def test_the_documented_parameters_solve_the_counter_walk_in_the_documented_hundred_steps() -> None:
    config, steps = default_config("tokenwalk/CounterWalk-v0", "q-learning")
    assert (config, steps) == (QLearningConfig(step_size=0.1, discount=0.9), 100)
    mdp, agent = learned("tokenwalk/CounterWalk-v0", "q-learning")
    assert agent.values.shape == (16, 1, 3, 2)
    values = [start_value(mdp, policy, 0.9) for policy in agent.greedy_policy()]
    np.testing.assert_allclose(values, 10 / 19, rtol=1e-9)


def deterministic_mdp(horizon: int, horizon_terminates: bool) -> TabularMDP:
    """Return 6 states and 3 actions, of which the last is missing in one state; a last-step reward if it terminates."""
    rng = np.random.default_rng(8)
    shape = (6, 3, 1)
    available = np.ones((6, 3), dtype=np.bool_)
    available[2, 2] = False
    return TabularMDP(
        next_state=rng.integers(0, 6, size=shape),
        probability=np.ones(shape),
        terminated=rng.random(shape) < 0.1,
        rewards={"gold": rng.normal(size=shape) + 5.0 * ~available[:, :, None]},
        last_rewards={"gold": rng.normal(size=(6, 3))} if horizon_terminates else {},
        available=available,
        log_reference=np.where(available, -np.log(available.sum(axis=1, keepdims=True)), -np.inf),
        start=np.full(6, 1 / 6),
        horizon=horizon,
        horizon_terminates=horizon_terminates,
    )


@pytest.mark.parametrize("backup", ["q-learning", "double-q"])
@pytest.mark.parametrize("n_step", [1, 3])
def test_a_horizon_that_is_part_of_the_task_is_learned_with_the_time(backup: Backup, n_step: int) -> None:
    mdp = deterministic_mdp(4, True)
    config = QLearningConfig(backup=backup, discount=0.9, step_size=1.0, epsilon=0.7, n_step=n_step)
    agent = QLearning.for_mdp(mdp, config, runs=2, seed=1)
    agent.learn_mdp(mdp, GOLD, 50_000)
    best = solve(mdp, GOLD, discount=0.9).value
    learned_value = np.where(mdp.available, agent.values, -np.inf).max(axis=-1)
    assert learned_value.shape == (2, 4, 6)
    seen = [np.ones(6, dtype=np.bool_)]  # from every start
    for _ in range(3):
        reached = mdp.next_state[seen[-1]][mdp.available[seen[-1]] & ~mdp.terminated[seen[-1], :, 0]]
        seen.append(np.isin(np.arange(6), reached))
    for at in range(4):
        np.testing.assert_allclose(
            learned_value[:, at, seen[at]], np.tile(best[at, seen[at]], (2, 1)), rtol=1e-9
        )
    assert np.abs(best[0] - best[2]).max() > 0.1  # a learner without the time could not be right
    action = agent.act(0, np.random.default_rng(0), at=2)
    assert action == agent.values[0, 2, 0].argmax()


def test_a_mere_time_limit_does_not_show_in_the_values() -> None:
    mdp = deterministic_mdp(4, False)
    agent = QLearning.for_mdp(mdp, QLearningConfig(discount=0.9, step_size=1.0, epsilon=0.7), runs=2, seed=1)
    agent.learn_mdp(mdp, GOLD, 50_000)
    best = solve(mdp.without_time_limit(), GOLD, discount=0.9).value[0]
    learned_value = np.where(mdp.available, agent.values, -np.inf).max(axis=-1)
    np.testing.assert_allclose(learned_value[:, 0], np.tile(best, (2, 1)), rtol=1e-9)


def test_an_optimistic_start_explores_without_epsilon_and_a_pessimistic_one_does_not() -> None:
    mdp, discount = tabular_mdp(gym.make("tokenwalk/CounterWalkLong-v0")), 0.99
    best, values = optimum(mdp, discount), {}
    for initial_value in (0.0, -200.0):
        config = QLearningConfig(discount=discount, step_size=1.0, epsilon=0.0, initial_value=initial_value)
        agent = QLearning.for_mdp(mdp, config, runs=4, seed=1)
        agent.learn_mdp(mdp, GOLD, 100_000)
        values[initial_value] = [start_value(mdp, policy, discount) for policy in agent.greedy_policy()]
    np.testing.assert_allclose(values[0.0], best, rtol=1e-9)
    assert max(values[-200.0]) < best - 1


def test_an_environment_that_was_not_measured_has_settings_too() -> None:
    config, steps = default_config("Blackjack-v1", "soft-q")
    assert (config.discount, config.kl_coef, steps) == (0.99, 0.1, 200_000)


@pytest.mark.slow
@pytest.mark.parametrize("backup", ["q-learning", "sarsa", "expected-sarsa", "double-q"])
@pytest.mark.parametrize("env_id", ENV_IDS)
def test_every_run_comes_99_percent_of_the_way_from_the_reference_to_the_optimum(
    env_id: str, backup: Backup
) -> None:
    mdp, agent = learned(env_id, backup)
    discount = discount_of(env_id)
    best, reference = optimum(mdp, discount), start_value(mdp, reference_policy(mdp), discount)
    values = np.array([start_value(mdp, policy, discount) for policy in agent.greedy_policy()])
    assert (values <= best + 1e-9).all()
    assert ((values - reference) / (best - reference)).min() >= 0.99
    if env_id == "CliffWalking-v1" and backup in ("q-learning", "double-q"):
        assert (values >= best - 0.01 * abs(best)).all()


@pytest.mark.slow
def test_over_the_horizon_of_frozen_lake_the_learned_policies_are_the_best_stationary_ones() -> None:
    mdp, agent = learned("FrozenLake-v1", "q-learning")
    best = float(solve(mdp, GOLD, discount=1.0).value[0] @ mdp.start)
    reference = evaluate(mdp, reference_policy(mdp)).returns["gold"]
    scores = [
        (evaluate(mdp, policy).returns["gold"] - reference) / (best - reference)
        for policy in agent.greedy_policy()
    ]
    np.testing.assert_allclose(scores, 0.9945, atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(
    ("env_id", "kl_coef", "changes", "steps"),
    [
        ("tokenwalk/CounterWalk-v0", 0.5, {}, 20_000),
        ("tokenwalk/CounterWalkLong-v0", 0.5, {"step_size": 0.5}, 200_000),
        ("CliffWalking-v1", 0.5, {"step_size": 0.2, "epsilon": 0.5}, 1_000_000),
    ],
)
def test_soft_q_reaches_the_regularized_optimum(
    env_id: str, kl_coef: float, changes: dict[str, Any], steps: int, n_step: int
) -> None:
    mdp, discount = tabular_mdp(gym.make(env_id)), discount_of(env_id)
    config = QLearningConfig(backup="soft-q", discount=discount, kl_coef=kl_coef, n_step=n_step, **changes)
    agent = QLearning.for_mdp(mdp, config, runs=16, seed=1)
    agent.learn_mdp(mdp, GOLD, steps)
    best = optimum(mdp, discount, kl_coef)
    regrets = np.array([best - start_value(mdp, policy, discount, kl_coef) for policy in agent.policy()])
    assert np.abs(regrets).max() <= 1e-9 * abs(best)
    greedy = best - start_value(mdp, agent.greedy_policy()[0], discount, kl_coef)
    assert greedy > 0.1  # the broken twin: the hard policy of the same values is far from this optimum


@pytest.mark.slow
def test_soft_q_comes_to_the_regularized_optimum_through_noise_and_against_any_reference() -> None:
    mdp = tabular_mdp(gym.make("tokenwalk/CounterWalk-v0", n_states=5, goal=3, slip=0.2))
    reference = np.tile(np.log([0.3, 0.7]), (5, 1))
    mdp = replace(mdp, log_reference=reference)
    config = QLearningConfig(
        backup="soft-q", step_size=1.0, step_size_half_life=30.0, kl_coef=0.5, epsilon=0.3
    )
    agent = QLearning.for_mdp(mdp, config, runs=16, seed=1)
    agent.learn_mdp(mdp, GOLD, 1_000_000)
    best, baseline = optimum(mdp, 0.9, 0.5), start_value(mdp, np.exp(reference)[None], 0.9, 0.5)
    values = np.array([start_value(mdp, policy, 0.9, 0.5) for policy in agent.policy()])
    assert (values <= best + 1e-9).all()
    assert ((values - baseline) / (best - baseline)).min() >= 0.999


def cliff(backup: Backup, steps: int, **changes: Any) -> tuple[TabularMDP, QLearning]:
    """Return 16 runs on the cliff with epsilon-greedy play, undiscounted (Sutton and Barto, example 6.6)."""
    mdp = tabular_mdp(gym.make("CliffWalking-v1"))
    config = QLearningConfig(backup=backup, discount=1.0, epsilon=0.1, **changes)
    agent = QLearning.for_mdp(mdp, config, runs=16, seed=1)
    agent.learn_mdp(mdp, GOLD, steps)
    return mdp, agent


def as_epsilon_soft(mdp: TabularMDP, epsilon: float) -> TabularMDP:
    """Return the process whose action a is: a with probability 1 - epsilon, else any action."""
    s, a, k = mdp.next_state.shape
    mixture = (1 - epsilon) * np.eye(a) + epsilon / a

    def tiled(table: Any) -> Any:
        return np.broadcast_to(table.reshape(s, 1, a * k), (s, a, a * k)).copy()

    return replace(
        mdp,
        next_state=tiled(mdp.next_state),
        probability=(mixture[None, :, :, None] * mdp.probability[:, None]).reshape(s, a, a * k),
        terminated=tiled(mdp.terminated),
        rewards={name: tiled(table) for name, table in mdp.rewards.items()},
    )


def undiscounted(mdp: TabularMDP, policies: FloatArray) -> FloatArray:
    return np.array([evaluate(mdp, policy).returns["gold"] for policy in policies])


@pytest.mark.slow
def test_q_learning_walks_along_the_cliff_and_falls_while_it_explores() -> None:
    mdp, agent = cliff("q-learning", 200_000, step_size=0.5)
    np.testing.assert_allclose(undiscounted(mdp, agent.greedy_policy()), -13.0, rtol=1e-12)
    exploring = undiscounted(mdp, epsilon_greedy_policy(agent.values, agent.available, 0.1))
    assert (exploring < -45).all()


@pytest.mark.slow
def test_expected_sarsa_keeps_away_from_the_cliff_and_reaches_the_best_epsilon_soft_policy() -> None:
    mdp, agent = cliff("expected-sarsa", 1_000_000, step_size=0.5)
    best = optimum(as_epsilon_soft(mdp, 0.1), 1.0)
    assert best == pytest.approx(-20.71, abs=5e-3)
    np.testing.assert_allclose(undiscounted(mdp, agent.greedy_policy()), -15.0, rtol=1e-12)
    exploring = undiscounted(mdp, epsilon_greedy_policy(agent.values, agent.available, 0.1))
    np.testing.assert_allclose(exploring, best, rtol=1e-9)
    start = agent.values[:, 0, mdp.start.argmax()]
    np.testing.assert_allclose(0.9 * start.max(axis=1) + 0.1 * start.mean(axis=1), best, rtol=1e-6)


@pytest.mark.slow
def test_sarsa_too_plays_better_than_q_learning_while_both_explore() -> None:
    mdp, agent = cliff("sarsa", 1_000_000, step_size=0.1, step_size_half_life=1000.0)
    best = optimum(as_epsilon_soft(mdp, 0.1), 1.0)
    exploring = undiscounted(mdp, epsilon_greedy_policy(agent.values, agent.available, 0.1))
    assert (exploring <= best + 1e-9).all()
    assert (exploring > best - 1.5).all()


def biased_choice() -> TabularMDP:
    """Return Sutton and Barto's example 6.7: right ends with 0; left leads to ten actions of reward about -0.1 +- 1."""
    noise = norm.ppf((np.arange(32) + 0.5) / 32)
    shape = (2, 10, 32)
    rewards, terminated = np.zeros(shape), np.ones(shape, dtype=np.bool_)
    rewards[1] = -0.1 + noise / noise.std()
    next_state = np.zeros(shape, dtype=np.int64)
    next_state[0, 0], terminated[0, 0] = 1, False
    available = np.ones((2, 10), dtype=np.bool_)
    available[0, 2:] = False
    return TabularMDP(
        next_state=next_state,
        probability=np.full(shape, 1 / 32),
        terminated=terminated,
        rewards={"gold": rewards},
        last_rewards={},
        available=available,
        log_reference=np.where(available, -np.log(available.sum(axis=1, keepdims=True)), -np.inf),
        start=np.array([1.0, 0.0]),
        horizon=None,
        horizon_terminates=False,
    )


def band(samples: FloatArray) -> tuple[float, float]:
    """Return the mean less and plus 4 standard errors."""
    half = 4 * samples.std() / np.sqrt(len(samples))
    return float(samples.mean() - half), float(samples.mean() + half)


@pytest.mark.slow
def test_double_q_learning_removes_the_maximisation_bias() -> None:
    mdp, runs = biased_choice(), 2000
    left, learned = {}, {}  # means over the runs and 4 standard errors
    for backup in ("q-learning", "double-q"):
        config = QLearningConfig(backup=backup, discount=1.0, step_size=0.1, epsilon=0.1)
        agent = QLearning.for_mdp(mdp, config, runs=runs, seed=1)
        for steps in (100, 1000):
            agent.learn_mdp(mdp, GOLD, steps - agent.steps)
            left[backup, steps] = band(agent.recent_lengths - 1)  # to the left an episode has two steps
        ranking, judging = agent.memory.q[:, 0, 1], agent.memory.q[:, 1 if backup == "double-q" else 0, 1]
        learned[backup] = band(np.take_along_axis(judging, ranking.argmax(axis=1, keepdims=True), axis=1))
    best = 0.05  # epsilon / 2: the minimum share of episodes to the left under an epsilon-greedy policy
    assert left["q-learning", 100][0] > 0.5 > left["double-q", 100][1]
    assert left["q-learning", 1000][0] > 1.5 * best > left["double-q", 1000][1]
    assert learned["q-learning"][0] > -0.1 > learned["double-q"][1]  # the value of the best action is -0.1
