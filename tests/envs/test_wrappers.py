"""Rewards and potentials on any environment: exact sums, scalar equals vector, every autoreset mode, safe shaping."""

import copy
import operator
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from vector_checker import assert_same_info, random_actions

from tokenwalk.agents.exact.dynamic_programming import Solution, optimal_actions, solve
from tokenwalk.envs.arrays import BoolArray, FloatArray
from tokenwalk.envs.checks import EpisodeEndedError
from tokenwalk.envs.registration import resolve_id
from tokenwalk.envs.rewards.shaping import shaping_reward
from tokenwalk.envs.rewards.source import SourceContractError
from tokenwalk.envs.steps import copy_batch
from tokenwalk.envs.tabular import TabularMDP, tabular_mdp
from tokenwalk.envs.wrappers import (
    AddRewards,
    AddRewardsVector,
    EnvStep,
    MonitorRewards,
    MonitorRewardsVector,
    ObservationFunction,
    PotentialShaping,
    PotentialShapingVector,
    StepFunction,
    StepSource,
)

Env = gym.Env[Any, Any]
Vector = VectorEnv[Any, Any, Any]
SAME, NEXT, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED
every_mode = pytest.mark.parametrize("mode", [SAME, NEXT, DISABLED], ids=lambda mode: mode.name)
DISCOUNT = 0.9


class Orchard(gym.Env[Any, Any]):
    """A hand-written environment of nested observations and actions: any step may end it or cut it short."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = gym.spaces.Dict(
        {
            "tree": gym.spaces.Discrete(6),
            "pair": gym.spaces.Tuple((gym.spaces.Box(-9, 9, (2,), np.float32), gym.spaces.Text(3))),
        }
    )
    action_space = gym.spaces.Tuple((gym.spaces.Discrete(3), gym.spaces.Box(-1, 1, (1,), np.float32)))
    render_mode = None

    def _observe(self) -> Any:
        wind = self.np_random.normal(size=2).clip(-9, 9).astype(np.float32)
        return {"tree": np.int64(self._tree), "pair": (wind, "abc"[: 1 + self._tree % 3])}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._tree = int(self.np_random.integers(6))
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        self._tree = (self._tree + int(action[0])) % 6
        terminated, truncated = (bool(end) for end in self.np_random.random(2) < 0.15)
        return self._observe(), float(action[1][0]), terminated, truncated, {"tree": self._tree}


MAKERS: dict[str, Callable[[], Env]] = {
    "FrozenLake": partial(gym.make, "FrozenLake-v1", max_episode_steps=9),
    "CartPole": partial(gym.make, "CartPole-v1", max_episode_steps=24),
    "CounterWalk": partial(
        gym.make, "tokenwalk/CounterWalk-v0", 5, n_states=4, goal=2, slip=0.3, terminate_at_goal=True
    ),
    "Taxi": partial(gym.make, resolve_id("Taxi"), max_episode_steps=6),
    "Orchard": Orchard,
}
every_env = pytest.mark.parametrize("name", MAKERS)


def phi(observation: Any) -> FloatArray:
    """Return a potential of any of the observations above, one number a row, each row by itself."""
    if isinstance(observation, dict):
        wind, words = observation["pair"]
        letters = np.array([len(word) for word in words])
        return np.asarray(phi(observation["tree"]) + wind[:, 0].astype(np.float64) + 0.1 * letters)
    if observation.ndim == 2:
        return np.asarray(3.0 * observation[:, 2].astype(np.float64) + observation[:, 0])
    return np.asarray(np.sin(1.0 + observation))


def mixed(step: EnvStep) -> FloatArray:
    """Return a score that reads everything but how the step ended."""
    action = step.action[0] if isinstance(step.action, tuple) else step.action
    score = np.tanh(phi(step.observation)) - 0.5 * np.tanh(phi(step.next_observation))
    return np.asarray(score + 0.1 * action + step.reward)


def endings(step: EnvStep) -> FloatArray:
    return step.terminated + 2.0 * step.truncated


MIXED, ENDINGS = StepFunction("mixed", mixed, -120, 120), StepFunction("endings", endings, 0, 3)
ADDED = ((MIXED, 0.3), (ENDINGS, -0.7))
POTENTIAL = ObservationFunction(phi)
WRAPPERS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "add": (lambda env: AddRewards(env, ADDED, 0.5), lambda env: AddRewardsVector(env, ADDED, 0.5)),
    "monitor": (lambda env: MonitorRewards(env, [MIXED]), lambda env: MonitorRewardsVector(env, [MIXED])),
    "shape": (
        lambda env: PotentialShaping(env, POTENTIAL, DISCOUNT),
        lambda env: PotentialShapingVector(env, POTENTIAL, DISCOUNT),
    ),
    "all three": (
        lambda env: PotentialShaping(MonitorRewards(AddRewards(env, ADDED[:1]), [ENDINGS]), POTENTIAL, 1.0),
        lambda env: PotentialShapingVector(
            MonitorRewardsVector(AddRewardsVector(env, ADDED[:1]), [ENDINGS]), POTENTIAL, 1.0
        ),
    ),
}
every_wrapper = pytest.mark.parametrize("wrapper", WRAPPERS)


def sampled(space: gym.Space[Any], steps: int, seed: int = 0) -> list[Any]:
    """Return actions, the same for every environment of the same action space."""
    space = copy.deepcopy(space)
    space.seed(seed)
    return [space.sample() for _ in range(steps)]


def one(observation: Any) -> Any:
    """Return a single observation as a batch of one row, by hand."""
    if isinstance(observation, dict):
        wind, word = observation["pair"]
        return {"tree": np.array([observation["tree"]]), "pair": (wind[None], (word,))}
    return np.array([observation])


def value(observation: Any) -> float:
    return float(phi(one(observation))[0])


@dataclass(frozen=True)
class Lap:
    """A step of a scalar environment as it was before any wrapper, and what the wrapped one said of it."""

    before: Any
    action: Any
    after: Any
    reward: float
    terminated: bool
    truncated: bool
    total: float
    info: dict[str, Any]


def episodes(make: Callable[[], Env], wrap: Callable[[Env], Env], steps: int = 60) -> list[list[Lap]]:
    """Walk the plain and the wrapped environment side by side and return the laps of every whole episode."""
    plain, wrapped = make(), wrap(make())
    found: list[list[Lap]] = [[]]
    before, _ = plain.reset(seed=3)
    wrapped.reset(seed=3)
    for action in sampled(plain.action_space, steps):
        after, reward, terminated, truncated, info = plain.step(action)
        seen, total, *ends, logged = wrapped.step(action)
        assert data_equivalence((seen, ends), (after, [terminated, truncated]), exact=True)
        assert type(total) is float
        assert data_equivalence({key: logged[key] for key in info}, info, exact=True)
        found[-1].append(Lap(before, action, after, float(reward), terminated, truncated, total, logged))
        before = after
        if terminated or truncated:
            before, _ = plain.reset()
            wrapped.reset()
            found.append([])
    return found[:-1]


# The reward


@every_env
def test_the_reward_is_the_float64_sum_of_the_terms_in_their_order(name: str) -> None:
    walked = episodes(MAKERS[name], lambda env: AddRewards(env, ADDED, keep=0.5), steps=100)
    assert len(walked) > 2
    for lap in (lap for episode in walked for lap in episode):
        action = lap.action[0] if isinstance(lap.action, tuple) else lap.action
        score = (
            np.tanh(value(lap.before))
            - 0.5 * np.tanh(value(lap.after))
            + 0.1 * np.float64(action)
            + lap.reward
        )
        ending = 1.0 * lap.terminated + 2.0 * lap.truncated
        assert lap.total == 0.5 * lap.reward + 0.3 * score + -0.7 * ending
        expected = {
            "reward/env": lap.reward,
            "gold": lap.reward,
            "reward/mixed": score,
            "reward/mixed/weighted": 0.3 * score,
            "reward/endings": ending,
            "reward/endings/weighted": -0.7 * ending,
        }
        assert {key: lap.info[key] for key in expected} == expected
        assert {type(lap.info[key]) for key in expected} == {float}


def constant(name: str, score: float) -> StepFunction:
    return StepFunction(name, lambda step: np.full(len(step.reward), score), score, score)


def test_the_order_of_the_sources_is_the_order_of_the_sum() -> None:
    small, large = constant("small", 1.0), constant("large", 1e16)
    one_way = [(small, 1.0), (large, 1.0), (large_again := constant("again", 1e16), -1.0)]
    other_way = [(large, 1.0), (large_again, -1.0), (small, 1.0)]
    total = []
    for sources in (one_way, other_way):
        env = AddRewards(MAKERS["Taxi"](), sources, keep=0.0)
        env.reset(seed=0)
        total.append(env.step(0)[1])
    assert total == [(1.0 + 1e16) - 1e16, (1e16 - 1e16) + 1.0] == [0.0, 1.0]


@every_env
def test_a_monitor_pays_nothing_and_logs_what_would_have_been_added(name: str) -> None:
    added = episodes(MAKERS[name], lambda env: AddRewards(env, ADDED))
    watched = episodes(MAKERS[name], lambda env: MonitorRewards(env, [MIXED, ENDINGS]))
    laps = [(lap, twin) for pair in zip(watched, added, strict=True) for lap, twin in zip(*pair, strict=True)]
    assert all(lap.total == lap.reward == lap.info["reward/env"] == lap.info["gold"] for lap, _ in laps)
    for key in ("reward/mixed", "reward/endings"):
        assert [lap.info[key] for lap, _ in laps] == [twin.info[key] for _, twin in laps]
    assert not any("weighted" in key for lap, _ in laps for key in lap.info)


def test_gold_stays_what_the_environment_says_and_its_own_reward_stays_the_innermost() -> None:
    first = StepFunction("first", lambda step: np.ones(len(step.reward)), 0, 1)
    tokens = ObservationFunction(lambda tokens: 0.1 * tokens[:, 0])

    def wrap(env: Env, potential: ObservationFunction = POTENTIAL) -> Env:
        return AddRewards(PotentialShaping(AddRewards(env, [(ENDINGS, 5.0)]), potential, 1.0), [(first, 2.0)])

    flattery = partial(gym.make, "tokenwalk/Flattery-v0", reward="proxy")
    laps = [lap for episode in episodes(flattery, partial(wrap, potential=tokens)) for lap in episode]
    assert all(lap.info["reward/env"] == lap.reward == lap.info["proxy"] for lap in laps)
    assert any(lap.info["gold"] != lap.info["proxy"] for lap in laps)
    laps = [lap for episode in episodes(MAKERS["Taxi"], wrap) for lap in episode]
    assert all(lap.info["reward/env"] == lap.info["gold"] == lap.reward for lap in laps)
    shaped = [lap.reward + 5.0 * lap.info["reward/endings"] + lap.info["reward/shaping"] for lap in laps]
    assert [lap.total for lap in laps] == [total + 2.0 for total in shaped]


# Shaping


@every_env
@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_the_shaping_of_an_episode_telescopes_and_keeps_the_potential_of_a_truncation(
    name: str, discount: float
) -> None:
    walked = episodes(MAKERS[name], lambda env: PotentialShaping(env, POTENTIAL, discount), steps=200)
    ends = set()
    for laps in walked:
        total = sum(discount**t * lap.info["reward/shaping"] for t, lap in enumerate(laps))
        last = laps[-1]
        kept = 0.0 if last.terminated else discount ** len(laps) * value(last.after)
        assert total == pytest.approx(kept - value(laps[0].before), rel=0, abs=1e-12)
        assert all(lap.total == lap.reward + lap.info["reward/shaping"] for lap in laps)
        ends.add((last.terminated, last.truncated))
    assert (False, True) in ends
    assert name == "Taxi" or any(terminated for terminated, _ in ends)


def test_a_shaping_that_forgets_the_potential_at_a_truncation_does_not_telescope() -> None:
    walked = episodes(MAKERS["Taxi"], lambda env: PotentialShaping(env, POTENTIAL, DISCOUNT))
    for laps in walked:
        last = laps[-1]
        forgotten = shaping_reward(DISCOUNT, np.array([True]), phi(one(last.before)), phi(one(last.after)))
        right = DISCOUNT * value(last.after) - value(last.before)
        assert last.info["reward/shaping"] == right
        assert abs(float(forgotten[0]) - right) > 1e-3


def test_the_potential_of_a_terminal_row_is_not_read() -> None:
    ended, now = np.array([True, False]), np.array([2.0, 2.0])
    assert shaping_reward(0.5, ended, now, np.array([np.nan, 3.0])).tolist() == [-2.0, -0.5]


@pytest.mark.parametrize("mode", [None, SAME, NEXT, DISABLED])
def test_the_potential_of_a_terminal_observation_is_never_asked_for(mode: AutoresetMode | None) -> None:
    asked: list[int] = []

    def watching(observation: Any) -> FloatArray:
        asked.extend(observation.tolist())
        return np.where(np.isin(observation, [5, 7, 11, 12, 15]), np.nan, 0.25 * observation)

    potential, make = ObservationFunction(watching), partial(gym.make, "FrozenLake-v1")
    if mode is None:
        walked = episodes(make, lambda env: PotentialShaping(env, potential, 1.0), steps=100)
        n_ends = sum(laps[-1].terminated for laps in walked)
    else:
        env = PotentialShapingVector(sync(make, mode), potential, 1.0)
        n_ends = sum(int(step[2].sum()) for step in play(env, mode, 60) if len(step) == 5)
    assert n_ends > 3
    assert set(asked) <= set(range(16)) - {5, 7, 11, 12, 15}


@dataclass
class Drifting:
    """A potential that changes each time it is asked, as one that is being trained does."""

    calls: int = 0

    def value(self, observation: Any) -> FloatArray:
        self.calls += 1
        return phi(observation) + self.calls


def test_a_potential_that_changes_meanwhile_still_telescopes_because_each_visit_asks_once() -> None:
    potential = Drifting()
    walked = episodes(MAKERS["Taxi"], lambda env: PotentialShaping(env, potential, 1.0), steps=18)
    begin = 0
    for laps in walked:
        total = sum(lap.info["reward/shaping"] for lap in laps)
        first, last = value(laps[0].before) + begin + 1, value(laps[-1].after) + begin + 1 + len(laps)
        assert total == pytest.approx(last - first, rel=0, abs=1e-12)
        begin += 1 + len(laps)
    assert potential.calls == begin + 1  # the last reset


def shaped_tables(
    mdp: TabularMDP, potential: FloatArray, discount: float, terminated: BoolArray
) -> TabularMDP:
    now = np.broadcast_to(potential[:, None, None], mdp.next_state.shape)
    shaping = shaping_reward(discount, terminated, now, potential[mdp.next_state])
    return replace(mdp, rewards={**mdp.rewards, "shaping": shaping})


@pytest.mark.parametrize("discount", [0.9, 0.99])
def test_shaping_moves_every_value_by_the_potential_and_no_optimal_action(discount: float) -> None:
    mdp = tabular_mdp(gym.make("FrozenLake-v1")).without_time_limit()
    potential = np.random.default_rng(0).normal(size=16)
    plain = solve(mdp, {"gold": 1.0}, discount=discount)
    actions = optimal_actions(mdp, plain, {"gold": 1.0})
    both = {"gold": 1.0, "shaping": 1.0}

    def shaped_optimum(used: float, ended: BoolArray, kl_coef: float = 0.0) -> tuple[TabularMDP, Solution]:
        shaped = shaped_tables(mdp, potential, used, ended)
        return shaped, solve(shaped, both, discount=discount, kl_coef=kl_coef)

    shaped, optimum = shaped_optimum(discount, mdp.terminated)
    np.testing.assert_allclose(optimum.value, plain.value - potential, rtol=0, atol=1e-12)
    inner = ~mdp.terminated.all(axis=(1, 2))  # in the others nothing is left to choose
    assert (optimal_actions(shaped, optimum, both)[0, inner] == actions[0, inner]).all()
    soft, shaped_soft = (
        solve(mdp, {"gold": 1.0}, discount=discount, kl_coef=0.1),
        shaped_optimum(discount, mdp.terminated, 0.1)[1],
    )
    np.testing.assert_allclose(shaped_soft.policy, soft.policy, rtol=0, atol=1e-12)
    np.testing.assert_allclose(shaped_soft.value, soft.value - potential, rtol=0, atol=1e-12)
    # The broken twins: a potential at the end, and a discount that is not the agent's.
    for used, ended in ((discount, np.zeros_like(mdp.terminated)), (discount - 0.1, mdp.terminated)):
        shaped, optimum = shaped_optimum(used, ended)
        assert (optimal_actions(shaped, optimum, both)[0, inner] != actions[0, inner]).any()


def test_the_wrapper_pays_what_the_shaped_tables_pay() -> None:
    mdp = tabular_mdp(gym.make("FrozenLake-v1"))
    potential = np.random.default_rng(0).normal(size=16)
    table = shaped_tables(mdp, potential, DISCOUNT, mdp.terminated).rewards["shaping"]
    shaping = ObservationFunction(lambda place: potential[place])
    make = partial(gym.make, "FrozenLake-v1")
    laps = [
        lap
        for episode in episodes(make, lambda env: PotentialShaping(env, shaping, DISCOUNT), steps=200)
        for lap in episode
    ]
    for lap in laps:
        outcome = mdp.next_state[lap.before, lap.action].tolist().index(lap.after)
        assert lap.info["reward/shaping"] == table[lap.before, lap.action, outcome]
    assert len(laps) > 100


# One sub-environment as many


def play(env: Vector, mode: AutoresetMode, steps: int, seed: int = 5) -> Iterator[Any]:
    """Yield everything that ``env`` says; where it does not reset its sub-environments, reset those that ended."""
    yield env.reset(seed=seed)
    for actions in sampled(env.action_space, steps, seed):
        observation, reward, terminated, truncated, info = env.step(actions)
        yield observation, reward, terminated, truncated, info
        ended = terminated | truncated
        if mode is DISABLED and ended.any():
            yield env.reset(options={"reset_mask": ended})


def sync(make: Callable[[], Env], mode: AutoresetMode, **options: Any) -> Vector:
    return SyncVectorEnv([make] * 3, autoreset_mode=mode, **options)


@every_mode
@every_env
@every_wrapper
def test_around_a_vector_environment_it_is_per_sub_environment_what_it_is_around_each_environment(
    name: str, mode: AutoresetMode, wrapper: str
) -> None:
    scalar, vector = WRAPPERS[wrapper]
    make = MAKERS[name]
    outside, inside = vector(sync(make, mode)), sync(lambda: scalar(make()), mode)
    said = list(zip(play(outside, mode, 60), play(inside, mode, 60), strict=True))
    for one_way, other_way in said:
        assert data_equivalence(one_way, other_way, exact=True), (one_way, other_way)
    ends = np.array([step[2] | step[3] for step, _ in said if len(step) == 5])
    assert ends.any(axis=0).all()
    assert len({tuple(row) for row in ends}) > 2 or name == "Taxi"  # sub-environments do not end together


@pytest.mark.parametrize("wrapper", ["add", "shape", "all three"])
def test_our_native_vector_environment_wrapped_is_per_sub_environment_the_wrapped_scalar_one(
    wrapper: str,
) -> None:
    scalar, vector = WRAPPERS[wrapper]
    arguments: dict[str, Any] = {
        "n_states": 4,
        "goal": 2,
        "slip": 0.3,
        "terminate_at_goal": True,
        "max_episode_steps": 5,
    }
    native = vector(gym.make_vec("tokenwalk/CounterWalk-v0", 3, **arguments))
    inside = sync(lambda: scalar(gym.make("tokenwalk/CounterWalk-v0", **arguments)), SAME)
    for one_way, other_way in zip(play(native, SAME, 60), play(inside, SAME, 60), strict=True):
        assert data_equivalence(one_way[:-1], other_way[:-1], exact=True)
        assert_same_info(one_way[-1], other_way[-1], 3, "info")


def test_a_token_task_wrapped_keeps_its_own_gold_in_every_sub_environment() -> None:
    written = StepFunction("written", lambda step: (step.next_observation < 6).sum(axis=1) / 5.0, 0, 1)
    native = AddRewardsVector(gym.make_vec("tokenwalk/Flattery-v0", 3, reward="proxy"), [(written, 0.5)])
    inside = sync(
        lambda: AddRewards(gym.make("tokenwalk/Flattery-v0", reward="proxy"), [(written, 0.5)]), SAME
    )
    apart = 0
    for one_way, other_way in zip(play(native, SAME, 40), play(inside, SAME, 40), strict=True):
        assert data_equivalence(one_way[:-1], other_way[:-1], exact=True)
        assert_same_info(one_way[-1], other_way[-1], 3, "info")
        for info in (one_way[-1], one_way[-1].get("final_info", {})):
            if "reward/env" in info:
                assert np.array_equal(info["reward/env"], np.where(info["_reward/env"], info["proxy"], 0.0))
                apart += int((info["gold"] != info["proxy"])[info["_gold"]].sum())
    assert apart > 5


def test_gymnasiums_native_cart_poles_are_not_scored_while_they_reset() -> None:
    plain, scored = (gym.make_vec("CartPole-v1", 4, max_episode_steps=14) for _ in range(2))
    env = PotentialShapingVector(AddRewardsVector(scored, ADDED), POTENTIAL, DISCOUNT)
    assert env.metadata["autoreset_mode"] is NEXT
    before, _ = plain.reset(seed=2)
    env.reset(seed=2)
    resetting, n_resets = np.zeros(4, dtype=np.bool_), 0
    for actions in random_actions(plain, 80, 0):
        after, own, terminated, truncated, _ = plain.step(actions)
        observation, total, *_, info = env.step(actions)
        assert np.array_equal(observation, after)
        own = own.astype(np.float64)
        step = EnvStep(before, actions, after, own, terminated, truncated)
        value_next = np.where(terminated, 0.0, phi(after))
        expected = own + 0.3 * mixed(step) + -0.7 * endings(step) + (DISCOUNT * value_next - phi(before))
        assert np.array_equal(total, np.where(resetting, 0.0, expected))
        assert np.array_equal(info["_reward/shaping"], ~resetting)
        assert np.array_equal(info["_reward/env"], ~resetting)
        assert (info["reward/mixed"][resetting] == 0).all()
        n_resets += int(resetting.sum())
        before, resetting = after, terminated | truncated
    assert n_resets > 10


class Claims(VectorWrapper):
    """A vector environment that says of itself what is not true."""

    def __init__(self, env: Vector, mode: AutoresetMode, final_is_first: bool = False) -> None:
        super().__init__(env)
        self.metadata = {**env.metadata, "autoreset_mode": mode}
        self._final_is_first = final_is_first

    def step(self, actions: Any) -> Any:
        observation, *rest, info = self.env.step(actions)
        if self._final_is_first and "final_obs" in info:
            info["final_obs"][info["_final_obs"]] = observation[info["_final_obs"]]
        return observation, *rest, info


def largest_gap(env: Vector, plain: Vector, mode: AutoresetMode) -> float:
    """Return how far the shaping of any sub-environment's episode is from telescoping, or from 0 in a step that resets."""
    gap, envs = 0.0, range(plain.num_envs)
    (begun, _), laps, totals, waits = plain.reset(seed=1), np.zeros(3), np.zeros(3), np.zeros(3, dtype=bool)
    env.reset(seed=1)
    start = phi(begun)
    for actions in random_actions(plain, 60, 1):
        observation, own, terminated, truncated, info = plain.step(actions)
        shaping, ended = env.step(actions)[1] - own, terminated | truncated
        gap = max(gap, float(np.abs(shaping[waits]).max(initial=0.0)))
        start = np.where(waits, phi(observation), start)
        totals += np.where(waits, 0.0, DISCOUNT**laps * shaping)
        laps += ~waits
        for env_index in (env_index for env_index in envs if ended[env_index]):
            last = info["final_obs"][env_index] if mode is SAME else observation[env_index]
            kept = 0.0 if terminated[env_index] else DISCOUNT ** laps[env_index] * value(last)
            gap = max(gap, abs(totals[env_index] - (kept - start[env_index])))
            totals[env_index] = laps[env_index] = 0
        if mode is DISABLED and ended.any():
            observation, _ = plain.reset(options={"reset_mask": ended.copy()})
            env.reset(options={"reset_mask": ended})
        if mode is not NEXT:
            start = np.where(ended, phi(observation), start)
        waits = ended & (mode is NEXT)
    return gap


@every_mode
@pytest.mark.parametrize("name", ["FrozenLake", "CounterWalk", "Taxi"])
def test_the_shaping_of_every_sub_environment_telescopes_in_every_autoreset_mode(
    name: str, mode: AutoresetMode
) -> None:
    plain = sync(MAKERS[name], mode)
    env = PotentialShapingVector(sync(MAKERS[name], mode), POTENTIAL, DISCOUNT)
    assert largest_gap(env, plain, mode) < 1e-12


@pytest.mark.parametrize(
    ("mode", "lie"),
    [
        (NEXT, lambda env: Claims(env, DISABLED)),
        (NEXT, lambda env: Claims(env, SAME)),
        (SAME, lambda env: Claims(env, NEXT)),
        (SAME, lambda env: Claims(env, SAME, final_is_first=True)),
    ],
    ids=["next is disabled", "next is same", "same is next", "no true final observation"],
)
def test_under_the_wrong_autoreset_mode_it_would_not_telescope(mode: AutoresetMode, lie: Any) -> None:
    make = partial(gym.make, "tokenwalk/CounterWalk-v0", 5, n_states=4)  # truncated only
    liar = lie(sync(make, mode))
    if liar.metadata["autoreset_mode"] is SAME and mode is NEXT:
        with pytest.raises(ValueError, match="final_obs"):
            largest_gap(PotentialShapingVector(liar, POTENTIAL, DISCOUNT), sync(make, mode), mode)
    else:
        gap = largest_gap(PotentialShapingVector(liar, POTENTIAL, DISCOUNT), sync(make, mode), mode)
        assert gap > 1e-2


class TellsGold(Orchard):
    """Says sometimes what the true reward is, and always in a reset."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, _ = super().reset(seed=seed)
        return observation, {"gold": 7.0}

    def step(self, action: Any) -> Any:
        *said, info = super().step(action)
        return *said, info | ({"gold": 7.0} if self._tree % 2 else {})


@every_mode
@every_wrapper
def test_gold_is_filled_in_for_the_sub_environments_that_say_nothing_of_it(
    mode: AutoresetMode, wrapper: str
) -> None:
    scalar, vector = WRAPPERS[wrapper]
    outside, inside = vector(sync(TellsGold, mode)), sync(lambda: scalar(TellsGold()), mode)
    golds: list[float] = []
    for one_way, other_way in zip(play(outside, mode, 40), play(inside, mode, 40), strict=True):
        assert data_equivalence(one_way, other_way, exact=True)
        golds += one_way[-1].get("gold", np.zeros(0)).tolist()
    assert 0.2 < np.mean(np.array(golds) == 7.0) < 0.9


class OneInfo(VectorWrapper):
    """A vector environment that hands out the same dictionaries at every step."""

    def __init__(self, env: Vector) -> None:
        super().__init__(env)
        self.info: dict[str, Any] = {"final_info": {}}

    def step(self, actions: Any) -> Any:
        *said, info = self.env.step(actions)
        self.info["final_info"].update(info.pop("final_info", {}))
        self.info.update(info)
        return *said, self.info


def test_what_the_environment_keeps_for_its_infos_is_not_written_into() -> None:
    env = OneInfo(sync(MAKERS["CounterWalk"], SAME))
    wrapped = AddRewardsVector(env, ADDED)
    ends = sum(int(step[3].sum()) for step in play(wrapped, SAME, 20) if len(step) == 5)
    assert ends > 2
    assert set(env.info) <= {"final_info", "_final_info", "final_obs", "_final_obs"}
    assert env.info["final_info"].keys() <= {"TimeLimit.truncated", "_TimeLimit.truncated"}


def test_a_copy_of_a_batch_shares_nothing_with_it_in_any_space() -> None:
    sequence = gym.spaces.Sequence(gym.spaces.Box(0, 1, (2,)))
    space = gym.spaces.Dict({"box": gym.spaces.Box(0, 1, (2,)), "list": sequence})
    batch = {"box": np.ones((2, 2), dtype=np.float32), "list": ((np.ones(2),), (np.ones(2), np.ones(2)))}
    copied = copy_batch(space, batch)
    assert data_equivalence(copied, batch, exact=True)
    batch["box"][0, 0] = 5  # type: ignore[index]
    batch["list"][1][1][0] = 5  # type: ignore[index]
    assert (copied["box"] == 1).all()
    assert (copied["list"][1][1] == 1).all()


@every_mode
def test_a_buffer_that_is_reused_and_arrays_that_are_scribbled_on_change_nothing(mode: AutoresetMode) -> None:
    vector = WRAPPERS["all three"][1]
    clean = play(vector(sync(MAKERS["FrozenLake"], mode)), mode, 40)
    reused = play(vector(sync(MAKERS["FrozenLake"], mode, copy=False)), mode, 40)
    for expected, said in zip(clean, reused, strict=True):
        assert data_equivalence(expected, said, exact=True)
        if len(said) == 5:
            said[1][...] = np.nan
            for key in ("reward/env", "gold", "reward/mixed", "reward/shaping"):
                said[4].get(key, np.zeros(3))[...] = np.nan


@dataclass
class Counting:
    """A potential that counts the rows that it was asked for, and how often it was copied."""

    rows: list[int] = field(default_factory=list)
    copies: int = 0

    def value(self, observation: Any) -> FloatArray:
        self.rows.append(len(observation))
        return phi(observation)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Counting":
        self.copies += 1
        return self


def test_a_masked_reset_visits_only_the_sub_environments_that_it_resets() -> None:
    potential = Counting()
    env = PotentialShapingVector(sync(MAKERS["Taxi"], DISABLED), potential, DISCOUNT)
    plain = sync(MAKERS["Taxi"], DISABLED)
    begun, _ = env.reset(seed=1)
    plain.reset(seed=1)
    mask = np.array([True, False, False])
    options = {"reset_mask": mask}
    fresh, _ = env.reset(options=options)
    plain.reset(options={"reset_mask": mask.copy()})
    assert potential.rows == [3, 1]
    now = np.where(mask, phi(fresh), phi(begun))
    after, own, *_ = plain.step([0, 1, 2])
    assert env.step([0, 1, 2])[1].tolist() == (own + (DISCOUNT * phi(after) - now)).tolist()


def test_an_environment_that_resets_all_sub_environments_whatever_the_mask_starts_anew_in_all() -> None:
    env = PotentialShapingVector(gym.make_vec("tokenwalk/CounterWalk-v0", 2, n_states=9), POTENTIAL, 1.0)
    env.reset(seed=0)
    for _ in range(4):
        env.step([0, 0])
    observation, _ = env.reset(options={"reset_mask": np.array([True, False])})
    assert observation.tolist() == [0, 0]
    shaping = env.step([0, 0])[4]["reward/shaping"]
    assert shaping.tolist() == [np.sin(2.0) - np.sin(1.0)] * 2


def test_no_step_of_a_sub_environment_that_terminated_and_was_not_reset() -> None:
    make = partial(gym.make, "tokenwalk/CounterWalk-v0", goal=1, terminate_at_goal=True)
    env = AddRewardsVector(sync(make, DISABLED), ADDED)
    with pytest.raises(EpisodeEndedError, match=r"call reset\(\) before step"):
        env.step([0, 1, 1])
    with pytest.raises(EpisodeEndedError, match="reset all of them"):
        env.reset(options={"reset_mask": np.array([True, False, False])})
    env.reset(seed=0)
    assert env.step([0, 1, 0])[2].tolist() == [True, False, True]
    for env_index, waiting in ((2, r"\[0, 2\]"), (0, r"\[0\]")):
        with pytest.raises(EpisodeEndedError, match=f"sub-environments {waiting} have terminated"):
            env.step([1, 1, 1])
        env.reset(options={"reset_mask": np.arange(3) == env_index})
    assert env.step([1, 1, 0])[2].tolist() == [False, False, True]


# Processes, copies, specs

PICKLED = (StepFunction("own", operator.attrgetter("reward"), -1, 1), 0.5)
SINE = ObservationFunction(np.sin)


def picklable(mode: AutoresetMode, cls: Any, inside: bool) -> Vector:
    make = partial(
        gym.make, "tokenwalk:tokenwalk/CounterWalk-v0", 4, n_states=4, goal=2, terminate_at_goal=True
    )
    # Not fork: the process may hold torch's threads by now, and Python warns of that.
    options = {"context": "forkserver"} if cls is AsyncVectorEnv else {}
    if not inside:
        vector = cls([make] * 2, autoreset_mode=mode, **options)
        return PotentialShapingVector(AddRewardsVector(vector, [PICKLED]), SINE, DISCOUNT)
    wrappers = (
        partial(AddRewards, sources=[PICKLED]),
        partial(PotentialShaping, potential=SINE, discount=DISCOUNT),
    )
    return gym.make_vec(
        make.args[0],
        2,
        vectorization_mode="async" if cls is AsyncVectorEnv else "sync",
        vector_kwargs={"autoreset_mode": mode} | options,
        wrappers=wrappers,
        max_episode_steps=4,
        **make.keywords,
    )


@pytest.mark.parametrize(("mode", "inside"), [(SAME, True), (NEXT, True), (DISABLED, False)])
def test_in_other_processes_it_is_the_same(mode: AutoresetMode, inside: bool) -> None:
    here, elsewhere = (picklable(mode, cls, inside) for cls in (SyncVectorEnv, AsyncVectorEnv))
    try:
        said = list(zip(play(here, mode, 30), play(elsewhere, mode, 30), strict=True))
    finally:
        elsewhere.close()
    for one_way, other_way in said:
        assert data_equivalence(one_way[:-1], other_way[:-1], exact=True)
        assert_same_info(one_way[-1], other_way[-1], 2, "info")
    assert len({reward for step, _ in said if len(step) == 5 for reward in step[1]}) > 3


@pytest.mark.parametrize(
    "twin", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("mode", [None, SAME, NEXT, DISABLED])
def test_a_copy_in_the_middle_of_an_episode_goes_on_like_the_original(
    mode: AutoresetMode | None, twin: Callable[[Any], Any]
) -> None:
    env: Any
    if mode is None:
        make = partial(gym.make, "tokenwalk/CounterWalk-v0", slip=0.3)
        env = PotentialShaping(AddRewards(make(), [PICKLED]), SINE, DISCOUNT)
    else:
        env = picklable(mode, SyncVectorEnv, inside=False)
    actions = sampled(env.action_space, 7)
    env.reset(seed=0)
    env.step(actions[0] * 0 + 1)
    other = twin(env)
    for action in actions[:2]:
        assert data_equivalence(env.step(action), other.step(action), exact=True)


def test_a_spec_tells_the_wrappers_and_makes_the_same_environment_again() -> None:
    shaped = PotentialShaping(AddRewards(MAKERS["CartPole"](), ADDED, keep=0.5), POTENTIAL, DISCOUNT)
    env = MonitorRewards(shaped, [StepFunction("again", endings, 0, 3)])
    assert env.spec is not None
    told = [(one.name, one.kwargs) for one in env.spec.additional_wrappers]
    assert told == [
        ("AddRewards", {"sources": ADDED, "keep": 0.5}),
        ("PotentialShaping", {"potential": POTENTIAL, "discount": DISCOUNT}),
        ("MonitorRewards", {"sources": (StepFunction("again", endings, 0, 3),)}),
    ]
    again = gym.make(env.spec)
    assert again.spec == env.spec
    walk, other_walk = [(one.reset(seed=4), *map(one.step, [1, 0, 1])) for one in (env, again)]
    assert data_equivalence(walk, other_walk, exact=True)
    assert pickle.loads(pickle.dumps(env.spec)) == env.spec


def test_reading_the_spec_copies_no_potential() -> None:
    potential, function = Counting(), ObservationFunction(Counting().value)
    env = PotentialShaping(MAKERS["Taxi"](), potential, DISCOUNT)
    for _ in range(3):
        assert env.spec is not None
        assert env.spec.additional_wrappers[0].kwargs["potential"] is potential  # type: ignore[index]
    assert potential.copies == 0
    assert env.spec is not None
    assert gym.make(env.spec).get_wrapper_attr("_mechanism").potential is potential
    outer = gym.wrappers.TimeLimit(env, 3)
    for _ in range(3):
        assert outer.spec is not None
    assert (
        potential.copies == 1
    )  # Gymnasium's own copy of the inner spec, once; returning itself, it costs nothing
    assert copy.deepcopy(function) is function
    assert copy.deepcopy(ENDINGS) is ENDINGS


@every_env
@every_wrapper
def test_gymnasiums_checker_has_no_complaint_that_it_has_not_without_the_wrapper(
    name: str, wrapper: str
) -> None:
    scalar, _ = WRAPPERS[wrapper]
    said = []
    for env in (MAKERS[name]().unwrapped, scalar(MAKERS[name]().unwrapped)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_env(env, skip_render_check=True)
        said.append({str(warning.message) for warning in caught})
    assert not {text for text in said[1] - said[0] if "different from the unwrapped version" not in text}


def test_gymnasiums_checker_does_complain_of_a_wrapper_that_pays_at_random() -> None:
    class Random(gym.RewardWrapper[Any, Any]):
        def reward(self, reward: Any) -> float:
            return float(reward) + draws.normal()

    draws = np.random.default_rng(0)
    env = Random(MAKERS["Taxi"]().unwrapped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(AssertionError, match="rewards are not equivalent"):
            check_env(env, skip_render_check=True)


# Refusals


@dataclass(frozen=True)
class Odd:
    """A source that returns ``result`` from its second step on, whatever it is shown."""

    result: Any
    name: str = "odd"
    low: float = -1.0
    high: float = 1.0
    calls: list[int] = field(default_factory=list)

    def score(self, step: EnvStep) -> Any:
        self.calls.append(1)
        return np.zeros(len(step.reward)) if len(self.calls) == 1 else self.result


BROKEN = [
    (np.array([np.nan]), "returned nan for observation 5, action 1, next observation 6, reward -1.0"),
    (np.array([np.inf]), "returned inf"),
    (np.array([-np.inf]), "returned -inf"),
    (np.array([1.5]), re.escape("returned 1.5 for observation") + ".*its range is -1.0 to 1.0"),
    (np.zeros(2), re.escape("returned float64 [2] for 1 rows, the first observation 5")),
    (np.zeros((1, 1)), re.escape("returned float64 [1, 1]")),
    (np.zeros(1, dtype=np.float32), re.escape("returned float32 [1]")),
    (np.zeros(1, dtype=np.int64), re.escape("returned int64 [1]")),
    (0.5, "returned float"),
    (None, "returned NoneType"),
    ([0.5], "returned list"),
]


class Corridor(gym.Env[Any, Any]):
    """Counts up from 4, reward -1; it says that it ends at 7 and goes on all the same."""

    observation_space = gym.spaces.Discrete(99)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = 4
        return self.place, {}

    def step(self, action: Any) -> Any:
        self.place += int(action)
        return self.place, -1.0, self.place >= 7, False, {}


@pytest.mark.parametrize(("result", "complaint"), BROKEN, ids=lambda case: str(case)[:20])
@pytest.mark.parametrize("in_reward", [True, False])
def test_a_source_that_breaks_its_contract_is_named_with_what_it_was_given(
    result: Any, complaint: str, in_reward: bool
) -> None:
    for vector in (False, True):
        env: Any = SyncVectorEnv([Corridor]) if vector else Corridor()
        source = Odd(result)
        if in_reward:
            env = (AddRewardsVector if vector else AddRewards)(env, [(source, 0.0)])
        else:
            env = (MonitorRewardsVector if vector else MonitorRewards)(env, [source])
        act = [1] if vector else 1
        env.reset(seed=0)
        assert float(np.sum(env.step(act)[1])) == -1.0
        with pytest.raises(SourceContractError, match=f"source 'odd' {complaint}"):
            env.step(act)
        # Half a step is no step: it must not go on from a place that was not scored.
        with pytest.raises(EpisodeEndedError, match="reset"):
            env.step(act)
        env.reset(seed=0)
        source.calls.clear()
        assert float(np.sum(env.step(act)[1])) == -1.0


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        (np.array([np.nan]), "returned nan for observation 4: "),
        (np.array([np.inf]), "returned inf"),
        (np.zeros(3), re.escape("returned float64 [3] for 1 rows, the first observation 4")),
        (np.zeros(1, dtype=np.float32), re.escape("returned float32 [1]")),
        (1.0, "returned float"),
    ],
)
def test_a_potential_that_breaks_its_contract_is_named_with_what_it_was_given(
    result: Any, complaint: str
) -> None:
    def hopeful(observation: Any) -> Any:
        return np.zeros(len(observation)) if not broken else result

    broken: list[int] = []
    potential = ObservationFunction(hopeful)
    for env in (
        PotentialShaping(Corridor(), potential, 1.0),
        PotentialShapingVector(SyncVectorEnv([Corridor]), potential, 1.0),
    ):
        broken.clear()
        env.reset(seed=0)
        broken.append(1)
        with pytest.raises(SourceContractError, match=f"hopeful' {complaint}"):
            env.reset(seed=0)
        with pytest.raises(EpisodeEndedError, match="reset"):
            env.step([1])


def test_a_bad_action_leaves_the_episode_as_it_was() -> None:
    env, plain = (gym.make("tokenwalk/CounterWalk-v0", n_states=5) for _ in range(2))
    shaped = PotentialShaping(env, POTENTIAL, DISCOUNT)
    shaped.reset(seed=0)
    plain.reset(seed=0)
    now = 0
    for _ in range(3):
        with pytest.raises(ValueError, match="give an integer from 0 to 1"):
            shaped.step(7)
        after, own, *_ = plain.step(0)
        assert shaped.step(0)[1] == own + (DISCOUNT * np.sin(1.0 + after) - np.sin(1.0 + now))
        now = after


@pytest.mark.parametrize("wrapper", ["add", "shape"])
def test_a_step_before_reset_and_after_termination_is_refused(wrapper: str) -> None:
    env = WRAPPERS[wrapper][0](Corridor())
    with pytest.raises(EpisodeEndedError, match=r"call reset\(\)"):
        env.step(0)
    env.reset(seed=0)
    assert [env.step(1)[2] for _ in range(3)] == [False, False, True]
    with pytest.raises(EpisodeEndedError, match=r"call reset\(\)"):
        env.step(0)


def named(name: Any, low: float = 0.0, high: float = 1.0) -> StepSource:
    return StepFunction(name, endings, low, high)


@pytest.mark.parametrize(
    ("sources", "error", "complaint"),
    [
        ([(endings, 1.0)], SourceContractError, r"is no source.*StepFunction\(name, function, low, high\)"),
        ([(named(""), 1.0)], SourceContractError, "is called ''"),
        ([(named(3), 1.0)], SourceContractError, "is called 3"),
        ([(named("a", 1.0, 0.0), 1.0)], SourceContractError, "'a' states the range 1.0 to 0.0"),
        ([(named("a", float("nan")), 1.0)], SourceContractError, "'a' states the range nan to 1.0"),
        ([(named("a"), 1.0), (named("a"), 1.0)], SourceContractError, "'a' would be logged as 'reward/a'"),
        ([(named("env"), 1.0)], SourceContractError, "'env' would be logged as 'reward/env'"),
        (
            [(named("a"), 1.0), (named("a/weighted"), 1.0)],
            SourceContractError,
            "'a/weighted' would be logged",
        ),
        ([(named("a"), float("nan"))], ValueError, "the weight of 'a' is nan"),
        ([(named("a"), True)], ValueError, "the weight of 'a' is True"),
        ([(named("a"), "1")], ValueError, "the weight of 'a' is '1'"),
        ([named("a")], ValueError, "give pairs of a source and its weight"),
    ],
)
def test_sources_and_weights_that_make_no_sense_are_refused_by_name(
    sources: Any, error: type[ValueError], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        AddRewards(Corridor(), sources)
    with pytest.raises(error, match=complaint):
        AddRewardsVector(SyncVectorEnv([Corridor]), sources)


def test_what_cannot_be_shaped_or_kept_is_refused() -> None:
    for discount in (0, -0.5, 1.01, float("nan"), float("inf"), True, "0.9", None):
        with pytest.raises(ValueError, match=re.escape(f"discount is {discount!r}")):
            PotentialShaping(Corridor(), POTENTIAL, discount)  # type: ignore[arg-type]
    for discount in (1, 1.0, 1e-9, np.float64(0.5)):
        assert PotentialShaping(Corridor(), POTENTIAL, discount).spec is None
    with pytest.raises(SourceContractError, match=r"no potential.*ObservationFunction\(function\)"):
        PotentialShaping(Corridor(), phi, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="keep is inf"):
        AddRewards(Corridor(), ADDED, keep=float("inf"))
    with pytest.raises(SourceContractError, match="is no source"):
        MonitorRewards(Corridor(), [endings])  # type: ignore[list-item]


def test_a_vector_environment_that_does_not_say_how_it_resets_is_refused() -> None:
    silent = SyncVectorEnv([Corridor])
    del silent.metadata["autoreset_mode"]
    with pytest.raises(ValueError, match="autoreset_mode None in its metadata"):
        MonitorRewardsVector(silent, [ENDINGS])
    with pytest.raises(
        (TypeError, AssertionError), match="VectorEnv"
    ):  # Gymnasium's own, the second before 1.3
        MonitorRewardsVector(Corridor(), [ENDINGS])  # type: ignore[arg-type]
    with pytest.raises((TypeError, AssertionError), match=r"gymnasium\.Env"):
        MonitorRewards(SyncVectorEnv([Corridor]), [ENDINGS])  # type: ignore[arg-type]


def test_a_name_that_is_logged_already_is_refused_not_overwritten() -> None:
    twice: list[tuple[Any, Any]] = [
        (MonitorRewards(AddRewards(Corridor(), ADDED), [MIXED]), 0),
        (MonitorRewardsVector(AddRewardsVector(SyncVectorEnv([Corridor]), ADDED), [MIXED]), [0]),
        (PotentialShaping(PotentialShaping(Corridor(), POTENTIAL, 1.0), POTENTIAL, 1.0), 0),
    ]
    for env, action in twice:
        env.reset(seed=0)
        with pytest.raises(
            SourceContractError, match=r"'reward/(mixed|shaping)' is in the environment's info"
        ):
            env.step(action)
