"""The adapter returns what SB3's own DummyVecEnv over Monitors returns, however the sub-environments are stepped."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecEnv
from vector_checker import assert_same

import tokenwalk  # noqa: F401 - registers the ids
from tokenwalk.agents.baselines.vec_env import NativeVecEnv, UnsupportedVectorEnvError, env_infos

B = 3
WALKS: list[tuple[str, dict[str, Any], int]] = [  # id, arguments, steps
    ("tokenwalk/CounterWalk-v0", {}, 250),
    ("tokenwalk/CounterWalkLong-v0", {}, 1_050),
    # Ends by arrival, by the limit and by both in one step.
    (
        "tokenwalk/CounterWalk-v0",
        {"n_states": 4, "goal": 3, "slip": 0.2, "terminate_at_goal": True, "max_episode_steps": 5},
        300,
    ),
]
every_walk = pytest.mark.parametrize(("env_id", "kwargs", "steps"), WALKS, ids=["short", "long", "slippery"])


def native(env_id: str, kwargs: dict[str, Any]) -> VecEnv:
    return NativeVecEnv(gym.make_vec(env_id, B, vectorization_mode="vector_entry_point", **kwargs))


def over(env_id: str, kwargs: dict[str, Any], mode: str, **options: Any) -> VecEnv:
    return NativeVecEnv(gym.make_vec(env_id, B, vectorization_mode=mode, vector_kwargs=options, **kwargs))


def dummy(env_id: str, kwargs: dict[str, Any]) -> VecEnv:
    return DummyVecEnv([lambda: Monitor(gym.make(env_id, **kwargs))] * B)


def record(env: VecEnv, steps: int, masks: bool = False) -> list[Any]:
    """Return all that ``env`` returns over two seeded stretches and one that goes on without a seed."""
    rng = np.random.default_rng(0)
    recorded: list[Any] = []
    for seed in (5, None, 12):
        if seed is not None:
            env.seed(seed)
        recorded.append((env.reset(), [dict(info) for info in env.reset_infos]))
        for _ in range(steps):
            if masks:
                recorded.append(env.env_method("action_masks"))
            recorded.append(
                (*env.step(rng.integers(env.action_space.n, size=B)), [dict(i) for i in env.reset_infos])  # type: ignore[attr-defined]
            )
    env.close()
    return recorded


def assert_same_records(left: list[Any], right: list[Any]) -> None:
    """Equality of values, shapes and dtypes; the seconds of an episode are the machine's."""
    assert len(left) == len(right)
    for number, (one, other) in enumerate(zip(left, right, strict=True)):
        for place, (value, twin) in enumerate(zip(one, other, strict=True)):
            if not isinstance(value, list):
                assert_same(value, twin, f"entry {number}, place {place}")
                continue
            for env_index, (info, twin_info) in enumerate(zip(value, twin, strict=True)):
                assert_same(
                    untimed(info),
                    untimed(twin_info),
                    f"entry {number}, place {place}, sub-environment {env_index}",
                )


def untimed(info: dict[str, Any]) -> dict[str, Any]:
    episode = {key: value for key, value in info.get("episode", {}).items() if key != "t"}
    return {**info, "episode": episode}


def endings(recorded: list[Any]) -> set[tuple[bool, bool]]:
    """Return which pairs (ended, TimeLimit.truncated) occurred."""
    steps = [entry for entry in recorded if len(entry) == 5]
    return {
        (bool(ended), info["TimeLimit.truncated"])
        for _, _, all_ended, infos, _ in steps
        for ended, info in zip(all_ended, infos, strict=True)
    }


@every_walk
def test_the_native_environment_returns_what_sb3s_own_loop_over_single_ones_returns(
    env_id: str, kwargs: dict[str, Any], steps: int
) -> None:
    expected = record(dummy(env_id, kwargs), steps)
    assert_same_records(record(native(env_id, kwargs), steps), expected)
    assert (True, True) in endings(expected)


@every_walk
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_a_sync_vector_environment_returns_the_same_in_both_modes(
    env_id: str, kwargs: dict[str, Any], steps: int, mode: AutoresetMode
) -> None:
    expected = record(dummy(env_id, kwargs), steps)
    assert_same_records(record(over(env_id, kwargs, "sync", autoreset_mode=mode), steps), expected)


@every_walk
def test_an_async_vector_environment_returns_the_same(
    env_id: str, kwargs: dict[str, Any], steps: int
) -> None:
    # Not fork: the process holds torch's threads, and Python warns of that.
    env = over(env_id, kwargs, "async", autoreset_mode=AutoresetMode.SAME_STEP, context="forkserver")
    assert_same_records(record(env, steps), record(dummy(env_id, kwargs), steps))


def test_the_slippery_walk_ends_in_every_way() -> None:
    env_id, kwargs, steps = WALKS[2]
    recorded = record(native(env_id, kwargs), steps)
    last = [info for entry in recorded if len(entry) == 5 for info in entry[3] if "episode" in info]
    assert endings(recorded) == {(False, False), (True, False), (True, True)}
    assert {info["TimeLimit.truncated"] for info in last if info["episode"]["l"] == 5} == {False, True}


class TruncatesTerminated(NativeVecEnv):
    """A broken twin: calls an arrival at the limit a truncation."""

    def step_wait(self) -> Any:
        observations, rewards, ended, infos = super().step_wait()
        for info in infos:
            if "episode" in info:
                info["TimeLimit.truncated"] = info["episode"]["l"] == 5
        return observations, rewards, ended, infos


class ForgetsTheEnd(NativeVecEnv):
    """A broken twin: takes the first observation of the next episode for the last of this one."""

    def step_wait(self) -> Any:
        observations, rewards, ended, infos = super().step_wait()
        for env_index in np.flatnonzero(ended):
            infos[env_index]["terminal_observation"] = observations[env_index]
        return observations, rewards, ended, infos


@pytest.mark.parametrize("broken", [TruncatesTerminated, ForgetsTheEnd])
def test_the_comparison_notices_a_broken_adapter(broken: type[NativeVecEnv]) -> None:
    env_id, kwargs, steps = WALKS[2]
    env = broken(gym.make_vec(env_id, B, vectorization_mode="vector_entry_point", **kwargs))
    expected = record(dummy(env_id, kwargs), steps)
    with pytest.raises(AssertionError):
        assert_same_records(record(env, steps), expected)
    assert_same_records(record(native(env_id, kwargs), steps), expected)


class Countdown(gym.Env[Any, Any]):
    """Counts 2 to 5 steps down, sampled at the reset; masks the action taken last; stops after 4 steps."""

    observation_space = gym.spaces.Box(0.0, 9.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.left, self.time, self.last = int(self.np_random.integers(2, 6)), 0, 3
        self.bonus = 0 if options is None else options.get("bonus", 0)
        return self.look(), {"action_mask": self.action_masks(), "left": self.left}

    def step(self, action: Any) -> Any:
        self.left, self.time, self.last = self.left - 1, self.time + 1, int(action)
        info = {"action_mask": self.action_masks(), "terms": {"action": int(action)}}
        return self.look(), 0.1 * action + self.bonus, self.left == 0, self.time == 4, info

    def look(self) -> Any:
        return np.array([self.left, self.last], dtype=np.float32)

    def action_masks(self) -> Any:
        return np.arange(3) != self.last


class CountdownVector(VectorEnv[Any, Any, Any]):
    """The same, many at once in DISABLED mode; returns its own buffer, and masks in both ways known."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.countdowns = [Countdown() for _ in range(num_envs)]
        self.single_observation_space, self.single_action_space = (
            Countdown.observation_space,
            Countdown.action_space,
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.buffer = np.zeros((num_envs, 2), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        options = dict(options or {})
        mask = options.pop("reset_mask", np.ones(self.num_envs, dtype=np.bool_))
        for env_index in np.flatnonzero(mask):
            env_seed = None if seed is None else seed + int(env_index)
            self.buffer[env_index], _ = self.countdowns[env_index].reset(seed=env_seed, options=options)
        left = np.array([one.left for one in self.countdowns])
        return self.buffer, {"action_mask": self.action_masks(), "left": left, "_left": mask}

    def step(self, actions: Any) -> Any:
        steps = [one.step(action) for one, action in zip(self.countdowns, actions, strict=True)]
        self.buffer[:] = [step[0] for step in steps]
        rewards, terminated, truncated = (np.array([step[i] for step in steps]) for i in (1, 2, 3))
        info = {"action_mask": self.action_masks(), "terms": {"action": np.asarray(actions)}}
        return self.buffer, rewards, terminated, truncated, info

    def action_masks(self) -> Any:
        return np.stack([one.action_masks() for one in self.countdowns])


def countdowns(mode: AutoresetMode) -> VecEnv:
    return NativeVecEnv(SyncVectorEnv([Countdown] * B, autoreset_mode=mode, copy=False))


def dummy_countdowns() -> VecEnv:
    return DummyVecEnv([lambda: Monitor(Countdown())] * B)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_infos_masks_and_arrays_of_a_foreign_environment_reach_sb3_unchanged(mode: AutoresetMode) -> None:
    expected = record(dummy_countdowns(), 60, masks=True)
    assert_same_records(record(countdowns(mode), 60, masks=True), expected)
    assert endings(expected) == {(False, False), (True, False), (True, True)}


def test_a_native_environment_with_disabled_autoreset_returns_the_same() -> None:
    recorded = record(NativeVecEnv(CountdownVector(B)), 60, masks=True)
    assert_same_records(recorded, record(dummy_countdowns(), 60, masks=True))


def test_masks_are_all_true_where_the_environment_has_none() -> None:
    env = native("tokenwalk/CounterWalk-v0", {})
    env.reset()
    assert np.array_equal(env.env_method("action_masks", indices=[0, 2]), np.ones((2, 2), dtype=np.bool_))
    assert env.get_attr("action_masks", indices=1)[0]().tolist() == [True, True]
    assert env.has_attr("action_masks")
    assert not env.has_attr("no_such_attribute")


def test_masks_are_found_behind_a_wrapper() -> None:
    class Wrapped(gym.vector.VectorWrapper[Any, Any, Any, Any, Any]):
        pass

    env = NativeVecEnv(Wrapped(CountdownVector(B)))
    env.seed(0)
    env.reset()
    env.step(np.array([0, 1, 2]))
    assert np.array_equal(env.env_method("action_masks"), ~np.eye(3, dtype=np.bool_))


def test_next_step_autoreset_is_refused_with_the_reason_and_the_fix() -> None:
    env = SyncVectorEnv([Countdown] * B, autoreset_mode=AutoresetMode.NEXT_STEP)
    with pytest.raises(
        UnsupportedVectorEnvError, match=r"NEXT_STEP: each reset takes a step of its own.*SAME_STEP"
    ):
        NativeVecEnv(env)
    env.metadata = {}
    with pytest.raises(UnsupportedVectorEnvError, match="= None, so it is not known"):
        NativeVecEnv(env)


def test_observations_that_are_no_array_are_refused() -> None:
    env = gym.make_vec(
        "Blackjack-v1",
        B,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )
    with pytest.raises(UnsupportedVectorEnvError, match=r"Tuple.*no array"):
        NativeVecEnv(env)


def test_rewards_are_float32_and_observations_keep_their_type() -> None:
    env = native("tokenwalk/CounterWalk-v0", {})
    observations = env.reset()
    _, rewards, ended, infos = env.step(np.zeros(B, dtype=np.int64))
    assert (observations.dtype, rewards.dtype, ended.dtype) == (np.int64, np.float32, np.bool_)
    assert infos == [{"TimeLimit.truncated": False}] * B


def test_what_was_returned_stays_as_it_was() -> None:
    env = NativeVecEnv(CountdownVector(B))
    env.seed(3)
    first = env.reset()
    kept = first.copy()
    second, *_ = env.step(np.zeros(B, dtype=np.int64))
    assert np.array_equal(first, kept)
    assert np.array_equal(second[:, 0], kept[:, 0] - 1)  # type: ignore[call-overload]


def test_options_apply_to_one_reset_and_are_the_same_for_all() -> None:
    env = countdowns(AutoresetMode.SAME_STEP)
    env.set_options({"bonus": 10})
    env.reset()
    assert env.step(np.zeros(B, dtype=np.int64))[1].tolist() == [10, 10, 10]
    env.reset()
    assert env.step(np.zeros(B, dtype=np.int64))[1].tolist() == [0, 0, 0]
    env.set_options([{"bonus": 1}, {}, {}])
    with pytest.raises(UnsupportedVectorEnvError, match="different options"):
        env.reset()


def test_attributes_are_read_and_set_for_one_object_and_for_many() -> None:
    many, one = countdowns(AutoresetMode.SAME_STEP), NativeVecEnv(CountdownVector(B))
    for env in (many, one):
        env.reset()
        env.set_attr("charm", 7)
        assert env.get_attr("charm") == [7, 7, 7]
        with pytest.raises(UnsupportedVectorEnvError, match="set it for all"):
            env.set_attr("charm", 8, indices=[0])
        with pytest.raises(AttributeError):
            env.get_attr("no_such_attribute")
    assert len({*map(id, many.get_attr("unwrapped"))}) == B


def test_methods_must_return_one_result_per_sub_environment() -> None:
    env = NativeVecEnv(CountdownVector(B))
    env.reset()
    with pytest.raises(UnsupportedVectorEnvError, match="not one result for each"):
        env.env_method("close")
    assert [
        view.shape for view in countdowns(AutoresetMode.SAME_STEP).env_method("action_masks", indices=[1])
    ] == [(3,)]


def test_rendering_gives_each_sub_environments_line() -> None:
    env = native("tokenwalk/CounterWalk-v0", {"render_mode": "ansi"})
    env.reset()
    assert env.env_method("render") == ["[0] 1* 2"] * B
    assert env.render_mode == "ansi"


def test_the_statistics_are_a_monitors_and_no_wrapper_is_claimed_besides() -> None:
    env = native("tokenwalk/CounterWalk-v0", {"max_episode_steps": 3})
    assert env.env_is_wrapped(Monitor) == [True] * B
    assert env.env_is_wrapped(gym.wrappers.TimeLimit, indices=[0]) == [False]
    env.reset()
    for _ in range(2):
        env.step(np.zeros(B, dtype=np.int64))
    *_, infos = env.step(np.zeros(B, dtype=np.int64))
    assert [(info["episode"]["r"], info["episode"]["l"]) for info in infos] == [(-1.0, 3)] * B


def test_sb3s_wrappers_stand_on_the_adapter() -> None:
    env = VecCheckNan(NativeVecEnv(CountdownVector(B)))
    env.seed(0)
    env.reset()
    env.step(np.array([0, 1, 2]))
    assert is_masking_supported(env)
    assert np.array_equal(get_action_masks(env), ~np.eye(3, dtype=np.bool_))


def test_infos_are_split_by_sub_environment() -> None:
    info = {
        "some": np.array([1.0, 0.0]),
        "_some": np.array([True, False]),
        "all": np.array([3, 4]),
        "nested": {"deep": np.array([5, 6]), "_deep": np.array([False, True])},
        "_own": np.array([7, 8]),
        "word": "same",
    }
    assert env_infos(info, 2) == [
        {"some": 1.0, "all": 3, "nested": {}, "_own": 7, "word": "same"},
        {"all": 4, "nested": {"deep": 6}, "_own": 8, "word": "same"},
    ]
    fresh = partial(env_infos, {}, 2)
    assert fresh()[0] is not fresh()[0]


@pytest.mark.parametrize("mode", ["vector_entry_point", "sync", "disabled"])
def test_the_sums_of_terms_are_those_of_whole_episodes(mode: str) -> None:
    because, evidence, great, eos = 0, 1, 3, 5
    texts = [[great, eos], [because, evidence, great, eos], [great] * 5]  # the last one ends at the horizon
    gold, proxy = [-0.5, 1.0 - 0.5, -2.5], [0.7, 1.0 + 0.7, 3.5]
    options = {"autoreset_mode": AutoresetMode.DISABLED if mode == "disabled" else AutoresetMode.SAME_STEP}
    kwargs: dict[str, Any] = {} if mode == "vector_entry_point" else {"vector_kwargs": options}
    kind = "sync" if mode == "disabled" else mode
    env = NativeVecEnv(gym.make_vec("tokenwalk/Flattery-v0", B, vectorization_mode=kind, **kwargs))
    env.reset()
    ended = np.zeros(B, dtype=np.int64)
    for time in range(40):
        env.step(np.array([text[time % len(text)] for text in texts]))
        ended += [(time + 1) % len(text) == 0 for text in texts]
        if ended.any():
            assert env.terms["reward/gold"] == pytest.approx(ended @ gold / ended.sum())
            assert env.terms["reward/gold/weighted"] == pytest.approx(ended @ gold / ended.sum())
            assert env.terms["reward/proxy"] == pytest.approx(ended @ proxy / ended.sum())
    assert ended.tolist() == [20, 10, 8]
