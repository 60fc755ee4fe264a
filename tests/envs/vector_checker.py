"""A checker of vector environments: every sub-environment must be, step for step, the scalar environment of its seed.

Gymnasium has none of its own. ``check_vector_env`` raises AssertionError and says what differs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

Array = npt.NDArray[Any]
Seed = int | Sequence[int | None] | None
# Seeds of one check's resets: a fresh one, none (each sub-environment's next episode), a list with gaps, a large one.
SEEDS: tuple[Callable[[int], Seed], ...] = (
    lambda _: 5,
    lambda _: None,
    lambda n_envs: [None if env_index % 3 == 1 else 11 * env_index for env_index in range(n_envs)],
    lambda _: None,
    lambda _: 2**64 - 2,
)
SCALAR_ONLY = {"text"}  # a vector environment decodes no text


@dataclass(frozen=True)
class Step:
    """What one step of B sub-environments returned."""

    observation: Array  # [B, ...]
    reward: Array  # float64 [B]
    terminated: Array  # bool [B]
    truncated: Array  # bool [B]
    info: dict[str, Any]


@dataclass(frozen=True)
class Rollout:
    """One reset and the steps that followed."""

    seed: Seed
    observation: Array
    info: dict[str, Any]
    steps: list[Step]


def random_actions(env: VectorEnv[Any, Any, Any], steps: int, seed: int) -> Array:
    """Return actions for every sub-environment and step, int64 [T, B]."""
    space = env.single_action_space
    assert isinstance(space, gym.spaces.Discrete), f"the checker knows Discrete actions, not {space}"
    actions: Array = np.random.default_rng(seed).integers(space.n, size=(steps, env.num_envs)) + space.start
    return actions


def roll(env: Any, seed: Seed, actions: Array) -> Rollout:
    """Reset ``env`` with ``seed`` and step through ``actions``, int64 [T, B]."""
    observation, info = env.reset(seed=seed)
    return Rollout(seed, observation, info, [Step(*env.step(row)) for row in actions])


def roll_all(env: VectorEnv[Any, Any, Any], steps: int) -> list[Rollout]:
    """Return one rollout for each entry of ``SEEDS``, one after the other in the same environment."""
    return [roll(env, seed(env.num_envs), random_actions(env, steps, i)) for i, seed in enumerate(SEEDS)]


def check_vector_env(
    env: VectorEnv[Any, Any, Any], make_scalar: Callable[[], gym.Env[Any, Any]], steps: int
) -> None:
    """Hold ``env`` (SAME_STEP) against scalar environments through every kind of reset."""
    scalars = [make_scalar() for _ in range(env.num_envs)]
    _check_spaces(env, scalars[0])
    rollouts = roll_all(env, steps)
    for rollout in rollouts:
        _check_types(env, rollout)
    for number, rollout in enumerate(rollouts):
        actions = random_actions(env, steps, number)
        for env_index, scalar in enumerate(scalars):
            _check_env_index(env, rollout, actions, env_index, scalar, f"rollout {number}")
    _check_nothing_shared(env)


def assert_same_rollouts(left: Sequence[Rollout], right: Sequence[Rollout]) -> None:
    """Assert that two vector environments gave the same values, types and infos, step by step."""
    assert len(left) == len(right)
    for number, (one, other) in enumerate(zip(left, right, strict=True)):
        n_envs = len(one.observation)
        assert_same(one.observation, other.observation, f"rollout {number}, reset")
        assert_same_info(one.info, other.info, n_envs, f"rollout {number}, info of the reset")
        for time, (step, other_step) in enumerate(zip(one.steps, other.steps, strict=True), start=1):
            where = f"rollout {number}, step {time}"
            for name in ("observation", "reward", "terminated", "truncated"):
                assert_same(getattr(step, name), getattr(other_step, name), f"{where}, {name}")
            assert_same_info(step.info, other_step.info, n_envs, f"{where}, info")


def assert_same_info(left: dict[str, Any], right: dict[str, Any], n_envs: int, where: str) -> None:
    """Assert that two infos say the same of every sub-environment: what stands where a mask is False says nothing."""
    keys = {key for key in left.keys() | right.keys() if not key.startswith("_")} - SCALAR_ONLY
    for key in sorted(keys):
        place, nothing = f"{where}[{key!r}]", np.zeros(n_envs, dtype=np.bool_)
        mask = left.get(f"_{key}", nothing)
        assert_same(mask, right.get(f"_{key}", nothing), f"{place}, its mask")
        if mask.any() and isinstance(left[key], dict):
            assert_same_info(left[key], right[key], n_envs, place)
        elif mask.any():
            assert_same(left[key][mask], right[key][mask], place)


def assert_same(left: Any, right: Any, where: str) -> None:
    """Assert equality of values, shapes and dtypes, through dictionaries and arrays of objects."""
    if isinstance(left, dict):
        assert isinstance(right, dict), where
        assert left.keys() == right.keys(), f"{where}: {sorted(left)} against {sorted(right)}"
        for key in left:
            assert_same(left[key], right[key], f"{where}[{key!r}]")
    elif isinstance(left, np.ndarray) and left.dtype == object:
        assert isinstance(right, np.ndarray), where
        assert right.dtype == object, where
        assert left.shape == right.shape, where
        for env_index, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_same(one, other, f"{where}, sub-environment {env_index}")
    else:
        assert np.shape(left) == np.shape(right), f"{where}: shapes {np.shape(left)} and {np.shape(right)}"
        dtypes = np.asarray(left).dtype, np.asarray(right).dtype
        assert dtypes[0] == dtypes[1], f"{where}: dtypes {dtypes[0]} and {dtypes[1]}"
        assert np.array_equal(left, right), f"{where}: {left} against {right}"


def _check_spaces(env: VectorEnv[Any, Any, Any], scalar: gym.Env[Any, Any]) -> None:
    mode = env.metadata["autoreset_mode"]
    assert mode is AutoresetMode.SAME_STEP, f"the checker is for SAME_STEP, not {mode}"
    assert env.single_observation_space == scalar.observation_space
    assert env.single_action_space == scalar.action_space
    assert env.observation_space == batch_space(scalar.observation_space, env.num_envs)
    assert env.action_space == batch_space(scalar.action_space, env.num_envs)


def _check_types(env: VectorEnv[Any, Any, Any], rollout: Rollout) -> None:
    batch_shape = (env.num_envs,)
    assert env.observation_space.contains(rollout.observation), rollout.observation
    for step in rollout.steps:
        assert env.observation_space.contains(step.observation), step.observation
        assert step.observation.dtype == env.observation_space.dtype
        for name, dtype in (("reward", np.float64), ("terminated", np.bool_), ("truncated", np.bool_)):
            array = getattr(step, name)
            assert type(array) is np.ndarray, f"{name} is a {type(array).__name__}"
            assert (array.shape, array.dtype) == (batch_shape, dtype), f"{name}: {array.shape}, {array.dtype}"
        ended = step.terminated | step.truncated
        assert ("final_obs" in step.info) == ended.any(), f"final_obs is for ends alone: {ended}, {step.info}"
        for name in ("final_obs", "final_info") if ended.any() else ():
            mask = step.info[f"_{name}"]
            assert mask.dtype == np.bool_, f"_{name} has dtype {mask.dtype}"
            assert np.array_equal(mask, ended), f"_{name} is {mask}: {ended} ended"
        for env_index in range(env.num_envs) if ended.any() else ():
            final = step.info["final_obs"][env_index]
            assert env.single_observation_space.contains(final) if ended[env_index] else final is None, final


def _check_env_index(
    env: VectorEnv[Any, Any, Any],
    rollout: Rollout,
    actions: Array,
    env_index: int,
    scalar: gym.Env[Any, Any],
    where: str,
) -> None:
    """Walk ``scalar`` through the sub-environment's actions, resetting it without a seed whenever it ends."""

    def assert_seen(observation: Any, batch: Array, place: str) -> None:
        seen = list(iterate(env.observation_space, batch))[env_index]
        assert np.array_equal(seen, observation), (
            f"{place}: {seen}, the scalar environment says {observation}"
        )

    # Gymnasium's own vector environments give sub-environment i the seed s + i.
    seed = (
        rollout.seed + env_index
        if isinstance(rollout.seed, int)
        else rollout.seed and rollout.seed[env_index]
    )
    observation, _ = scalar.reset(seed=seed)
    assert_seen(observation, rollout.observation, f"{where}, sub-environment {env_index}, reset")
    for time, step in enumerate(rollout.steps, start=1):
        place = f"{where}, sub-environment {env_index}, step {time}"
        observation, reward, terminated, truncated, _ = scalar.step(actions[time - 1, env_index])
        said = (step.reward[env_index], step.terminated[env_index], step.truncated[env_index])
        assert said == (reward, terminated, truncated), (
            f"{place}: {said} against {(reward, terminated, truncated)}"
        )
        if terminated or truncated:
            final = step.info["final_obs"][env_index]
            assert np.array_equal(final, observation), f"{place}: final_obs {final} against {observation}"
            observation, _ = scalar.reset()
        assert_seen(observation, step.observation, place)


def _check_nothing_shared(env: VectorEnv[Any, Any, Any]) -> None:
    """Scribble over everything that was returned: the environment must not notice."""
    actions = random_actions(env, 20, 0)
    clean = roll(env, 3, actions)
    kept = [(step.observation.copy(), step.reward.copy()) for step in clean.steps]
    observation, _ = env.reset(seed=3)
    for row, (expected_observation, expected_reward) in zip(actions, kept, strict=True):
        observation[...] = 0
        given = row.copy()
        observation, reward, terminated, truncated, info = env.step(given)
        assert np.array_equal(given, row), "step wrote into the actions"
        assert np.array_equal(observation, expected_observation), (
            "a returned observation is the environment's own"
        )
        assert np.array_equal(reward, expected_reward), "a returned array is the environment's own"
        for array in (
            reward,
            terminated,
            truncated,
            *(v for v in info.values() if isinstance(v, np.ndarray)),
        ):
            array[...] = 0
