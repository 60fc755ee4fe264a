"""Random draws for one lane or many: a counter-based generator keyed by lane, episode and time.

A draw is a pure function of (key, episode, time), so lane i of many draws exactly what a single environment
with the same key draws, in whatever order lanes end and start. The generator is SplitMix64 (Steele, Lea and
Flood 2014, "Fast splittable pseudorandom number generators"), whose state is a counter. Every function takes
Python integers (one lane) or uint64 arrays (many): the same text serves both.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt

from tokenwalk.envs.checks import check_seed

UInt64Array = npt.NDArray[np.uint64]
Word = TypeVar("Word", int, UInt64Array)  # 64 bits without sign

MASK = 0xFFFFFFFFFFFFFFFF
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd
_EPISODE = 0xD1342543DE82EF95  # another odd constant, so that episodes and times step differently


def mix(word: Word) -> Word:
    """Return SplitMix64's finaliser of ``word``: a bijection on 64 bits that changes half of them."""
    bits: Any = word  # numpy's types do not follow uint64 through operations with Python integers
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    mixed: Word = bits ^ (bits >> 31)
    return mixed


def episode_stream(key: Word, episode: Word) -> Word:
    """Return the 64-bit seed of one episode's draws; ``key`` is the lane's seed, ``episode`` counts from 0."""
    lane: Any = mix(cast(Any, (key + _GOLDEN) & MASK))
    stream: Word = mix((lane + episode * _EPISODE) & MASK)
    return stream


@overload
def uniform(stream: int, time: int) -> float: ...
@overload
def uniform(stream: UInt64Array, time: UInt64Array) -> npt.NDArray[np.float64]: ...
def uniform(stream: Word, time: Word) -> float | npt.NDArray[np.float64]:
    """Return draws in [0, 1) with 53 bits: time 0 belongs to the reset, time t to the t-th step."""
    counter: Any = (stream + (time + 1) * _GOLDEN) & MASK
    draws: float | npt.NDArray[np.float64] = (mix(counter) >> 11) * 2.0**-53
    return draws


def env_seeds(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """Return each lane's seed, None where it has none: lane i of an integer ``seed`` has ``seed + i``.

    Gymnasium's own vector environments seed their i-th environment so.

    Raises:
        ValueError: a seed that is negative or no integer, or a list of another length than ``num_envs``.
    """
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, (str, bytes)) or not isinstance(seed, Iterable):
        first = check_seed(seed)
        return [first + lane for lane in range(num_envs)]
    seeds = [None if one is None else check_seed(one) for one in seed]
    if len(seeds) != num_envs:
        raise ValueError(f"{len(seeds)} seeds for {num_envs} environments: give one each, or one integer")
    return seeds


def random_key(rng: np.random.Generator) -> int:
    """Return a key for a lane that was given no seed."""
    return int(rng.integers(0, MASK, dtype=np.uint64, endpoint=True))


class EpisodeClock:
    """Key and episode of one environment: what ``EpisodeClocks`` is for many. ``stream`` is the seed for ``uniform``."""

    def __init__(self) -> None:
        self._key: int | None = None
        self._episode = 0

    def begin(self, seed: int | None, rng: np.random.Generator) -> None:
        """Start an episode: the first one of the key ``seed``, else the next; ``rng`` gives a key where there is none."""
        if seed is not None:
            self._key, self._episode = seed & MASK, 0
        elif self._key is None:
            self._key = random_key(rng)
        else:
            self._episode += 1

    @property
    def stream(self) -> int:
        """Return the seed of this episode's draws."""
        assert self._key is not None
        return episode_stream(self._key, self._episode)


class EpisodeClocks:
    """Keys, episodes and clocks of B lanes that end and restart one by one.

    A lane's key is its seed; a reset without a seed starts the lane's next episode under the same key.

    Args:
        num_envs: B.
        limit: steps after which a lane is truncated, or None.
    """

    def __init__(self, num_envs: int, limit: int | None) -> None:
        self.num_envs = num_envs
        self.limit = limit
        self.now = 0  # steps since the last reset of all lanes
        self._key: UInt64Array | None = None
        self._episode = np.zeros(num_envs, dtype=np.uint64)
        self._stream = np.zeros(num_envs, dtype=np.uint64)
        self._begun = np.zeros(num_envs, dtype=np.int64)  # value of `now` at which each lane's episode began
        self._next_truncation: int | None = limit

    @property
    def started(self) -> bool:
        """Return whether ``reset`` was called."""
        return self._key is not None

    @property
    def elapsed(self) -> npt.NDArray[np.int64]:
        """Return the steps taken in each lane's episode, int64 [B]."""
        return self.now - self._begun

    def reset(self, seeds: Sequence[int | None], rng: np.random.Generator) -> None:
        """Start an episode in every lane; ``rng`` gives the keys of lanes that never had a seed."""
        if self._key is None:
            self._key = np.array(
                [random_key(rng) if one is None else one & MASK for one in seeds], dtype=np.uint64
            )
            self._episode[:] = 0
        else:
            given = np.array([one is not None for one in seeds], dtype=np.bool_)
            self._key[given] = np.array([one & MASK for one in seeds if one is not None], dtype=np.uint64)
            self._episode = np.where(given, np.uint64(0), self._episode + np.uint64(1))
        self.now = 0
        self._begun[:] = 0
        self._next_truncation = self.limit
        self._stream = episode_stream(self._key, self._episode)

    def tick(self) -> npt.NDArray[np.bool_]:
        """Count one step of every lane and return which are at the limit, bool [B]."""
        self.now += 1
        if self.limit is None or self._next_truncation is None or self.now < self._next_truncation:
            return np.zeros(self.num_envs, dtype=np.bool_)  # the usual case costs no pass over the lanes
        return np.asarray(self.elapsed >= self.limit)

    def restart(self, rows: npt.NDArray[np.int64]) -> None:
        """Start the next episode of the lanes ``rows``, int64 [n], each named once."""
        assert self._key is not None
        episode = self._episode.take(rows) + np.uint64(1)
        self._episode[rows] = episode
        self._stream[rows] = episode_stream(self._key.take(rows), episode)
        self._begun[rows] = self.now
        if self.limit is not None:
            self._next_truncation = int(self._begun.min()) + self.limit

    def draw(self, rows: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float64]:
        """Return the draws in [0, 1) of the step just counted (or of the reset, before any step), float64 [B].

        With ``rows``, int64 [n], those of these lanes alone, float64 [n].
        """
        if rows is None:
            return uniform(self._stream, self.elapsed.astype(np.uint64))
        return uniform(self._stream.take(rows), (self.now - self._begun.take(rows)).astype(np.uint64))
