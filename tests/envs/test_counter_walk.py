"""The documented walk: its rewards by hand, its noise, its drawing, and three vectorizations that agree."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from vector_checker import assert_same_rollouts, check_vector_env, roll_all

from tokenwalk.envs.checks import EpisodeEndedError
from tokenwalk.envs.counter_walk import ADD, SUBTRACT, CounterWalkEnv, CounterWalkModel, CounterWalkVectorEnv

# Walks whose sub-environments end at different times: by arriving, by the limit, and by both at once.
WALKS: list[tuple[dict[str, Any], int | None]] = [
    ({"slip": 0.4}, 7),
    ({"slip": 0.3, "n_states": 5, "start": 2, "goal": 4, "terminate_at_goal": True}, None),
    ({"slip": 0.3, "n_states": 5, "start": 1, "goal": 4, "terminate_at_goal": True}, 6),
    ({"n_states": 4, "start": 3, "goal": 0, "terminate_at_goal": True}, 5),
    ({"slip": 0.5, "goal": 1, "terminate_at_goal": True}, 1),
]
every_walk = pytest.mark.parametrize(("arguments", "limit"), WALKS)


def scalar(arguments: dict[str, Any], limit: int | None) -> gym.Env[Any, Any]:
    env = CounterWalkEnv(**arguments)
    return env if limit is None else TimeLimit(env, limit)


def test_the_documented_walk_pays_what_the_document_says() -> None:
    env = gym.make("tokenwalk/CounterWalk-v0")
    assert env.reset(seed=0) == (0, {})
    expected = [
        (ADD, 1, 1.0),
        (ADD, 2, -1.0),
        (ADD, 2, -1.0),
        (SUBTRACT, 1, 1.0),
        (SUBTRACT, 0, -1.0),
        (SUBTRACT, 0, -1.0),
    ]
    for action, observation, reward in expected:
        assert env.step(action) == (observation, reward, False, False, {})


def test_walking_to_and_fro_returns_zero_over_the_registered_hundred_steps() -> None:
    env = gym.make("tokenwalk/CounterWalk-v0")
    env.reset(seed=0)
    steps = [env.step(ADD if time % 2 == 0 else SUBTRACT) for time in range(100)]
    assert sum(step[1] for step in steps) == 0
    assert [step[3] for step in steps] == [False] * 99 + [True]


def test_the_long_walk_is_98_lost_on_the_way_and_ends_on_its_goal() -> None:
    env = gym.make("tokenwalk/CounterWalkLong-v0")
    env.reset(seed=0)
    steps = [env.step(ADD) for _ in range(100)]
    assert sum(step[1] for step in steps) == -98
    assert [step[2] for step in steps] == [False] * 99 + [True]
    assert steps[-1][0] == 100


@every_walk
def test_each_sub_environment_is_the_scalar_walk(arguments: dict[str, Any], limit: int | None) -> None:
    native = CounterWalkVectorEnv(5, limit, **arguments)
    check_vector_env(native, lambda: scalar(arguments, limit), steps=300)
    assert native.num_envs == 5


@every_walk
def test_sync_and_native_give_the_same_trajectories(arguments: dict[str, Any], limit: int | None) -> None:
    native = CounterWalkVectorEnv(4, limit, **arguments)
    sync = SyncVectorEnv([lambda: scalar(arguments, limit)] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    assert_same_rollouts(roll_all(native, 200), roll_all(sync, 200))


def test_in_the_walks_that_slip_to_a_goal_the_sub_environments_end_apart() -> None:
    for arguments, limit in WALKS[1:3]:
        rollouts = roll_all(CounterWalkVectorEnv(4, limit, **arguments), 200)
        ends = np.array([step.terminated | step.truncated for rollout in rollouts for step in rollout.steps])
        assert (ends.sum(axis=1) == 1).any()


def test_async_and_native_give_the_same_trajectories_where_sub_environments_end_apart() -> None:
    arguments, limit = WALKS[2]
    native = CounterWalkVectorEnv(2, limit, **arguments)
    asynchronous = AsyncVectorEnv(
        [lambda: scalar(arguments, limit)] * 2, autoreset_mode=AutoresetMode.SAME_STEP, context="forkserver"
    )
    try:
        assert_same_rollouts(roll_all(native, 100), roll_all(asynchronous, 100))
    finally:
        asynchronous.close()


@pytest.mark.parametrize("env_class", [CounterWalkEnv, CounterWalkVectorEnv])
def test_a_copy_draws_the_same_slips_as_the_original(env_class: Any) -> None:
    env = env_class(slip=0.5)
    env.reset(seed=3)
    action = 0 if env_class is CounterWalkEnv else [0]
    env.step(action)
    twin = copy.deepcopy(env)
    assert [str(twin.step(action)) for _ in range(200)] == [str(env.step(action)) for _ in range(200)]


def test_the_opposite_happens_with_the_probability_slip() -> None:
    env, slip, steps = CounterWalkEnv(slip=0.3, n_states=200, start=100), 0.3, 20_000
    state, _ = env.reset(seed=11)
    slipped = 0
    for _ in range(steps):
        action = ADD if state < 100 else SUBTRACT  # walks about the middle, away from the walls
        before, (state, *_) = state, env.step(action)
        slipped += (state > before) != (action == ADD)
    assert abs(slipped / steps - slip) < 4 * np.sqrt(slip * (1 - slip) / steps)


def test_a_sub_environment_of_many_walks_and_a_walk_of_one_slip_alike_whatever_ends_beside_it() -> None:
    arguments, limit = WALKS[2]
    many, one = CounterWalkVectorEnv(64, limit, **arguments), CounterWalkVectorEnv(1, limit, **arguments)
    many.reset(seed=100)
    one.reset(seed=163)
    states = [(many.step(np.zeros(64, dtype=np.int64))[0][63], one.step([0])[0][0]) for _ in range(500)]
    assert [first for first, _ in states] == [second for _, second in states]


def test_a_sub_environment_with_no_seed_of_its_own_draws_afresh_beside_one_that_has_one() -> None:
    walks = [CounterWalkVectorEnv(2, n_states=200, start=100, slip=0.5) for _ in range(2)]
    for walk in walks:
        walk.reset(seed=[None, 5])
    steps = np.array([[walk.step([ADD, ADD])[0] for _ in range(64)] for walk in walks])
    alone = CounterWalkEnv(n_states=200, start=100, slip=0.5)
    alone.reset(seed=5)
    assert steps[0, :, 1].tolist() == steps[1, :, 1].tolist() == [alone.step(ADD)[0] for _ in range(64)]
    assert steps[0, :, 0].tolist() != steps[1, :, 0].tolist()


def test_a_walk_that_ended_refuses_steps_until_it_is_reset() -> None:
    env, twin = (CounterWalkEnv(n_states=9, goal=8, slip=0.3, terminate_at_goal=True) for _ in range(2))
    for walk in (env, twin):
        walk.reset(seed=5)
        while not walk.step(ADD)[2]:
            pass
    for _ in range(3):
        with pytest.raises(EpisodeEndedError, match=r"call reset\(\) before step\(\)"):
            env.step(ADD)
        with pytest.raises(gym.error.ResetNeeded):
            env.step(ADD)
    assert env.reset() == twin.reset()
    assert [env.step(ADD)[0] for _ in range(7)] == [twin.step(ADD)[0] for _ in range(7)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_states": 1}, "n_states is 1: give an integer of 2 or more"),
        ({"n_states": 3.0}, "n_states is 3.0"),
        ({"n_states": True}, "n_states is True"),
        ({"start": 3}, "start is 3: give a state from 0 to 2"),
        ({"start": -1}, "start is -1"),
        ({"goal": 3}, "goal is 3: give a state from 0 to 2"),
        ({"goal": "1"}, "goal is '1'"),
        ({"slip": 1.0}, "slip is 1.0: give a finite number"),
        ({"slip": -0.1}, "slip is -0.1"),
        ({"slip": float("nan")}, "slip is nan"),
        ({"slip": "0.1"}, "slip is '0.1'"),
        ({"terminate_at_goal": 1}, "terminate_at_goal is 1: give True or False"),
        ({"goal": 0, "terminate_at_goal": True}, "start and goal are both 0"),
        ({"render_mode": "human"}, "render_mode is 'human': give 'ansi' or None"),
    ],
)
def test_a_bad_argument_is_named_by_scalar_and_vector_alike(arguments: dict[str, Any], message: str) -> None:
    for build in (lambda: CounterWalkEnv(**arguments), lambda: CounterWalkVectorEnv(2, 5, **arguments)):
        with pytest.raises(ValueError, match=message):
            build()


@pytest.mark.parametrize(
    ("num_envs", "limit", "message"),
    [
        (0, None, "num_envs is 0: give an integer of 1 or more"),
        (True, None, "num_envs is True"),
        (2.0, None, "num_envs is 2.0"),
        (2, 0, "max_episode_steps is 0: give an integer of 1 or more, or None"),
        (2, -2, "max_episode_steps is -2"),
        (2, 2.5, "max_episode_steps is 2.5"),
        (2, True, "max_episode_steps is True"),
    ],
)
def test_a_bad_number_of_sub_environments_or_a_bad_limit_is_named(
    num_envs: Any, limit: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CounterWalkVectorEnv(num_envs, limit)


def test_the_drawing_brackets_the_counter_and_stars_the_goal() -> None:
    env = gym.make("tokenwalk/CounterWalk-v0", render_mode="ansi")
    env.reset(seed=0)
    drawings = [env.render()]
    for action in (ADD, ADD):
        env.step(action)
        drawings.append(env.render())
    assert drawings == ["[0] 1* 2", "0 [1*] 2", "0 1* [2]"]


def test_a_long_line_is_drawn_as_the_21_states_around_the_counter() -> None:
    drawings = []
    for start in (0, 50, 100):
        env = CounterWalkEnv(n_states=101, start=start, goal=45, render_mode="ansi")
        env.reset(seed=0)
        drawings.append(str(env.render()))
    assert drawings[0].startswith("[0] 1 2")
    assert drawings[0].endswith("19 20 ...")
    assert drawings[1].startswith("... 40 41 42 43 44 45* 46")
    assert drawings[1].endswith("59 60 ...")
    assert "[50]" in drawings[1]
    assert drawings[2].startswith("... 80")
    assert drawings[2].endswith("[100]")


def test_the_vector_environment_draws_every_sub_environment() -> None:
    env = gym.make_vec("tokenwalk/CounterWalk-v0", 2, render_mode="ansi")
    env.reset(seed=0)
    env.step([ADD, SUBTRACT])
    assert env.render() == ("0 [1*] 2", "[0] 1* 2")


def test_without_a_render_mode_there_is_a_warning_and_no_drawing() -> None:
    env = CounterWalkEnv()
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode='ansi'"):
        assert env.render() is None
    assert CounterWalkVectorEnv(2).render() is None


def test_the_model_steps_a_batch_as_it_steps_each_sub_environment() -> None:
    model = CounterWalkModel(n_states=6, goal=3, slip=0.2, terminate_at_goal=True)
    state, action, outcome = (index.ravel() for index in np.indices((6, 2, 2)))
    batch = model.transition(state, action, outcome)
    for env_index, (s, a, k) in enumerate(zip(state, action, outcome, strict=True)):
        moved = s + (1 if a == k else -1)
        assert batch.next_state[env_index] == min(max(moved, 0), 5)
        assert batch.rewards["gold"][env_index] == (1.0 if batch.next_state[env_index] == 3 else -1.0)
        assert batch.terminated[env_index] == (batch.next_state[env_index] == 3)
