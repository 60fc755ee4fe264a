"""Policies from action values: properties of all, and actions sampled from them."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Discrete

from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.tabular.greedy import epsilon_greedy_policy, greedy_policy, soft_policy
from tokenwalk.agents.tabular.observations import ObservationIndex
from tokenwalk.agents.tabular.q_learning import QLearning

VALUES = np.array([[1.0, 3.0, 3.0], [5.0, -1.0, 9.0]])
AVAILABLE = np.array([[True, True, True], [True, True, False]])


def test_the_greedy_policy_splits_ties_evenly_among_the_available() -> None:
    assert greedy_policy(VALUES, AVAILABLE).tolist() == [[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]


def test_the_epsilon_greedy_policy_mixes_in_the_uniform_one() -> None:
    mixed = epsilon_greedy_policy(VALUES, AVAILABLE, 0.3)
    np.testing.assert_allclose(mixed, [[0.1, 0.45, 0.45], [0.85, 0.15, 0.0]], rtol=1e-15)


def test_the_soft_policy_goes_from_the_reference_to_the_greedy_one() -> None:
    log_reference = np.log(
        np.array([[0.2, 0.3, 0.5], [0.9, 0.1, 0.0]]), where=AVAILABLE, out=np.full((2, 3), -np.inf)
    )
    cold, hot = soft_policy(VALUES, log_reference, 1e-3), soft_policy(VALUES, log_reference, 1e9)
    np.testing.assert_allclose(
        cold, [[0, 0.375, 0.625], [1, 0, 0]], atol=1e-12
    )  # ties in proportion to the reference
    np.testing.assert_allclose(hot, np.exp(log_reference), atol=1e-8)
    np.testing.assert_allclose(
        soft_policy(VALUES + 1e4, log_reference, 1.0), soft_policy(VALUES, log_reference, 1.0)
    )


def agent_with(values: list[list[float]], backup: Any = "q-learning", **changes: Any) -> QLearning:
    config = QLearningConfig(backup=backup, kl_coef=0.5 * (backup == "soft-q"))
    agent = QLearning(config, ObservationIndex([len(values)], [0]), len(values[0]), **changes)
    agent.memory.q[:] = values
    return agent


def test_an_agent_acts_by_its_scored_policy_in_the_actions_of_the_environment() -> None:
    agent, rng = agent_with([[1.0, 3.0, 3.0]], first_action=10), np.random.default_rng(0)
    assert {agent.act(0, rng) for _ in range(50)} == {11, 12}
    assert {agent.act(0, rng, action_mask=[1, 0, 0]) for _ in range(5)} == {10}
    assert agent.policy().tolist() == [[[[0.0, 0.5, 0.5]]]]


def test_a_soft_agent_acts_by_the_regularized_policy() -> None:
    agent, rng = agent_with([[0.0, 0.5, 1.0]], "soft-q"), np.random.default_rng(0)
    policy = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    np.testing.assert_allclose(agent.policy()[0, 0, 0], policy, rtol=1e-14)
    n = 5000
    share = np.bincount([agent.act(0, rng) for _ in range(n)], minlength=3) / n
    assert (np.abs(share - policy) <= 4 * np.sqrt(policy * (1 - policy) / n)).all()


class Masked(gym.Env[int, int]):
    """Two states in turn; in each only some actions are allowed, and the forbidden one would have the highest reward."""

    observation_space, action_space = Discrete(2), Discrete(3)
    masks = (np.array([1, 1, 0], dtype=np.int8), np.array([0, 1, 1], dtype=np.int8))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        self.at = 0
        return 0, {"action_mask": self.masks[0]}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if not self.masks[self.at][action]:
            raise AssertionError("a masked action was taken")
        self.at = 1 - self.at
        return self.at, float(action), False, False, {"action_mask": self.masks[self.at]}


@pytest.mark.parametrize("backup", ["q-learning", "soft-q", "expected-sarsa"])
def test_masked_actions_are_never_taken_and_never_in_the_value_of_a_row(backup: Any) -> None:
    config = QLearningConfig(
        backup=backup, discount=0.5, step_size=1.0, epsilon=0.5, kl_coef=1e-9 * (backup == "soft-q")
    )
    agent = QLearning.for_env(Masked(), config, seed=1)
    agent.memory.q[:, :, 0, 2] = agent.memory.q[:, :, 1, 0] = 1e6  # would be the maximum of both states
    agent.learn_env(Masked(), 500)
    assert agent.available.tolist() == [[True, True, False], [False, True, True]]
    assert np.delete(agent.values[0, 0].ravel(), [2, 3]).max() <= 4.0
    if backup != "expected-sarsa":  # V(0) = 1 + V(1)/2, V(1) = 2 + V(0)/2
        np.testing.assert_allclose(agent.values[0, 0, [0, 1], [1, 2]], [8 / 3, 10 / 3], rtol=1e-6)
    assert agent.greedy_policy()[0, 0].tolist() == [[0, 1, 0], [0, 0, 1]]
    assert agent.act(0, np.random.default_rng(0)) == 1


def test_a_mask_that_changes_at_the_same_observation_is_followed() -> None:
    class Changing(Masked):
        def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
            result = super().step(action)
            self.masks = self.masks[::-1]
            return (*result[:4], {"action_mask": self.masks[self.at]})

    agent = QLearning.for_env(Changing(), QLearningConfig(epsilon=1.0), seed=1)
    agent.learn_env(Changing(), 300)
    assert agent.steps == 300


@pytest.mark.parametrize(
    ("mask", "message"), [([0, 0, 0], "leaves no action to choose"), ([1, 1], "has shape")]
)
def test_a_mask_of_no_action_or_of_another_length_is_refused(mask: list[int], message: str) -> None:
    agent = agent_with([[1.0, 3.0, 3.0]])
    with pytest.raises(ValueError, match=message):
        agent.act(0, np.random.default_rng(0), action_mask=mask)


def test_a_reference_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"log_reference has shape \(2, 3\): give \(1, 3\)"):
        agent_with([[1.0, 3.0, 3.0]], log_reference=np.zeros((2, 3)))
