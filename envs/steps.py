"""A step of anybody's environment, in batches of any space, and what sources and potentials make of its reward."""

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

# Observations or actions of B lanes: arrays [B, ...], nested as their Dict or Tuple space is; of a space that knows no
# arrays (Text, Graph, Sequence) a tuple of B items.
Batch = Any
Space = gym.Space[Any]
ARRAY_SPACES = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiBinary, gym.spaces.MultiDiscrete)
OWN = ("reward/env", "gold")  # how the environment's own reward is logged, so no source may be called so


class EnvStep(NamedTuple):
    """One step of B lanes, which whoever is shown it must not write into."""

    observation: Batch  # [B, ...]
    action: Batch  # [B, ...]
    next_observation: Batch  # [B, ...]; of a lane that ended its last one, not that of the reset
    reward: FloatArray  # [B], the environment's own
    terminated: BoolArray  # [B]
    truncated: BoolArray  # [B]


@runtime_checkable
class StepSource(Protocol):
    """A named reward of steps: a small picklable class."""

    @property
    def name(self) -> str:
        """Return the name under which the reward is logged."""

    @property
    def low(self) -> float:
        """Return the least score of one step."""

    @property
    def high(self) -> float:
        """Return the greatest score of one step."""

    def score(self, step: EnvStep) -> FloatArray:
        """Return the score of each row, float64 [B], finite, from ``low`` to ``high``."""


@runtime_checkable
class ObservationPotential(Protocol):
    """A value of observations, from which ``shaping_reward`` forms the shaping."""

    def value(self, observation: Batch) -> FloatArray:
        """Return the value of each row, float64 [B], finite. A terminal observation is never asked for."""


@dataclass(frozen=True)
class StepFunction:
    """A function of an ``EnvStep`` as a source: float64 [B] from ``low`` to ``high``.

    It can be pickled where the function can. A copy of it is itself, so that a function that holds a network is not
    copied with each spec of an environment.
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
    """A function of batched observations as a potential: float64 [B]. A copy of it is itself."""

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
    """Return ``function(leaf_space, *leaves)`` of every leaf of ``batches``, nested as they are."""
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
        return np.array(items, dtype=space.dtype)  # the same, several times faster
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
    """Return ``batch`` with ``items``, a batch itself, in the place of ``rows``; ``batch`` stays as it is."""

    def put(_: Space, leaf: Any, new: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            mixed = leaf.copy()
            mixed[rows] = new
            return mixed
        fresh = dict(zip(rows.tolist(), new, strict=True))
        return tuple(fresh.get(row, item) for row, item in enumerate(leaf))

    return over_leaves(space, put, batch, items)


def _shown(space: Space, batch: Batch, row: int) -> str:
    """Return one row of ``batch`` as a person reads it, large arrays shortened."""
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
        SourceContractError: anything but finite float64 [B] in the source's range; the message has its name and what it
            was given. Nothing is turned into 0.
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
    """Return the potential of ``observation``, B = ``count`` rows, float64 [B]. Raises SourceContractError likewise."""
    who = f"potential {getattr(potential, 'name', type(potential).__name__)!r}"
    limits = -np.inf, np.inf
    values = potential.value(observation)
    return _checked(who, values, count, limits, lambda row: f"observation {_shown(space, observation, row)}")


def check_step_sources(sources: Sequence[StepSource]) -> None:
    """Raise SourceContractError unless each is a source with a range, and all that they log has its own name."""
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
    """What a wrapper does to the reward, the same for one lane and for many."""

    def visit(self, observation: Batch, asked: BoolArray) -> Batch:
        """Return what is kept of the observations of B lanes; where ``asked`` [B] is false it is never read."""

    def pay(self, step: EnvStep) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Return the rewards [B] and what is logged, each [B]; ``step`` has what was kept for observations."""


@dataclass(frozen=True, eq=False)
class Scoring:
    """keep * the environment's own reward + the sum of the weighted scores; it keeps the observations themselves."""

    observation_space: Space
    action_space: Space
    sources: tuple[tuple[StepSource, float | None], ...]  # None: logged, not paid
    keep: float = 1.0

    def visit(self, observation: Batch, asked: BoolArray) -> Batch:
        """Return a copy of the observations, of all of them."""
        return copy_batch(self.observation_space, observation)

    def pay(self, step: EnvStep) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Return the rewards and each source's scores, raw and, where it is paid, weighted."""
        paid, terms = self.keep * step.reward, {}
        for source, weight in self.sources:
            score = score_step(source, step, self.observation_space, self.action_space)
            terms[f"reward/{source.name}"] = score
            if weight is not None:
                terms[f"reward/{source.name}/weighted"] = weighted = weight * score
                paid = paid + weighted
        return paid, terms


@dataclass(frozen=True, eq=False)
class Shaping:
    """The environment's own reward + shaping; of an observation it keeps the potential, as it was when visited."""

    observation_space: Space
    potential: ObservationPotential
    discount: float

    def visit(self, observation: Batch, asked: BoolArray) -> Batch:
        """Return the potentials, float64 [B]; NaN where not asked."""
        values, rows = np.full(len(asked), np.nan), np.flatnonzero(asked)
        given = copy_batch(self.observation_space, observation)
        if rows.size < len(asked):
            given = take_rows(self.observation_space, given, rows)
        if rows.size:
            values[rows] = value_observations(self.potential, given, rows.size, self.observation_space)
        return values

    def pay(self, step: EnvStep) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Return the rewards and the shaping; the observations of ``step`` are potentials, [B]."""
        shaping = shaping_reward(self.discount, step.terminated, step.observation, step.next_observation)
        return step.reward + shaping, {"reward/shaping": shaping}
