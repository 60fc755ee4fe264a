"""Every observation has its own state index; no two observations share one."""

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.tabular.observations import DENSE_LIMIT, check_actions, index_of
from tokenwalk.agents.tabular.q_learning import QLearning
from tokenwalk.agents.tabular.saving import load_agent, save_agent
from tokenwalk.envs.checks import UnsupportedSpaceError

TAXI = "Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"
SPACES: list[tuple[gym.Space[Any], list[Any]]] = [
    (Discrete(5), list(range(5))),
    (Discrete(5, start=-3), [np.int64(one) for one in range(-3, 2)]),
    (MultiDiscrete([2, 3]), [np.array(pair) for pair in itertools.product(range(2), range(3))]),
    (
        MultiDiscrete([2, 3], start=[1, -1]),
        [np.array(pair) for pair in itertools.product(range(1, 3), range(-1, 2))],
    ),
    (
        MultiDiscrete([[2, 2], [1, 2]]),
        [np.array([[a, b], [0, c]]) for a, b, c in itertools.product(range(2), repeat=3)],
    ),
    (Tuple([Discrete(3), Discrete(2, start=4)]), list(itertools.product(range(3), range(4, 6)))),
    (
        Tuple([Discrete(2), Tuple([MultiDiscrete([2, 2]), Discrete(2)])]),
        [(a, (np.array([b, c]), d)) for a, b, c, d in itertools.product(range(2), repeat=4)],
    ),
]


@pytest.mark.parametrize(("space", "observations"), SPACES)
def test_rows_are_the_numbers_from_zero_one_for_each_observation(
    space: gym.Space[Any], observations: list[Any]
) -> None:
    index = index_of(space)
    assert [index.state_index(one) for one in observations] == list(range(index.n_states))


@pytest.mark.parametrize(("space", "observations"), SPACES)
def test_samples_of_the_space_have_rows(space: gym.Space[Any], observations: list[Any]) -> None:
    space.seed(3)
    index = index_of(space)
    indices = {index.state_index(space.sample()) for _ in range(500)}
    assert indices == set(range(len(observations)))


@pytest.mark.parametrize(
    ("space", "outside"),
    [
        (Discrete(5), -1),
        (Discrete(5), 5),
        (Discrete(5, start=2), 1),
        (MultiDiscrete([2, 3]), np.array([0, 3])),
        (MultiDiscrete([2, 3]), np.array([0, -1])),
        (Tuple([Discrete(3), Discrete(2, start=4)]), (0, 3)),
    ],
)
def test_an_observation_outside_its_space_is_refused_and_reads_no_other_row(
    space: gym.Space[Any], outside: Any
) -> None:
    with pytest.raises(ValueError, match="is outside its space"):
        index_of(space).state_index(outside)


@pytest.mark.parametrize(
    "space", [Box(0, 1), Dict({"a": Discrete(2)}), MultiBinary(3), Tuple([Discrete(2), Box(0, 1)])]
)
def test_other_spaces_are_refused_with_those_that_are_taken(space: gym.Space[Any]) -> None:
    with pytest.raises(UnsupportedSpaceError, match=r"takes Discrete, MultiDiscrete and Tuples of these"):
        index_of(space)
    with pytest.raises(UnsupportedSpaceError, match=r"actions .* it takes Discrete ones"):
        check_actions(space)


def test_large_spaces_get_rows_as_they_are_seen_and_asking_gives_none() -> None:
    index = index_of(MultiDiscrete([DENSE_LIMIT, 2]))
    assert (index.grows, index.n_states) == (True, 0)
    seen = [np.array([7, 1]), np.array([999_999, 0]), np.array([7, 1])]
    assert index.find(seen[0]) is None
    assert [index.state_index(one) for one in seen] == [0, 1, 0]
    assert index.find(seen[1]) == 1
    assert index.keys.tolist() == [[7, 1], [999_999, 0]]


class LongWalk(gym.Env[Any, int]):
    """A counter shown as six digits of base 20: far more observations than are ever seen."""

    observation_space = MultiDiscrete([20] * 6)
    action_space = Discrete(2, start=5)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = 0
        return self._digits(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at += 1 if action == 5 else -min(1, self.at)
        return self._digits(), -1.0, self.at == 1500, False, {}

    def _digits(self) -> Any:
        return np.array([self.at // 20**power % 20 for power in range(6)])


def test_a_growing_table_learns_what_a_dense_one_does(tmp_path: Any) -> None:
    config = QLearningConfig(epsilon=0.3, step_size_half_life=5.0)
    growing = QLearning.for_env(LongWalk(), config, seed=1)

    class Shown(gym.ObservationWrapper[Any, Any, Any]):
        observation_space = Discrete(2000)

        def observation(self, observation: Any) -> int:
            return int(observation @ 20 ** np.arange(6))

    dense = QLearning.for_env(Shown(LongWalk()), config, seed=1)
    growing.learn_env(LongWalk(), 20_000)
    dense.learn_env(Shown(LongWalk()), 20_000)
    counters = growing.index.keys @ 20 ** np.arange(6)
    assert len(counters) > 1024  # the table has grown
    np.testing.assert_array_equal(growing.values[0, 0], dense.values[0, 0][counters])
    save_agent(growing, tmp_path / "agent.npz")
    loaded = load_agent(tmp_path / "agent.npz")
    np.testing.assert_array_equal(loaded.values, growing.values)
    assert loaded.index.find(np.array([3, 0, 0, 0, 0, 0])) == growing.index.find(np.array([3, 0, 0, 0, 0, 0]))


def test_an_agent_acts_also_where_it_has_never_been() -> None:
    agent = QLearning.for_env(LongWalk(), QLearningConfig(), seed=1)
    rng = np.random.default_rng(0)
    assert {agent.act(np.array([9] * 6), rng) for _ in range(50)} == {5, 6}
    assert agent.index.n_states == 0


@pytest.mark.parametrize(
    "env_id", ["Blackjack-v1", TAXI, "FrozenLake-v1", "CliffWalking-v1", "tokenwalk/CounterWalk-v0"]
)
def test_the_agent_learns_in_every_environment_with_small_spaces(env_id: str) -> None:
    env = gym.make(env_id)
    agent = QLearning.for_env(env, QLearningConfig(), seed=1)
    agent.learn_env(env, 500)
    assert agent.steps == 500
    assert np.isfinite(agent.values).all()
