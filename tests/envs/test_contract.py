"""What every registered id owes its users. New rows of the table join by themselves."""

import copy
import pickle
import random
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3
from vector_checker import (
    assert_same,
    assert_same_rollouts,
    check_vector_env,
    random_actions,
    roll,
    roll_all,
)

from tokenwalk.envs.checks import EpisodeEndedError, InvalidActionError
from tokenwalk.envs.registration import TABLE

Env = gym.Env[Any, Any]
every_id = pytest.mark.parametrize("env_id", [row.id for row in TABLE])
# Limits shorter than any episode of a row, longer than some of them, and none at all (gym.make's -1).
every_limit = pytest.mark.parametrize("limit", [1, 5, -1])
SAME_STEP = {"autoreset_mode": AutoresetMode.SAME_STEP}


def make_sync(env_id: str, num_envs: int, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
    return gym.make_vec(env_id, num_envs, vectorization_mode="sync", vector_kwargs=SAME_STEP, **kwargs)


def actions_for(env: Env, steps: int, seed: int = 0) -> list[int]:
    assert isinstance(env.action_space, gym.spaces.Discrete)
    actions: list[int] = np.random.default_rng(seed).integers(env.action_space.n, size=steps).tolist()
    return actions


def walk(env: Env, actions: list[int], seed: int | None = 7) -> list[tuple[Any, ...]]:
    """Return everything that ``env`` says on the way, episode after episode."""
    seen: list[tuple[Any, ...]] = [env.reset(seed=seed)]
    for action in actions:
        seen.append(env.step(action))
        if seen[-1][2] or seen[-1][3]:
            seen.append(env.reset())
    return seen


def assert_same_walk(left: list[tuple[Any, ...]], right: list[tuple[Any, ...]]) -> None:
    assert len(left) == len(right)
    for time, (one, other) in enumerate(zip(left, right, strict=True)):
        for number, (value, other_value) in enumerate(zip(one, other, strict=True)):
            assert_same(value, other_value, f"entry {time}, value {number}")


@every_id
def test_gymnasiums_checker_has_no_complaint_and_no_warning(env_id: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(gym.make(env_id).unwrapped)
    assert [str(warning.message) for warning in caught] == []


@every_id
def test_sb3s_checker_has_no_complaint_and_no_warning(env_id: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env_for_sb3(gym.make(env_id), warn=True)
    assert [str(warning.message) for warning in caught] == []


@every_id
@every_limit
def test_each_sub_environment_of_the_native_vector_environment_is_the_scalar_one(
    env_id: str, limit: int
) -> None:
    native = gym.make_vec(env_id, num_envs=4, max_episode_steps=limit)
    check_vector_env(native, lambda: gym.make(env_id, max_episode_steps=limit), steps=60)
    assert native.num_envs == 4


@every_id
@every_limit
def test_sync_and_native_give_the_same_trajectories_and_infos(env_id: str, limit: int) -> None:
    native = gym.make_vec(env_id, num_envs=3, max_episode_steps=limit)
    sync = make_sync(env_id, 3, max_episode_steps=limit)
    assert_same_rollouts(roll_all(native, 60), roll_all(sync, 60))


@every_id
def test_async_and_native_give_the_same_trajectories_and_infos(env_id: str) -> None:
    native = gym.make_vec(env_id, num_envs=2)
    # Not fork: the process may hold torch's threads by now, and Python warns of that.
    options = SAME_STEP | {"context": "forkserver"}
    asynchronous = gym.make_vec(env_id, 2, vectorization_mode="async", vector_kwargs=options)
    try:
        assert_same_rollouts(roll_all(native, 120), roll_all(asynchronous, 120))
    finally:
        asynchronous.close()


@every_id
def test_without_arguments_the_native_vector_environment_keeps_the_registered_limit(env_id: str) -> None:
    limit = gym.spec(env_id).max_episode_steps
    assert_same_rollouts(
        roll_all(gym.make_vec(env_id, 2), (limit or 20) + 5),
        roll_all(make_sync(env_id, 2), (limit or 20) + 5),
    )


@every_id
def test_a_limit_of_one_step_ends_every_sub_environment_at_every_step(env_id: str) -> None:
    for env in (gym.make_vec(env_id, 3, max_episode_steps=1), make_sync(env_id, 3, max_episode_steps=1)):
        for step in roll(env, 0, random_actions(env, 4, 0)).steps:
            assert step.truncated.all()
            assert step.info["_final_obs"].all()


@every_id
def test_without_a_limit_nothing_is_truncated(env_id: str) -> None:
    for env in (gym.make_vec(env_id, 2, max_episode_steps=-1), make_sync(env_id, 2, max_episode_steps=-1)):
        assert not any(step.truncated.any() for step in roll(env, 0, random_actions(env, 1_100, 0)).steps)


@every_id
def test_the_same_seed_gives_the_same_walk_and_a_reset_without_one_goes_on(env_id: str) -> None:
    env, other = gym.make(env_id), gym.make(env_id)
    actions = actions_for(env, 150)
    first = [*walk(env, actions), *walk(env, actions, seed=None)]
    assert_same_walk(first, [*walk(other, actions), *walk(other, actions, seed=None)])
    assert_same_walk(first, [*walk(env, actions), *walk(env, actions, seed=None)])


@every_id
def test_stepping_one_environment_changes_no_other(env_id: str) -> None:
    alone, watched, meddler = (gym.make(env_id) for _ in range(3))
    vector = gym.make_vec(env_id, 2)
    vector.reset(seed=1)
    actions = actions_for(alone, 120)
    expected, seen = walk(alone, actions), walk(watched, [])
    for action, other in zip(actions, actions_for(alone, 120, seed=1), strict=True):
        meddler.reset(seed=other)
        meddler.step(other)
        vector.step(np.full(2, other))
        seen.append(watched.step(action))
        if seen[-1][2] or seen[-1][3]:
            seen.append(watched.reset())
    assert_same_walk(seen, expected)


@every_id
@pytest.mark.parametrize(
    "twin", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["deepcopy", "pickle"]
)
def test_a_copy_in_the_middle_of_an_episode_goes_on_like_the_original(
    env_id: str, twin: Callable[[Any], Any]
) -> None:
    scalar, vector = gym.make(env_id), gym.make_vec(env_id, 3)
    scalar.reset(seed=7)
    scalar.step(0)
    vector.reset(seed=7)
    vector.step(np.zeros(3, dtype=np.int64))
    scalar_twin, vector_twin = twin(scalar), twin(vector)
    for action in actions_for(scalar, 120):
        step = scalar.step(action)
        assert_same_walk([step], [scalar_twin.step(action)])
        if step[2] or step[3]:
            assert_same_walk([scalar.reset()], [scalar_twin.reset()])
    for row in random_actions(vector, 120, 0):
        assert_same_walk([vector.step(row)], [vector_twin.step(row)])


@every_id
def test_a_spec_makes_the_same_environment_again(env_id: str) -> None:
    env = gym.make(env_id, max_episode_steps=9)
    assert env.spec is not None
    actions = actions_for(env, 60)
    expected = walk(env, actions)
    for spec in (env.spec, EnvSpec.from_json(env.spec.to_json())):
        again = gym.make(spec)
        assert again.spec == env.spec
        assert_same_walk(walk(again, actions), expected)


@every_id
@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
def test_a_vector_spec_makes_the_same_vector_environment_again(env_id: str, mode: str) -> None:
    env = gym.make_vec(env_id, 3, vectorization_mode=mode, max_episode_steps=9)
    assert env.spec is not None
    again = gym.make_vec(env.spec)
    assert type(again) is type(env)
    assert_same_rollouts(roll_all(again, 30), roll_all(env, 30))


@every_id
def test_the_global_generators_are_neither_read_nor_touched(env_id: str) -> None:
    walks, rollouts = [], []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002 - the global generator is what must not matter
        random.seed(seed)
        before = str(np.random.get_state()), random.getstate()  # noqa: NPY002
        env, vector = gym.make(env_id), gym.make_vec(env_id, 3)
        walks.append(walk(env, actions_for(env, 120)))
        rollouts.append(roll_all(vector, 40))
        env.reset()
        vector.reset()
        assert (str(np.random.get_state()), random.getstate()) == before  # noqa: NPY002
    assert_same_walk(*walks)
    assert_same_rollouts(*rollouts)


BAD_ACTIONS = [
    True,
    np.True_,
    0.0,
    np.float64(1),
    float("nan"),
    "0",
    None,
    [0],
    np.array([0]),
    np.array(0.0),
    np.array(True),
]
OUT_OF_RANGE = [-1, 10**6, 10**30, np.int8(-1), np.array(10**6), np.uint64(2**64 - 1)]


@every_id
@pytest.mark.parametrize("bad", [*BAD_ACTIONS, *OUT_OF_RANGE], ids=repr)
def test_a_bad_action_is_named_and_leaves_the_walk_as_it_was(env_id: str, bad: Any) -> None:
    env = gym.make(env_id)
    actions = actions_for(env, 30)
    expected, seen = walk(env, actions), walk(env, [])
    for action in actions:
        with pytest.raises(InvalidActionError, match="give an integer from 0 to"):
            env.step(bad)
        seen.append(env.step(action))
        if seen[-1][2] or seen[-1][3]:
            seen.append(env.reset())
    assert_same_walk(seen, expected)


BAD_BATCHES = [
    0,
    None,
    "01",
    [0],
    [0, 0, 0],
    [[0, 0]],
    [0, 0.0],
    [True, False],
    [0, [0]],
    ["0", "1"],
    [0, None],
]
ONE_BAD_SUB_ENVIRONMENT = [[0, -1], [10**6, 0], np.array([0, 2**64 - 1], dtype=np.uint64), [0, 10**30]]


@every_id
@pytest.mark.parametrize("bad", [*BAD_BATCHES, *ONE_BAD_SUB_ENVIRONMENT], ids=repr)
def test_a_bad_batch_is_named_and_leaves_every_sub_environment_as_it_was(env_id: str, bad: Any) -> None:
    env = gym.make_vec(env_id, 2, max_episode_steps=4)
    actions = random_actions(env, 10, 0)
    expected = roll(env, 7, actions)
    env.reset(seed=7)
    for row, step in zip(actions, expected.steps, strict=True):
        with pytest.raises(InvalidActionError, match="integers from 0 to"):
            env.step(bad)
        assert_same_walk(
            [env.step(row)], [(step.observation, step.reward, step.terminated, step.truncated, step.info)]
        )


@every_id
def test_every_kind_of_integer_is_an_action(env_id: str) -> None:
    env = gym.make(env_id)
    expected = [env.reset(seed=7), env.step(0)]
    kinds = [np.dtype(code).type for code in np.typecodes["AllInteger"]]
    for action in [*(kind(0) for kind in kinds), *(np.array(0, dtype=kind) for kind in kinds)]:
        assert_same_walk([env.reset(seed=7), env.step(action)], expected)
    vector = gym.make_vec(env_id, 2)
    expected = [vector.reset(seed=7), vector.step(np.zeros(2, dtype=np.int64))]
    for batch in ([0, 0], (0, 0), *(np.zeros(2, dtype=kind) for kind in kinds)):
        assert_same_walk([vector.reset(seed=7), vector.step(batch)], expected)


@every_id
def test_a_step_before_reset_is_named_and_changes_nothing(env_id: str) -> None:
    scalar, vector = gym.make(env_id), gym.make_vec(env_id, 2)
    for env, action in ((scalar, 0), (vector, np.zeros(2, dtype=np.int64))):
        for _ in range(2):
            with pytest.raises(EpisodeEndedError, match="reset"):
                env.step(action)
    assert_same_walk(walk(scalar, actions_for(scalar, 40)), walk(gym.make(env_id), actions_for(scalar, 40)))


@every_id
@pytest.mark.parametrize("bad", [-1, 0.5, "1", True, float("nan")], ids=repr)
def test_a_bad_seed_is_named_and_changes_nothing(env_id: str, bad: Any) -> None:
    scalar, vector = gym.make(env_id), gym.make_vec(env_id, 2)
    for env in (scalar, vector):
        env.reset(seed=3)
        state = env.np_random.bit_generator.state
        with pytest.raises(ValueError, match="seed"):
            env.reset(seed=bad)
        assert env.np_random.bit_generator.state == state
    for seeds in ([1], [1, 2, 3], [1, bad]):
        with pytest.raises(ValueError, match="seed"):
            vector.reset(seed=seeds)


@every_id
def test_numpy_integers_are_seeds(env_id: str) -> None:
    for env in (gym.make(env_id), gym.make_vec(env_id, 2)):
        assert_same_walk([env.reset(seed=np.int64(3))], [env.reset(seed=3)])


@every_id
def test_without_a_seed_two_environments_draw_apart_and_each_is_valid(env_id: str) -> None:
    for env in (gym.make(env_id), gym.make_vec(env_id, 2), make_sync(env_id, 2)):
        observation, _ = env.reset()
        assert env.observation_space.contains(observation if np.ndim(observation) else np.int64(observation))


@every_id
def test_closing_twice_is_allowed(env_id: str) -> None:
    for env in (gym.make(env_id), gym.make_vec(env_id, 2)):
        env.reset(seed=0)
        env.close()
        env.close()
        assert env.spec is not None
