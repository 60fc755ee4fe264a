"""The table of ids: what Gymnasium knows of it, and the names that people type."""

import importlib
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tokenwalk.envs.registration import TABLE, Row, discount_of, register_all, resolve_id

every_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)


@every_row
def test_gymnasium_knows_the_row(row: Row) -> None:
    spec = gym.spec(row.id)
    assert (spec.entry_point, spec.vector_entry_point) == (row.entry_point, row.vector_entry_point)
    assert (spec.max_episode_steps, spec.kwargs) == (row.max_episode_steps, dict(row.kwargs))
    assert spec.namespace == "tokenwalk"


@every_row
def test_the_entry_points_are_an_environment_and_a_vector_environment(row: Row) -> None:
    for entry_point, parent in ((row.entry_point, gym.Env), (row.vector_entry_point, gym.vector.VectorEnv)):
        module, _, name = entry_point.partition(":")
        assert issubclass(getattr(importlib.import_module(module), name), parent)


@every_row
def test_all_forms_of_a_name_are_the_same_id(row: Row) -> None:
    short = row.name.rsplit("-v", 1)[0]
    assert {resolve_id(form) for form in (row.name, row.id, short, f"tokenwalk/{short}")} == {row.id}


@every_row
def test_the_vectorizations_of_gymnasium_all_make_it(row: Row) -> None:
    for mode in (None, "sync", "vector_entry_point"):
        env = gym.make_vec(row.id, 2, vectorization_mode=mode)
        observation, _ = env.reset(seed=0)
        assert env.observation_space.contains(observation)
        assert (type(env) is gym.vector.SyncVectorEnv) == (mode == "sync")


def test_the_async_vectorization_makes_it() -> None:
    env = gym.make_vec(TABLE[0].id, 2, vectorization_mode="async", vector_kwargs={"context": "forkserver"})
    try:
        observation, _ = env.reset(seed=0)
        assert np.array_equal(observation, [0, 0])
    finally:
        env.close()


def test_registering_again_neither_warns_nor_changes_anything() -> None:
    before = dict(gym.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_all()
    assert gym.registry == before


def test_ids_and_names_are_unique() -> None:
    assert len({row.id for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CartPole-v1", "CliffWalking-v1"])
def test_gymnasiums_own_ids_are_taken_as_they_are(name: str) -> None:
    assert resolve_id(name) == name


def test_a_name_without_a_version_takes_the_newest() -> None:
    assert resolve_id("CartPole") == "CartPole-v1"
    newest = max(spec.version or 0 for spec in gym.registry.values() if spec.name == "Taxi")
    assert resolve_id("Taxi") == f"Taxi-v{newest}"


def test_ours_comes_before_a_stranger_of_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: dict[str, Any] = {**gym.registry}
    monkeypatch.setattr(gym.envs.registration, "registry", registry)
    monkeypatch.setattr(gym, "registry", registry)
    gym.register("CounterWalk-v3", entry_point="nowhere:Env")
    assert resolve_id("CounterWalk") == "tokenwalk/CounterWalk-v0"
    assert resolve_id("CounterWalk-v3") == "CounterWalk-v3"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("CounterWolk", "CounterWalk"),
        ("counterwalk", "CounterWalk"),
        ("CounterWalk-v9", "CounterWalk"),
        ("tokenwalk/CounterWalkLonger-v0", "CounterWalkLong"),
        ("FrozenLaek", "FrozenLake"),
        ("", "CounterWalk"),
        ("!!!", "CounterWalk"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"no environment is called '{name}': did you mean .*{near}"):
        resolve_id(name)


def test_each_id_carries_its_discount() -> None:
    assert discount_of("tokenwalk/CounterWalk-v0") == 0.9
    assert discount_of("tokenwalk/CounterWalkLong-v0") == 0.99
    assert discount_of("FrozenLake-v1") == 0.99
    # The horizon is part of the task exactly where no TimeLimit is registered: there nothing is discounted.
    assert all(discount_of(row.id) == 1.0 for row in TABLE if row.max_episode_steps is None)
