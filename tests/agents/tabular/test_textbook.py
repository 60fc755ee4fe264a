"""The textbook agent and both drivers of QLearning learn the same table, bit for bit; broken twins do not."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.tabular.q_learning import QLearning
from tokenwalk.agents.tabular.textbook import TextbookQLearning
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.tabular import TabularMDP, tabular_mdp

IDS = ["tokenwalk/CounterWalk-v0", "FrozenLake-v1"]
SEEDS = [0, 1, 2, 3]
STEPS = 3_000
TIME_LIMIT = 8  # short, so that many episodes are truncated
# Terminal states too begin at the initial value, so that a bootstrap at a termination is not 0.
CONFIG = QLearningConfig(epsilon=0.3, step_size=0.2, initial_value=0.5)


class SampledMDP(gym.Env[int, int]):
    """The tables of a ``TabularMDP`` as an environment that samples in the order of ``walk_tables``."""

    def __init__(self, mdp: TabularMDP, rng: np.random.Generator) -> None:
        self.mdp, self.rng, self.state, self.steps = mdp, rng, 0, 0
        self.reward, self.last_reward = mdp.reward({"gold": 1.0})  # [S, A, K], [S, A]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        self.state, self.steps = sampled(self.mdp.start, self.rng), 0
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        place = self.state, action
        probability = self.mdp.probability[place]  # [K]
        outcome = sampled(probability, self.rng) if len(probability) > 1 else 0
        reward, terminated = self.reward[place][outcome], self.mdp.terminated[place][outcome]
        self.steps += 1
        truncated = self.mdp.horizon is not None and self.steps >= self.mdp.horizon
        if truncated:
            reward += self.last_reward[place]
        self.state = int(self.mdp.next_state[place][outcome])
        return self.state, float(reward), bool(terminated), truncated, {}


def sampled(probability: FloatArray, rng: np.random.Generator) -> int:
    """Return an index sampled from ``probability`` by inversion."""
    last = int(np.flatnonzero(probability)[-1])
    return min(int(np.searchsorted(np.cumsum(probability), rng.random(), side="right")), last)


class BootstrapsAtTermination(TextbookQLearning):
    def update(self, state: int, action: int, reward: float, next_state: int, terminated: bool) -> None:
        super().update(state, action, reward, next_state, False)


class ChoosesTheFirstOfTheBest(TextbookQLearning):
    def choose(self, state: int) -> int:
        chosen = super().choose(state)
        values = self.q[state]
        return int(values.argmax()) if values[chosen] == values.max() else chosen


class StopsAtTruncation(TextbookQLearning):
    """Does not bootstrap in the states at which the time limit is reached."""

    def learn(self, env: gym.Env[Any, Any], steps: int, seed: int | None = None) -> None:
        super().learn(TruncationAsTermination(env), steps, seed)


class TruncationAsTermination(gym.Wrapper[Any, Any, Any, Any]):
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated or truncated, False, info


def textbook_agent(
    kind: type[TextbookQLearning], shape: tuple[int, int], rng: np.random.Generator
) -> TextbookQLearning:
    agent = kind(*shape, rng, discount=CONFIG.discount, step_size=CONFIG.step_size, epsilon=CONFIG.epsilon)
    agent.q[:] = CONFIG.initial_value
    return agent


def generator(seed: int) -> np.random.Generator:
    """Return the generator of run 0 of a QLearning with this seed."""
    return np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])


def learned_in_env(kind: type[TextbookQLearning], env_id: str, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return the tables [S, A] of a textbook agent and of ``learn_env`` in the same environment."""
    agent = QLearning.for_env(gym.make(env_id, max_episode_steps=TIME_LIMIT), CONFIG, seed=seed)
    agent.learn_env(gym.make(env_id, max_episode_steps=TIME_LIMIT), STEPS)
    values = agent.values[0, 0]
    environment_seed = int(np.random.SeedSequence(seed, spawn_key=(0, 1)).generate_state(1)[0])
    textbook = textbook_agent(kind, values.shape, generator(seed))
    textbook.learn(gym.make(env_id, max_episode_steps=TIME_LIMIT), STEPS, environment_seed)
    return textbook.q, values


def learned_in_tables(kind: type[TextbookQLearning], env_id: str, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return the tables [S, A] of a textbook agent and of ``learn_mdp`` in the same TabularMDP."""
    mdp = tabular_mdp(gym.make(env_id, max_episode_steps=TIME_LIMIT))
    agent = QLearning.for_mdp(mdp, CONFIG, seed=seed)
    agent.learn_mdp(mdp, {"gold": 1.0}, STEPS)
    values, rng = agent.values[0, 0], generator(seed)
    textbook = textbook_agent(kind, values.shape, rng)
    textbook.learn(SampledMDP(mdp, rng), STEPS)
    return textbook.q, values


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("env_id", IDS)
def test_the_textbook_agent_learns_the_table_of_the_python_driver(env_id: str, seed: int) -> None:
    textbook, values = learned_in_env(TextbookQLearning, env_id, seed)
    assert np.array_equal(textbook, values)
    assert np.any(values != CONFIG.initial_value)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("env_id", IDS)
def test_the_textbook_agent_learns_the_table_of_the_compiled_driver(env_id: str, seed: int) -> None:
    textbook, values = learned_in_tables(TextbookQLearning, env_id, seed)
    assert np.array_equal(textbook, values)
    assert np.any(values != CONFIG.initial_value)


@pytest.mark.parametrize("learned", [learned_in_env, learned_in_tables])
@pytest.mark.parametrize(
    ("twin", "env_id"),
    [
        (BootstrapsAtTermination, "FrozenLake-v1"),  # the counter-walk does not terminate
        (StopsAtTruncation, "FrozenLake-v1"),
        (StopsAtTruncation, "tokenwalk/CounterWalk-v0"),
        (ChoosesTheFirstOfTheBest, "FrozenLake-v1"),
    ],
)
def test_a_broken_twin_learns_another_table(
    twin: type[TextbookQLearning], env_id: str, learned: Callable[..., tuple[FloatArray, FloatArray]]
) -> None:
    assert not any(np.array_equal(*learned(twin, env_id, seed)) for seed in SEEDS)


def test_one_update_moves_the_entry_part_of_the_way_to_its_target() -> None:
    agent = TextbookQLearning(2, 2, np.random.default_rng(0), discount=0.9, step_size=0.5)
    agent.q[1] = [2.0, 6.0]
    agent.update(0, 1, 1.0, 1, terminated=False)
    assert agent.q[0].tolist() == [0.0, pytest.approx((1 + 0.9 * 6) / 2, rel=1e-15)]
    agent.update(1, 0, 1.0, 1, terminated=True)
    assert agent.q[1].tolist() == [2 + 0.5 * (1 - 2), 6.0]
