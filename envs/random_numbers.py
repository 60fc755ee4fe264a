"""Random numbers for one or many sub-environments: a counter-based generator keyed by seed, episode and time.

A sample is a pure function of (key, episode, time). So sub-environment i of many samples exactly what a single
environment with the same key samples, in any order of ends and starts. The generator is SplitMix64 (Steele, Lea and
Flood 2014, "Fast splittable pseudorandom number generators"), whose state is a counter. Every function takes Python
integers (one sub-environment) or uint64 arrays (many).
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
    """Return SplitMix64's finalizer of ``word``: a bijection on 64 bits that changes half of them on average."""
    bits: Any = word  # numpy's types do not follow uint64 through operations with Python integers
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    mixed: Word = bits ^ (bits >> 31)
    return mixed


def episode_stream(key: Word, episode: Word) -> Word:
    """Return the 64-bit seed of one episode's samples; ``key`` is the sub-environment's seed, ``episode`` counts from 0."""
    base: Any = mix(cast(Any, (key + _GOLDEN) & MASK))
    stream: Word = mix((base + episode * _EPISODE) & MASK)
    return stream


@overload
def uniform(stream: int, time: int) -> float: ...
@overload
def uniform(stream: UInt64Array, time: UInt64Array) -> npt.NDArray[np.float64]: ...
def uniform(stream: Word, time: Word) -> float | npt.NDArray[np.float64]:
    """Return uniform samples in [0, 1) with 53 bits: time 0 belongs to the reset, time t to the t-th step."""
    counter: Any = (stream + (time + 1) * _GOLDEN) & MASK
    samples: float | npt.NDArray[np.float64] = (mix(counter) >> 11) * 2.0**-53
    return samples


def env_seeds(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """Return each sub-environment's seed, or None where it has none; an integer ``seed`` gives ``seed + i``.

    Gymnasium's own vector environments seed their i-th environment so.

    Raises:
        ValueError: a seed that is not an integer of 0 or more, or a list of another length than ``num_envs``.
    """
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, (str, bytes)) or not isinstance(seed, Iterable):
        first = check_seed(seed)
        return [first + env_index for env_index in range(num_envs)]
    seeds = [None if one is None else check_seed(one) for one in seed]
    if len(seeds) != num_envs:
        raise ValueError(f"{len(seeds)} seeds for {num_envs} environments: give one each, or one integer")
    return seeds


def random_key(rng: np.random.Generator) -> int:
    """Return a random key for a sub-environment without a seed."""
    return int(rng.integers(0, MASK, dtype=np.uint64, endpoint=True))


class EpisodeClock:
    """Key and episode of one environment, as ``EpisodeClocks`` holds them for many."""

    def __init__(self) -> None:
        self._key: int | None = None
        self._episode = 0

    def begin(self, seed: int | None, rng: np.random.Generator) -> None:
        """Start an episode: the first one of the key ``seed``, or the next one; ``rng`` gives a missing key."""
        if seed is not None:
            self._key, self._episode = seed & MASK, 0
        elif self._key is None:
            self._key = random_key(rng)
        else:
            self._episode += 1

    @property
    def stream(self) -> int:
        """Return this episode's seed for ``uniform``."""
        assert self._key is not None
        return episode_stream(self._key, self._episode)


class EpisodeClocks:
    """Keys, episodes and step counts of B sub-environments, which end and restart one by one.

    A sub-environment's key is its seed; a reset without a seed starts the sub-environment's next episode under the same key.

    Args:
        num_envs: B.
        limit: steps after which a sub-environment is truncated, or None.
    """

    def __init__(self, num_envs: int, limit: int | None) -> None:
        self.num_envs = num_envs
        self.limit = limit
        self.now = 0  # steps since the last reset of all sub-environments
        self._key: UInt64Array | None = None
        self._episode = np.zeros(num_envs, dtype=np.uint64)
        self._stream = np.zeros(num_envs, dtype=np.uint64)
        self._begun = np.zeros(
            num_envs, dtype=np.int64
        )  # value of `now` at which each sub-environment's episode began
        self._next_truncation: int | None = limit

    @property
    def started(self) -> bool:
        """Return whether ``reset`` was called."""
        return self._key is not None

    @property
    def elapsed(self) -> npt.NDArray[np.int64]:
        """Return the steps taken in each sub-environment's episode, int64 [B]."""
        return self.now - self._begun

    def reset(self, seeds: Sequence[int | None], rng: np.random.Generator) -> None:
        """Start an episode in every sub-environment; ``rng`` gives the keys of sub-environments that never had a seed."""
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
        """Count one step of every sub-environment and return which are at the limit, bool [B]."""
        self.now += 1
        if self.limit is None or self._next_truncation is None or self.now < self._next_truncation:
            return np.zeros(
                self.num_envs, dtype=np.bool_
            )  # the usual case needs no pass over the sub-environments
        return np.asarray(self.elapsed >= self.limit)

    def restart(self, rows: npt.NDArray[np.int64]) -> None:
        """Start the next episode of the sub-environments ``rows``, int64 [n], without repeats."""
        assert self._key is not None
        episode = self._episode.take(rows) + np.uint64(1)
        self._episode[rows] = episode
        self._stream[rows] = episode_stream(self._key.take(rows), episode)
        self._begun[rows] = self.now
        if self.limit is not None:
            self._next_truncation = int(self._begun.min()) + self.limit

    def sample(self, rows: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float64]:
        """Return the samples in [0, 1) of the current step (or of the reset, before any step), float64 [B].

        With ``rows``, int64 [n], only the samples of these sub-environments, float64 [n].
        """
        if rows is None:
            return uniform(self._stream, self.elapsed.astype(np.uint64))
        return uniform(self._stream.take(rows), (self.now - self._begun.take(rows)).astype(np.uint64))
