"""A step of any Gymnasium environment, batched, and the rewards and shaping that are added to it."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array

from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.rewards.shaping import shaping_reward
from tokenwalk.envs.rewards.source import SourceContractError

# Observations or actions of B sub-environments: arrays [B, ...], nested like their Dict or Tuple space; for a space
# without arrays (Text, Graph, Sequence) a tuple of B items.
Batch = Any
Space = gym.Space[Any]
ARRAY_SPACES = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiBinary, gym.spaces.MultiDiscrete)
OWN = ("reward/env", "gold")  # the log keys of the environment's own reward: reserved


class EnvStep(NamedTuple):
    """One step of B sub-environments; its arrays are read-only by contract."""

    observation: Batch  # [B, ...]
    action: Batch  # [B, ...]
    next_observation: Batch  # [B, ...]; at an end the last observation, not the reset's
    reward: FloatArray  # [B], the environment's own
    terminated: BoolArray  # [B]
    truncated: BoolArray  # [B]


@runtime_checkable
class StepSource(Protocol):
    """A named reward function of steps: a small picklable class."""

    @property
    def name(self) -> str:
        """Return the name under which the reward is logged."""

    @property
    def low(self) -> float:
        """Return the minimum reward of one step."""

    @property
    def high(self) -> float:
        """Return the maximum reward of one step."""

    def score(self, step: EnvStep) -> FloatArray:
        """Return the score of each row, float64 [B], finite, from ``low`` to ``high``."""


@runtime_checkable
class ObservationPotential(Protocol):
    """A value of observations; ``shaping_reward`` forms the shaping from it."""

    def value(self, observation: Batch) -> FloatArray:
        """Return the value of each row, float64 [B], finite. It is never called with a terminal observation."""


@dataclass(frozen=True)
class StepFunction:
    """A function of an ``EnvStep`` as a reward function: float64 [B] from ``low`` to ``high``.

    It can be pickled if the function can. A copy is the same object, so that a network in the function is not copied
    with each spec of an environment.
    """

    name: str
    function: Callable[[EnvStep], FloatArray]
    low: float
    high: float

    def score(self, step: EnvStep) -> FloatArray:
        """Return the function's score of each row, float64 [B]."""
        return self.function(step)

    def __deepcopy__(self, memo: dict[int, Any]) -> "StepFunction":
        return self


@dataclass(frozen=True)
class ObservationFunction:
    """A function of batched observations as a potential: float64 [B]. A copy is the same object."""

    function: Callable[[Batch], FloatArray]

    @property
    def name(self) -> str:
        """Return the function's name, for errors."""
        return getattr(self.function, "__qualname__", type(self.function).__name__)

    def value(self, observation: Batch) -> FloatArray:
        """Return the function's value of each row, float64 [B]."""
        return self.function(observation)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ObservationFunction":
        return self


def over_leaves(space: Space, function: Callable[..., Any], *batches: Batch) -> Any:
    """Return ``function(leaf_space, *leaves)`` of every leaf of ``batches``, nested like ``batches``."""
    if not isinstance(batches[0], np.ndarray):
        if isinstance(space, gym.spaces.Dict):
            return {
                key: over_leaves(part, function, *(one[key] for one in batches))
                for key, part in space.spaces.items()
            }
        if isinstance(space, gym.spaces.Tuple):
            parts = zip(space.spaces, *batches, strict=True)
            return tuple(over_leaves(part, function, *leaves) for part, *leaves in parts)
    return function(space, *batches)


def stack(space: Space, items: Sequence[Any]) -> Batch:
    """Return single observations or actions of ``space`` as a batch, stacked along axis 0."""
    if isinstance(space, ARRAY_SPACES):
        return np.array(items, dtype=space.dtype)  # the same result, several times faster
    return concatenate(space, items, create_empty_array(space, len(items)))  # type: ignore[arg-type]


def copy_batch(space: Space, batch: Batch) -> Batch:
    """Return a copy of ``batch`` that shares nothing with it, its arrays of the dtype of ``space``."""

    def copied(part: Space, leaf: Any) -> Any:
        return np.array(leaf, dtype=part.dtype) if isinstance(part, ARRAY_SPACES) else deepcopy(tuple(leaf))

    return over_leaves(space, copied, batch)


def take_rows(space: Space, batch: Batch, rows: IntArray) -> Batch:
    """Return the chosen rows of ``batch``."""

    def taken(_: Space, leaf: Any) -> Any:
        return leaf[rows] if isinstance(leaf, np.ndarray) else tuple(leaf[row] for row in rows)

    return over_leaves(space, taken, batch)


def put_rows(space: Space, batch: Batch, rows: IntArray, items: Batch) -> Batch:
    """Return ``batch`` with ``items``, a batch itself, in place of ``rows``; ``batch`` is not changed."""

    def put(_: Space, leaf: Any, new: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            mixed = leaf.copy()
            mixed[rows] = new
            return mixed
        fresh = dict(zip(rows.tolist(), new, strict=True))
        return tuple(fresh.get(row, item) for row, item in enumerate(leaf))

    return over_leaves(space, put, batch, items)


def _shown(space: Space, batch: Batch, row: int) -> str:
    """Return one row of ``batch`` as text, large arrays shortened."""
    with np.printoptions(threshold=20, precision=6):
        return str(over_leaves(space, lambda _, leaf: leaf[row], batch))


def _checked(
    who: str, values: Any, count: int, limits: tuple[float, float], show: Callable[[int], str]
) -> FloatArray:
    """Return ``values``. Raises SourceContractError unless they are finite float64 [count] within ``limits``."""
    if not isinstance(values, np.ndarray) or values.dtype != np.float64 or values.shape != (count,):
        shown = (
            f"{values.dtype} {list(values.shape)}"
            if isinstance(values, np.ndarray)
            else type(values).__name__
        )
        raise SourceContractError(
            f"{who} returned {shown} for {count} rows, the first {show(0)}: "
            f"return an array of float64 [{count}]"
        )
    low, high = limits
    within = (values >= low) & (values <= high) & np.isfinite(values)  # NaN compares false
    if not within.all():
        row = int(np.flatnonzero(~within)[0])
        raise SourceContractError(
            f"{who} returned {values[row]} for {show(row)}: its range is {low} to {high}, finite"
        )
    return values


def score_step(
    source: StepSource, step: EnvStep, observation_space: Space, action_space: Space
) -> FloatArray:
    """Return the scores of ``step``, float64 [B].

    Raises:
        SourceContractError: anything but finite float64 [B] in the stated range; the message has the name and the step.
            No error is replaced by 0.
    """

    def show(row: int) -> str:
        return (
            f"observation {_shown(observation_space, step.observation, row)}, "
            f"action {_shown(action_space, step.action, row)}, "
            f"next observation {_shown(observation_space, step.next_observation, row)}, "
            f"reward {step.reward[row]}, terminated {step.terminated[row]}, truncated {step.truncated[row]}"
        )

    who, limits = f"source {source.name!r}", (source.low, source.high)
    return _checked(who, source.score(step), len(step.reward), limits, show)


def value_observations(
    potential: ObservationPotential, observation: Batch, count: int, space: Space
) -> FloatArray:
    """Return the potential of ``observation`` [B, ...], B = ``count``, float64 [B]. Raises SourceContractError."""
    who = f"potential {getattr(potential, 'name', type(potential).__name__)!r}"
    limits = -np.inf, np.inf
    values = potential.value(observation)
    return _checked(who, values, count, limits, lambda row: f"observation {_shown(space, observation, row)}")


def check_step_sources(sources: Sequence[StepSource]) -> None:
    """Raise SourceContractError unless each is a reward function with a range and all log keys are different."""
    taken = set(OWN)
    for source in sources:
        if not isinstance(source, StepSource):
            raise SourceContractError(
                f"{source!r} is no source: it needs name, low, high and score(step); "
                "a function becomes one as StepFunction(name, function, low, high)"
            )
        if not isinstance(source.name, str) or not source.name:
            raise SourceContractError(f"a source is called {source.name!r}: give it a name")
        if not source.low <= source.high:
            raise SourceContractError(
                f"source {source.name!r} states the range {source.low} to {source.high}: give low <= high"
            )
        keys = {f"reward/{source.name}", f"reward/{source.name}/weighted"}
        if keys & taken:
            raise SourceContractError(
                f"source {source.name!r} would be logged as {min(keys & taken)!r}, which is taken: rename it"
            )
        taken |= keys


def check_weighted(sources: Sequence[tuple[StepSource, float]], keep: float) -> None:
    """Raise ValueError unless ``sources`` are pairs with finite weights and ``keep`` is finite."""
    for pair in sources:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"sources hold {pair!r}: give pairs of a source and its weight")
    check_step_sources([source for source, _ in sources])
    weights = {f"the weight of {source.name!r}": weight for source, weight in sources}
    for what, number in {"keep": keep, **weights}.items():
        real = isinstance(number, (int, float, np.floating, np.integer)) and not isinstance(number, bool)
        if not real or not isfinite(number):
            raise ValueError(f"{what} is {number!r}: give a finite number")


def check_potential(potential: object) -> ObservationPotential:
    """Return ``potential``. Raises SourceContractError unless it has ``value``."""
    if not isinstance(potential, ObservationPotential):
        raise SourceContractError(
            f"{potential!r} is no potential: it needs value(observation); "
            "a function becomes one as ObservationFunction(function)"
        )
    return potential


class Mechanism(Protocol):
    """The change of the reward by a wrapper, the same for one and for many sub-environments."""

    def visit(self, observation: Batch, asked: BoolArray) -> Batch:
        """Return the stored form of B observations; entries where ``asked`` [B] is False are not read."""

    def apply(self, step: EnvStep) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Return the rewards [B] and the logged terms, each [B]; ``step`` has the stored form of its observations."""


@dataclass(frozen=True, eq=False)
class Scoring:
    """keep * the environment's own reward + the sum of the weighted scores; it stores the observations."""

    observation_space: Space
    action_space: Space
    sources: tuple[tuple[StepSource, float | None], ...]  # None: only logged
    keep: float = 1.0

    def visit(self, observation: Batch, asked: BoolArray) -> Batch:
        """Return a copy of all observations."""
        return copy_batch(self.observation_space, observation)

    def apply(self, step: EnvStep) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Return the rewards and the raw scores, and the weighted scores of those with a weight."""
        reward, terms = self.keep * step.reward, {}  # [B]
        for source, weight in self.sources:
            score = score_step(source, step, self.observation_space, self.action_space)
            terms[f"reward/{source.name}"] = score
            if weight is not None:
                terms[f"reward/{source.name}/weighted"] = weighted = weight * score
                reward = reward + weighted
        return reward, terms


@dataclass(frozen=True, eq=False)
class Shaping:
    """The environment's own reward + shaping; it stores the potential of an observation, computed once."""

    observation_space: Space
    potential: ObservationPotential
    discount: float

    def visit(self, observation: Batch, asked: BoolArray) -> Batch:
        """Return the potentials, float64 [B]; NaN where ``asked`` [B] is False."""
        values, rows = np.full(len(asked), np.nan), np.flatnonzero(asked)
        given = copy_batch(self.observation_space, observation)
        if rows.size < len(asked):
            given = take_rows(self.observation_space, given, rows)
        if rows.size:
            values[rows] = value_observations(self.potential, given, rows.size, self.observation_space)
        return values

    def apply(self, step: EnvStep) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Return the rewards and the shaping; the observations of ``step`` are potentials, [B]."""
        shaping = shaping_reward(self.discount, step.terminated, step.observation, step.next_observation)
        return step.reward + shaping, {"reward/shaping": shaping}
