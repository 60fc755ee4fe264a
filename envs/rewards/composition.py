"""Named, weighted reward functions with roles, and their sum: the reward."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np

from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.source import Source, SourceContractError, check_source


@dataclass(frozen=True, eq=False)
class Composition:
    """The training reward, the gold reward, the metrics and the shaping of an environment.

    The reward is, by definition, the float64 sum of the weighted train terms in their order, then the shaping terms.

    Attributes:
        train: role *train*: the components of the training reward, each with its weight.
        gold: role *gold*: the true objective, always logged; the agent gets it only where it is also in ``train``.
        metrics: role *metric*: reward functions that are only logged.
        shaping: role *shaping*: terms added to the reward and not to the return.

    Raises:
        SourceContractError: an object that is not a reward function, or two of the same name.
        ValueError: no component, a component twice, or a weight that is not a finite number.
    """

    train: tuple[tuple[Source, float], ...]
    gold: Source
    metrics: tuple[Source, ...] = ()
    shaping: tuple[tuple[Source, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("the training reward is empty: give one reward function or more")
        named: dict[str, Source] = {}
        added = (*self.train, *self.shaping)
        for source in (*(source for source, _ in added), self.gold, *self.metrics):
            if named.setdefault(check_source(source).name, source) is not source:
                raise SourceContractError(f"two sources are called {source.name!r}: give each its own name")
        for source, weight in added:
            _check_weight(source, weight)
        if len({source.name for source, _ in added}) < len(added):
            raise ValueError(
                f"a reward function is there twice in {[source.name for source, _ in added]}: "
                "give it once, with the sum of the weights"
            )

    @property
    def sources(self) -> tuple[Source, ...]:
        """Return every reward function once: train, shaping, gold, metrics."""
        every = (*(source for source, _ in (*self.train, *self.shaping)), self.gold, *self.metrics)
        return tuple({source.name: source for source in every}.values())

    def weighted(self, scores: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Return the weighted train and shaping terms by name, of the shape of ``scores``."""
        return {source.name: weight * scores[source.name] for source, weight in (*self.train, *self.shaping)}

    def train_reward(self, weighted: Mapping[str, FloatArray]) -> FloatArray:
        """Return the sum of the train terms of ``weighted`` in their order, float64."""
        return _added(self.train, weighted)

    def reward(self, weighted: Mapping[str, FloatArray]) -> FloatArray:
        """Return the learner's reward, float64: the sum of the train terms, then of the shaping terms, in their order."""
        return _added((*self.train, *self.shaping), weighted)

    def with_weight(self, name: str, weight: float) -> "Composition":
        """Return the composition in which the train component ``name`` has another weight.

        Raises:
            ValueError: no train component of that name, or a weight that is not a finite number.
        """
        if name not in (names := [source.name for source, _ in self.train]):
            raise ValueError(f"the training reward has no component {name!r}: give one of {', '.join(names)}")
        train = tuple((source, weight if source.name == name else old) for source, old in self.train)
        return replace(self, train=train)


def _added(terms: tuple[tuple[Source, float], ...], weighted: Mapping[str, FloatArray]) -> FloatArray:
    total = np.zeros(next(iter(weighted.values())).shape)
    for source, _ in terms:
        total += weighted[source.name]
    return total


def _check_weight(source: Source, weight: object) -> None:
    """Raise ValueError unless ``weight`` is a finite number."""
    number = isinstance(weight, (int, float, np.floating)) and not isinstance(weight, bool)
    if not number or not isfinite(weight):  # type: ignore[arg-type]
        raise ValueError(f"the weight of {source.name!r} is {weight!r}: give a finite number")
