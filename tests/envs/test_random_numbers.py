"""The counter-based draws: published values, uniformity, independence; sub-environments against a naive simulation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwalk.envs.checks import check_seed
from tokenwalk.envs.random_numbers import (
    MASK,
    EpisodeClocks,
    env_seeds,
    episode_stream,
    mix,
    random_key,
    uniform,
)

Floats = npt.NDArray[np.float64]
Draws = Callable[
    [Any, Any, Any], Floats
]  # (sub-environment keys, episodes, times), broadcast, to numbers in [0, 1)
N = 1 << 16
words = st.integers(0, MASK)


def draws(key: Any, episode: Any, time: Any) -> Floats:
    """Return the draws of the module under test."""
    key, episode, time = (np.atleast_1d(word).astype(np.uint64) for word in (key, episode, time))
    return np.asarray(uniform(episode_stream(key, episode), time))


def counted_draws(key: Any, episode: Any, time: Any) -> Floats:
    """Return a broken twin: an equidistributed counter that is never mixed."""
    key, episode, time = (np.atleast_1d(word).astype(np.uint64) for word in (key, episode, time))
    counter = (key + episode * np.uint64(3) + time) * np.uint64(0x9E3779B97F4A7C15)
    return np.asarray((counter >> np.uint64(11)) * 2.0**-53)


def lumpy_draws(key: Any, episode: Any, time: Any) -> Floats:
    """Return a broken twin: independent, but not uniform."""
    return draws(key, episode, time) ** 1.1


COUNT = np.arange(N)
# Each axis of the counter alone, and two of them together: what a run of sub-environments, episodes or steps would see.
SERIES: dict[str, Callable[[Draws], Floats]] = {
    "times": lambda source: source(7, 0, COUNT),
    "episodes": lambda source: source(7, COUNT, 1),
    "sub-environments": lambda source: source(COUNT, 0, 1),
    "large sub-environments": lambda source: source(COUNT + 2**40, 3, 1),
    "sub-environments and times": lambda source: source(COUNT[:256, None], 0, COUNT[None, :256]).ravel(),
}
every_series = pytest.mark.parametrize("name", list(SERIES))


def chi_square_excess(values: Floats, bins: int = 256) -> float:
    """Return how many deviations the chi-square statistic lies from its mean, ``bins - 1``."""
    counts = np.bincount((values * bins).astype(np.int64), minlength=bins)
    expected = len(values) / bins
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - (bins - 1)) / (2.0 * (bins - 1)) ** 0.5


def correlation_excess(left: Floats, right: Floats) -> float:
    """Return the correlation in standard errors, 1/sqrt(n) for n pairs of independent uniforms."""
    return float(np.mean((left - 0.5) * (right - 0.5)) * 12 * np.sqrt(len(left)))


def lagged_excess(values: Floats) -> float:
    """Return the largest correlation, in standard errors, of a series with itself 1, 2, 3 and 16 later."""
    return max(abs(correlation_excess(values[:-lag], values[lag:])) for lag in (1, 2, 3, 16))


def test_the_draws_are_splitmix64s_published_outputs() -> None:
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [uniform(1234567, time) for time in range(5)] == [
        (output >> 11) * 2.0**-53 for output in published
    ]


def unmix(word: int) -> int:
    """Return the word that ``mix`` maps to ``word``: its three steps, each undone."""
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        word = _undo_shift(word, shift) * pow(factor, -1, 1 << 64) & MASK
    return word


def _undo_shift(word: int, shift: int) -> int:
    """Return x with x ^ (x >> shift) == word."""
    undone = word
    for _ in range(64 // shift + 1):
        undone = word ^ (undone >> shift)
    return undone


@given(words)
def test_mix_is_a_bijection(word: int) -> None:
    assert unmix(mix(word)) == word


@given(words)
def test_mix_changes_about_half_of_the_bits_when_one_changes(word: int) -> None:
    changed = [(mix(word) ^ mix(word ^ (1 << bit))).bit_count() for bit in range(64)]
    assert 24 < np.mean(changed) < 40


@given(st.lists(st.tuples(words, words, st.integers(0, 10**6)), min_size=1, max_size=8))
def test_one_sub_environment_and_many_draw_the_same_bits(rows: list[tuple[int, int, int]]) -> None:
    key, episode, time = (np.array(column, dtype=np.uint64) for column in zip(*rows, strict=True))
    one_by_one = [uniform(episode_stream(*row[:2]), row[2]) for row in rows]
    assert uniform(episode_stream(key, episode), time).tolist() == one_by_one
    assert all(0 <= draw < 1 for draw in one_by_one)


@every_series
def test_the_draws_are_uniform(name: str) -> None:
    values = SERIES[name](draws)
    assert abs(chi_square_excess(values)) < 4
    assert abs(values.mean() - 0.5) < 4 / np.sqrt(12 * len(values))


@every_series
def test_neighboring_draws_are_uncorrelated(name: str) -> None:
    assert lagged_excess(SERIES[name](draws)) < 4


@pytest.mark.parametrize(("key", "episode", "time"), [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1)])
def test_neighboring_sub_environments_episodes_and_times_are_independent(
    key: int, episode: int, time: int
) -> None:
    grid = np.arange(64)
    envs, episodes, times = grid[:, None, None], grid[None, :, None], grid[None, None, :16]
    here = draws(envs, episodes, times).ravel()
    there = draws(envs + key, episodes + episode, times + time).ravel()
    assert abs(correlation_excess(here, there)) < 4
    # Not only uncorrelated: the pairs fill the unit square evenly.
    assert abs(chi_square_excess((np.floor(here * 16) + there) / 16)) < 4


def test_an_unmixed_counter_and_a_lumpy_source_are_caught() -> None:
    assert lagged_excess(SERIES["times"](counted_draws)) > 4
    assert abs(chi_square_excess(SERIES["times"](lumpy_draws))) > 4


def test_no_two_of_a_million_streams_are_equal() -> None:
    keys, episodes = np.meshgrid(np.arange(1000, dtype=np.uint64), np.arange(1000, dtype=np.uint64))
    assert len(np.unique(episode_stream(keys.ravel(), episodes.ravel()))) == 1_000_000


class NaiveClocks:
    """What ``EpisodeClocks`` must be, one sub-environment and one step at a time."""

    def __init__(self, keys: list[int], limit: int | None) -> None:
        self.keys, self.limit = keys, limit
        self.episode, self.elapsed = [0] * len(keys), [0] * len(keys)

    def reset(self, seeds: list[int | None]) -> None:
        for env_index, seed in enumerate(seeds):
            self.elapsed[env_index] = 0
            self.episode[env_index] = self.episode[env_index] + 1 if seed is None else 0
            self.keys[env_index] = self.keys[env_index] if seed is None else seed

    def tick(self) -> list[bool]:
        self.elapsed = [steps + 1 for steps in self.elapsed]
        return [self.limit is not None and steps >= self.limit for steps in self.elapsed]

    def sample(self) -> list[float]:
        return [
            uniform(episode_stream(*row[:2]), row[2])
            for row in zip(self.keys, self.episode, self.elapsed, strict=True)
        ]

    def restart(self, ended: npt.NDArray[np.bool_]) -> None:
        for env_index in np.flatnonzero(ended):
            self.episode[env_index] += 1
            self.elapsed[env_index] = 0


@given(st.data())
def test_sub_environments_end_and_restart_as_in_a_naive_simulation(data: st.DataObject) -> None:
    num_envs = data.draw(st.integers(1, 5))
    limit = data.draw(st.none() | st.integers(1, 6))
    flags = st.lists(st.booleans(), min_size=num_envs, max_size=num_envs)
    seeds = st.lists(st.none() | words, min_size=num_envs, max_size=num_envs)
    keys = data.draw(st.lists(words, min_size=num_envs, max_size=num_envs))
    envs, naive = EpisodeClocks(num_envs, limit), NaiveClocks(list(keys), limit)
    envs.reset(keys, np.random.default_rng(0))
    for _ in range(data.draw(st.integers(0, 25))):
        if data.draw(st.integers(0, 9)) == 0:
            again = data.draw(seeds)
            envs.reset(again, np.random.default_rng(0))
            naive.reset(again)
        truncated = envs.tick()
        assert truncated.tolist() == naive.tick()
        assert envs.sample().tolist() == naive.sample()
        some = np.flatnonzero(data.draw(flags))
        assert envs.sample(some).tolist() == [naive.sample()[env_index] for env_index in some]
        ended = truncated | np.array(data.draw(flags))
        if ended.any():
            envs.restart(np.flatnonzero(ended))
            naive.restart(ended)
        assert envs.elapsed.tolist() == naive.elapsed


def test_sub_environments_without_a_seed_take_keys_from_the_generator() -> None:
    first, second, other = (EpisodeClocks(3, None) for _ in range(3))
    for envs, seed in ((first, 1), (second, 1), (other, 2)):
        assert not envs.started
        envs.reset([None] * 3, np.random.default_rng(seed))
        assert envs.started
    assert first.sample().tolist() == second.sample().tolist()
    assert len({*first.sample(), *other.sample()}) == 6


def test_an_integer_seeds_sub_environment_i_with_its_sum_with_i() -> None:
    assert env_seeds(5, 3) == [5, 6, 7]
    assert env_seeds(np.int64(5), 2) == [5, 6]
    assert env_seeds([3, None, np.uint8(4)], 3) == [3, None, 4]
    assert env_seeds(None, 2) == [None, None]


@pytest.mark.parametrize(
    "bad", [-1, 1.0, True, np.True_, "1", float("nan"), [1], [1, -2], [1, True], [1, 2, 3], ["1", "2"]]
)
def test_a_bad_seed_is_named(bad: Any) -> None:
    with pytest.raises(ValueError, match="seed"):
        env_seeds(bad, 2)


def test_a_seed_is_an_integer_of_zero_or_more() -> None:
    assert check_seed(np.uint64(2**63)) == 2**63
    with pytest.raises(ValueError, match="seed is -1: give an integer of 0 or more"):
        check_seed(-1)


def test_a_random_key_is_any_word_of_64_bits() -> None:
    keys = [random_key(np.random.default_rng(seed)) for seed in range(200)]
    assert len(set(keys)) == 200
    assert max(keys) > 2**63
    assert all(0 <= key <= MASK for key in keys)
