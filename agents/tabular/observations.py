"""From an observation to its state index in the table: a formula, or a growing dictionary for a large space."""

import operator
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from tokenwalk.envs.arrays import IntArray
from tokenwalk.envs.checks import UnsupportedSpaceError

DENSE_LIMIT = 1_000_000  # observations that get a state index each in advance


class ObservationIndex:
    """State indices of observations made of D integers, the d-th in start[d] .. start[d] + size[d] - 1.

    Up to ``DENSE_LIMIT`` observations, each has its state index from the beginning: the integers are digits, the
    first the most significant. Beyond that, an observation gets the next free state index when it is first seen.

    Args:
        sizes: values of each integer.
        starts: smallest value of each.
        keys: for a growing index, the observations that already have a state index, int64 [S, D].
    """

    def __init__(self, sizes: list[int], starts: list[int], keys: IntArray | None = None) -> None:
        self.sizes, self.starts = sizes, starts
        count = 1
        for size in sizes:
            count *= size
        self.grows = count > DENSE_LIMIT
        self._indices: dict[tuple[int, ...], int] = {}
        if keys is not None:
            self._indices = {tuple(key): index for index, key in enumerate(keys.tolist())}
        self._count = count
        self._only = len(sizes) == 1 and not self.grows

    @property
    def n_states(self) -> int:
        """Return the number of state indices so far, S: of all observations, or of those seen."""
        return len(self._indices) if self.grows else self._count

    @property
    def keys(self) -> IntArray:
        """Return the observations that have a state index in a growing index, in its order, int64 [S, D]."""
        return np.array(list(self._indices), dtype=np.int64).reshape(len(self._indices), len(self.sizes))

    def state_index(self, observation: Any) -> int:
        """Return the state index of ``observation``; a growing index gives it one.

        Raises:
            ValueError: an integer outside the observation space.
        """
        if self._only:
            index = operator.index(observation) - self.starts[0]
            if 0 <= index < self._count:
                return index
            raise _outside(observation, self.sizes, self.starts)
        if self.grows:
            return self._indices.setdefault(tuple(_integers(observation)), len(self._indices))
        index = 0
        for value, start, size in zip(_integers(observation), self.starts, self.sizes, strict=True):
            if not start <= value < start + size:
                raise _outside(observation, self.sizes, self.starts)
            index = index * size + value - start
        return index

    def find(self, observation: Any) -> int | None:
        """Return the state index of ``observation``; None where a growing index has none, which it then does not add."""
        return (
            self._indices.get(tuple(_integers(observation))) if self.grows else self.state_index(observation)
        )


def index_of(space: gym.Space[Any]) -> ObservationIndex:
    """Return the index for an observation space: Discrete, MultiDiscrete or a Tuple of these, with any start.

    Raises:
        UnsupportedSpaceError: any other space.
    """
    parts = list(_parts(space, space))
    return ObservationIndex([size for size, _ in parts], [start for _, start in parts])


def check_actions(space: gym.Space[Any]) -> tuple[int, int]:
    """Return (number of actions, first action). Raises UnsupportedSpaceError unless the space is Discrete."""
    if not isinstance(space, gym.spaces.Discrete):
        raise UnsupportedSpaceError(
            f"a tabular agent cannot take the actions {space}: it takes Discrete ones; "
            "number them with gymnasium.wrappers.TransformAction, or train ppo"
        )
    return int(space.n), int(space.start)


def _parts(space: gym.Space[Any], whole: gym.Space[Any]) -> Iterator[tuple[int, int]]:
    """Yield (size, start) of each integer of ``space``."""
    if isinstance(space, gym.spaces.Discrete):
        yield int(space.n), int(space.start)
    elif isinstance(space, gym.spaces.MultiDiscrete):
        yield from zip(space.nvec.ravel().tolist(), space.start.ravel().tolist(), strict=True)
    elif isinstance(space, gym.spaces.Tuple):
        for part in space.spaces:
            yield from _parts(part, whole)
    else:
        raise UnsupportedSpaceError(
            f"a tabular agent cannot take the observations {whole}: it takes Discrete, MultiDiscrete and "
            "Tuples of these; bin them with gymnasium.wrappers.TransformObservation, or train ppo or dqn"
        )


def _outside(observation: Any, sizes: list[int], starts: list[int]) -> ValueError:
    return ValueError(
        f"the observation {observation} is outside its space: integers of {sizes} values from {starts} on"
    )


def _integers(observation: Any) -> Iterator[int]:
    """Yield the integers of ``observation``, in the order of ``_parts``."""
    if isinstance(observation, tuple):
        for part in observation:
            yield from _integers(part)
    elif isinstance(observation, np.ndarray) and observation.shape:
        yield from observation.ravel().tolist()
    else:
        yield operator.index(observation)
