"""The checker itself: it accepts the walk and catches the faults that vector environments have had."""

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit
from vector_checker import assert_same_info, check_vector_env

from tokenwalk.envs.counter_walk import CounterWalkEnv, CounterWalkVectorEnv

ARGUMENTS: dict[str, Any] = {"slip": 0.3, "n_states": 5, "start": 1, "goal": 4, "terminate_at_goal": True}


class Twin(CounterWalkVectorEnv):
    """The walk with one fault planted in what a step returns."""

    def step(self, actions: Any) -> Any:
        return self.plant(*super().step(actions))

    def plant(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
        raise NotImplementedError


class ForgetsTruncation(Twin):
    def plant(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
        return observation, reward, terminated | truncated, np.zeros_like(truncated), info


class ShowsTheNextEpisodeAsFinal(Twin):
    def plant(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
        if info:
            info["final_obs"][info["_final_obs"]] = observation[info["_final_obs"]]
        return observation, reward, terminated, truncated, info


class PaysInSinglePrecision(Twin):
    def plant(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
        return observation, reward.astype(np.float32), terminated, truncated, info


class HandsOutItsOwnState(Twin):
    def plant(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
        return self._state, reward, terminated, truncated, info


class MasksEveryEnv(Twin):
    def plant(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
        if info:
            info["_final_obs"] = np.ones_like(terminated)
        return observation, reward, terminated, truncated, info


class SaysNothingOfTheEnd(Twin):
    def plant(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
        return observation, reward, terminated, truncated, {}


class WalksTooLong(CounterWalkVectorEnv):
    def __init__(self, num_envs: int, limit: int, **arguments: Any) -> None:
        super().__init__(num_envs, limit + 1, **arguments)


class SeedsEveryEnvAlike(CounterWalkVectorEnv):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=[seed] * self.num_envs if isinstance(seed, int) else seed, options=options)


class ForgetsSeedsOnAnUnseededReset(CounterWalkVectorEnv):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=0 if seed is None else seed, options=options)


class WantsAnotherAutoreset(CounterWalkVectorEnv):
    metadata = CounterWalkVectorEnv.metadata | {"autoreset_mode": AutoresetMode.NEXT_STEP}


def check(env_class: type[CounterWalkVectorEnv]) -> None:
    check_vector_env(
        env_class(3, 6, **ARGUMENTS), lambda: TimeLimit(CounterWalkEnv(**ARGUMENTS), 6), steps=100
    )


def test_the_walk_passes() -> None:
    assert check(CounterWalkVectorEnv) is None


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (ForgetsTruncation, "against"),
        (ShowsTheNextEpisodeAsFinal, "final_obs"),
        (PaysInSinglePrecision, "reward: "),
        (HandsOutItsOwnState, "environment's own"),
        (MasksEveryEnv, "_final_obs"),
        (SaysNothingOfTheEnd, "final_obs"),
        (WalksTooLong, "against"),
        (SeedsEveryEnvAlike, "sub-environment 1"),
        (ForgetsSeedsOnAnUnseededReset, "rollout 1"),
        (WantsAnotherAutoreset, "SAME_STEP"),
    ],
)
def test_a_broken_twin_is_caught(broken: type[CounterWalkVectorEnv], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(broken)


def test_infos_are_held_against_each_other_where_their_masks_are_true() -> None:
    said = {"gold": np.array([1.0, 2.0]), "_gold": np.array([True, False])}
    assert assert_same_info(said, said | {"gold": np.array([1.0, 9.0])}, 2, "info") is None
    for other in (
        said | {"gold": np.array([9.0, 2.0])},
        said | {"gold": np.array([1, 2])},
        said | {"_gold": np.array([True, True])},
        {},
    ):
        with pytest.raises(AssertionError, match="gold"):
            assert_same_info(said, other, 2, "info")
