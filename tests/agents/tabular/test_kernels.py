"""Each function of the algorithm against numbers computed by hand, and its broken twins."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from tokenwalk.agents.tabular.config import BACKUPS, QLearningConfig
from tokenwalk.agents.tabular.kernels import (
    NEVER,
    WINDOW,
    Learner,
    advance,
    begin,
    choose,
    compiled,
    cross_value,
    epsilon_at,
    explore,
    greedy,
    maximum,
    mean_value,
    record_episode,
    sample_soft,
    soft_maximum,
    update,
)
from tokenwalk.agents.tabular.memory import new_memory, run_of

ALL = np.full(4, -math.log(4))
SOME = np.array([-math.log(2), NEVER, -math.log(2), NEVER])


def config_of(backup: Any = "q-learning", **changes: Any) -> QLearningConfig:
    kl_coef = 0.5 if backup == "soft-q" else 0.0
    return QLearningConfig(
        **{"backup": backup, "discount": 0.9, "step_size": 0.5, "kl_coef": kl_coef, **changes}
    )


def learner_at(config: QLearningConfig, state_index: int, action: int, q: list[list[float]]) -> Learner:
    """Return a run with ``q`` in every table, about to take ``action`` at ``state_index``."""
    learner = run_of(new_memory(config, 1, len(q), len(q[0])), 0)
    learner.q[:] = q
    learner.step_state.state_index, learner.step_state.action = state_index, action
    return learner


class FixedSamples:
    """A generator that returns the given numbers, in order."""

    def __init__(self, *samples: float) -> None:
        self.samples = list(samples)

    def random(self) -> float:
        return self.samples.pop(0)


def test_epsilon_goes_linearly_to_its_end_and_stays_there() -> None:
    rule = config_of(epsilon=1.0, final_epsilon=0.2, epsilon_steps=100).rule
    assert [epsilon_at(rule, step) for step in (0, 25, 50)] == pytest.approx([1.0, 0.8, 0.6], rel=1e-15)
    assert [epsilon_at(rule, step) for step in (100, 10**9)] == [0.2, 0.2]
    assert epsilon_at(config_of(epsilon=0.3).rule, 0) == 0.3


def test_the_step_size_has_halved_after_its_half_life() -> None:
    config = config_of(step_size=0.4, step_size_half_life=3.0)
    learner = learner_at(config, 0, 0, [[0.0, 0.0]])
    sizes = []
    for _ in range(4):
        before = float(learner.q[0, 0, 1])
        update(learner, config.rule, 0, 0, 1, before + 1.0)
        sizes.append(float(learner.q[0, 0, 1]) - before)
    assert sizes == pytest.approx([0.4, 0.4 / (1 + 1 / 3), 0.4 / (1 + 2 / 3), 0.2], rel=1e-12)
    assert learner.visits[0, 0].tolist() == [0, 4]


def test_maxima_means_and_choices_leave_out_actions_that_are_not_available() -> None:
    values = np.array([1.0, 9.0, 3.0, 9.0])
    assert maximum(values, SOME) == 3.0
    assert mean_value(values, SOME) == 2.0
    assert maximum(values, ALL) == 9.0
    assert soft_maximum(values, SOME, 2.0) == pytest.approx(
        2 * math.log((math.exp(0.5) + math.exp(1.5)) / 2), rel=1e-14
    )
    assert greedy(values, SOME, 3.0, 0.99) == 2
    assert {explore(SOME, uniform) for uniform in np.linspace(0, 0.999, 50)} == {0, 2}
    assert {
        sample_soft(values, SOME, soft_maximum(values, SOME, 2.0), 2.0, uniform)
        for uniform in np.linspace(0, 1, 50)
    } == {0, 2}
    assert cross_value(values, np.array([5.0, 100.0, 7.0, 100.0]), SOME) == 7.0


def test_the_soft_maximum_neither_overflows_nor_underflows() -> None:
    assert soft_maximum(np.array([1e6, 0.0]), np.log([0.5, 0.5]), 0.1) == pytest.approx(
        1e6 + 0.1 * math.log(0.5)
    )
    assert soft_maximum(np.array([-1e6, -1e6]), np.log([0.5, 0.5]), 0.1) == -1e6


def test_the_soft_maximum_lies_between_the_reference_mean_and_the_maximum_and_reaches_both() -> None:
    values, reference = np.array([0.3, -1.2, 0.9, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
    soft = [soft_maximum(values, np.log(reference), kl_coef) for kl_coef in (1e-3, 0.1, 1.0, 1e5)]
    assert soft == sorted(soft, reverse=True)
    assert soft[0] == pytest.approx(0.9, abs=2e-3)
    assert soft[-1] == pytest.approx(reference @ values, abs=1e-5)


def test_tied_best_actions_are_chosen_alike_and_the_first_one_only_by_the_broken_twin() -> None:
    values, rng = np.array([2.0, 5.0, 5.0, 5.0]), np.random.default_rng(1)
    counts = np.bincount([greedy(values, ALL, 5.0, rng.random()) for _ in range(6000)], minlength=4)
    assert counts[0] == 0
    assert chisquare(counts[1:]).pvalue > 1e-3
    first = np.bincount(np.full(6000, values.argmax()), minlength=4)
    assert chisquare(first[1:]).pvalue < 1e-9


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_a_choice_follows_the_epsilon_greedy_distribution_with_a_single_random_number(epsilon: float) -> None:
    config = config_of(epsilon=epsilon)
    learner = learner_at(config, 0, 0, [[1.0, 4.0, 4.0, 0.0]])
    learner.log_reference[0] = [-math.log(3), -math.log(3), -math.log(3), NEVER]
    rng, n = np.random.default_rng(2), 20_000
    chosen = [choose(learner, config.rule, 0, epsilon, rng.random()) for _ in range(n)]
    counts = np.bincount([action for action, _, _ in chosen], minlength=4)
    distribution = (
        np.array([0.0, (1 - epsilon) / 2, (1 - epsilon) / 2, 0.0]) + epsilon * np.array([1, 1, 1, 0]) / 3
    )
    assert (counts[distribution == 0] == 0).all()
    assert chisquare(counts[distribution > 0], n * distribution[distribution > 0]).pvalue > 1e-3
    explored = np.mean([explores for _, explores, _ in chosen])
    assert abs(explored - epsilon) <= 4 * math.sqrt(epsilon * (1 - epsilon) / n)


def test_a_soft_choice_follows_the_regularized_policy() -> None:
    config = config_of("soft-q", epsilon=0.0, kl_coef=0.7)
    learner = learner_at(config, 0, 0, [[1.0, 0.2, -0.5]])
    reference = np.array([0.2, 0.5, 0.3])
    learner.log_reference[0] = np.log(reference)
    distribution = reference * np.exp(learner.q[0, 0] / 0.7)
    distribution /= distribution.sum()
    rng, n = np.random.default_rng(3), 20_000
    counts = np.bincount(
        [choose(learner, config.rule, 0, 0.0, rng.random())[0] for _ in range(n)], minlength=3
    )
    assert chisquare(counts, n * distribution).pvalue > 1e-3
    assert chisquare(counts, n * reference).pvalue < 1e-9


Q = [
    [0.0, 0.0],
    [2.0, 6.0],
]  # a step from state 0 by action 1 to state 1 with reward 1: q(0, 1) = 0 moves half way to its target
TARGETS = {  # 1 + 0.9 * value of state 1, where the random number 0.05 < epsilon = 0.1 explores: 0.05 / 0.1 * 2 = action 1
    "q-learning": 1 + 0.9 * 6,
    "sarsa": 1 + 0.9 * 6,
    "expected-sarsa": 1 + 0.9 * (0.9 * 6 + 0.1 * 4),
    "double-q": 1 + 0.9 * 6,
    "soft-q": 1 + 0.9 * 0.5 * math.log((math.exp(2 / 0.5) + math.exp(6 / 0.5)) / 2),
}


@pytest.mark.parametrize("backup", BACKUPS)
def test_an_update_equals_the_result_by_hand(backup: str) -> None:
    config = config_of(backup)
    learner = learner_at(config, 0, 1, Q)
    rng = FixedSamples(0.9, 0.05) if backup == "double-q" else FixedSamples(0.05)
    advance(learner, config.rule, 1.0, 1, False, False, rng)  # type: ignore[arg-type]
    assert learner.q[0, 0, 1] == pytest.approx(TARGETS[backup] / 2, rel=1e-14)
    assert (learner.step_state.step, learner.step_state.state_index, learner.step_state.action) == (1, 1, 1)
    assert learner.q[0, 1].tolist() == Q[1]


def test_sarsa_bootstraps_from_the_action_that_it_takes_next() -> None:
    config = config_of("sarsa")
    learner = learner_at(config, 0, 1, Q)
    advance(learner, config.rule, 1.0, 1, False, False, FixedSamples(0.04))  # type: ignore[arg-type]
    assert learner.step_state.action == 0
    assert learner.q[0, 0, 1] == pytest.approx((1 + 0.9 * 2) / 2, rel=1e-14)


def test_double_q_selects_by_one_table_and_evaluates_by_the_other() -> None:
    config = config_of("double-q", epsilon=0.0)
    learner = learner_at(config, 0, 1, Q)
    learner.q[0, 1], learner.q[1, 1] = [7.0, 1.0], [3.0, 5.0]
    learner.q[2] = (learner.q[0] + learner.q[1]) / 2
    advance(learner, config.rule, 1.0, 1, False, False, FixedSamples(0.9, 0.5))  # type: ignore[arg-type]
    assert learner.q[:, 0, 1].tolist() == pytest.approx(
        [(1 + 0.9 * 3) / 2, 0.0, (1 + 0.9 * 3) / 4], rel=1e-14
    )
    learner.step_state.state_index, learner.step_state.action = 0, 0
    advance(learner, config.rule, 1.0, 1, False, False, FixedSamples(0.1, 0.5))  # type: ignore[arg-type]
    assert learner.q[:, 0, 0].tolist() == pytest.approx(
        [0.0, (1 + 0.9 * 1) / 2, (1 + 0.9 * 1) / 4], rel=1e-14
    )


def test_double_q_averages_the_values_of_tied_actions() -> None:
    assert cross_value(np.array([4.0, 4.0, 1.0, 4.0]), np.array([1.0, 2.0, 50.0, 6.0]), ALL) == 3.0


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("backup", BACKUPS)
def test_a_truncation_bootstraps_and_a_termination_does_not(backup: str, n_step: int) -> None:
    config = config_of(backup, epsilon=0.0, n_step=n_step)
    learned = {}
    for terminated in (False, True):
        learner = learner_at(config, 0, 1, [[0.0, 0.0], [6.0, 6.0]])
        advance(learner, config.rule, 1.0, 1, terminated, not terminated, np.random.default_rng(0))
        learned[terminated] = float(learner.q[:, 0, 1].max())
    assert learned[True] == 0.5  # half way to 1: a twin that bootstraps here would give the other number
    assert learned[False] == pytest.approx((1 + 0.9 * 6) / 2, rel=1e-14)


def discounted(rewards: list[float], beyond: float) -> float:
    return sum(0.9**k * reward for k, reward in enumerate(rewards)) + 0.9 ** len(rewards) * beyond


def test_n_step_returns_are_the_direct_formula_on_an_episode_that_terminates() -> None:
    config = config_of("sarsa", n_step=3, step_size=1.0, epsilon=0.0)
    learner = learner_at(config, 0, 0, [[float(state)] for state in range(7)])
    rewards = [1.0, -2.0, 0.5, 3.0, 7.0]
    for step, reward in enumerate(rewards):
        advance(learner, config.rule, reward, step + 1, step == 4, False, np.random.default_rng(0))
    expected = [discounted(rewards[0:3], 3.0), discounted(rewards[1:4], 4.0)]
    expected += [discounted(rewards[k:], 0.0) for k in (2, 3, 4)]
    assert learner.q[0, :5, 0].tolist() == pytest.approx(expected, rel=1e-14)
    assert learner.q[0, 5:, 0].tolist() == [5.0, 6.0]
    assert learner.step_state.buffered == 0


def test_n_step_returns_of_a_truncated_episode_bootstrap_from_its_last_state() -> None:
    config = config_of("expected-sarsa", n_step=3, step_size=1.0, epsilon=0.0)
    learner = learner_at(config, 0, 0, [[10.0 * state] for state in range(4)])
    for step, reward in enumerate([1.0, 2.0]):
        advance(learner, config.rule, reward, step + 1, False, step == 1, np.random.default_rng(0))
    assert learner.q[0, :2, 0].tolist() == pytest.approx(
        [discounted([1, 2], 20.0), discounted([2], 20.0)], rel=1e-14
    )


def test_an_exploratory_action_ends_the_returns_of_off_policy_backups() -> None:
    """State 1 has value 6 by its best action; there action 0 is explored, then the reward is 100."""
    learned = {}
    for backup in ("q-learning", "sarsa"):
        config = config_of(backup, n_step=2, step_size=1.0)
        learner = learner_at(config, 0, 1, [[0.0, 0.0], [2.0, 6.0], [0.0, 0.0]])
        advance(learner, config.rule, 1.0, 1, False, False, FixedSamples(0.01))  # type: ignore[arg-type]
        assert learner.step_state.action == 0
        advance(learner, config.rule, 100.0, 2, False, False, FixedSamples(0.5))  # type: ignore[arg-type]
        learned[backup] = float(learner.q[0, 0, 1])
    assert learned["q-learning"] == pytest.approx(1 + 0.9 * 6, rel=1e-14)
    assert learned["sarsa"] == pytest.approx(1 + 0.9 * 100 + 0.81 * 0, rel=1e-14)


def test_soft_n_step_returns_subtract_the_kl_penalty_of_their_actions() -> None:
    config = config_of("soft-q", n_step=2, step_size=1.0, epsilon=0.0, kl_coef=0.5)
    learner = learner_at(config, 0, 1, [[0.0, 0.0], [2.0, 6.0], [1.0, 3.0]])
    advance(learner, config.rule, 1.0, 1, False, False, FixedSamples(0.5))  # type: ignore[arg-type]
    policy = np.exp(np.array([2.0, 6.0]) / 0.5) / np.exp(np.array([2.0, 6.0]) / 0.5).sum()
    taken = int(learner.step_state.action)
    kl_penalty = 0.5 * math.log(policy[taken] / 0.5)
    value = soft_maximum(np.array([1.0, 3.0]), np.full(2, -math.log(2)), 0.5)
    advance(learner, config.rule, 10.0, 2, False, False, FixedSamples(0.5))  # type: ignore[arg-type]
    assert learner.q[0, 0, 1] == pytest.approx(1 + 0.9 * (10 - kl_penalty + 0.9 * value), rel=1e-13)


def test_a_new_episode_empties_the_n_step_buffer() -> None:
    config = config_of("sarsa", n_step=3)
    learner = learner_at(config, 0, 0, [[0.0], [0.0]])
    advance(learner, config.rule, 5.0, 1, False, False, np.random.default_rng(0))
    assert learner.step_state.buffered == 1
    begin(learner, config.rule, 1, np.random.default_rng(0))
    assert (learner.step_state.buffered, learner.step_state.episode_return) == (0, 0.0)


def test_the_ring_buffer_of_episodes_holds_the_last_hundred() -> None:
    learner = run_of(new_memory(config_of(), 1, 1, 1), 0)
    for episode in range(WINDOW + 5):
        learner.step_state.episode_return = episode
        record_episode(learner)
    assert sorted(learner.recent[0]) == list(range(5, WINDOW + 5))
    assert learner.step_state.episodes == WINDOW + 5


def test_a_function_without_a_file_is_compiled_all_the_same() -> None:
    names: dict[str, Any] = {}
    exec(compile("def doubled(x): return 2 * x", "<nowhere>", "exec"), names)
    assert compiled(names["doubled"])(21) == 42
