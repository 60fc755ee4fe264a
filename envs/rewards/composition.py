"""Named, weighted sources with roles; terms are kept apart until the very sum that is paid."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np

from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.source import Source, SourceContractError, check_source


@dataclass(frozen=True, eq=False)
class Composition:
    """What an agent is paid, what is true, and what is only looked at.

    The reward is, by definition, the float64 sum of the weighted train terms in their order, then the shaping terms.

    Attributes:
        train: role *train*: the sources that are paid, each with its weight.
        gold: role *gold*: the truth, always measured; the agent sees it only where it is a train source as
            well.
        metrics: role *metric*: sources that are measured and logged, never paid.
        shaping: role *shaping*: added to what the learner gets and in no return: not part of what is "paid".

    Raises:
        SourceContractError: an object that is no source, or two sources of one name.
        ValueError: nothing to pay, a source paid twice, or a weight that is no finite number.
    """

    train: tuple[tuple[Source, float], ...]
    gold: Source
    metrics: tuple[Source, ...] = ()
    shaping: tuple[tuple[Source, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("no source is paid: give at least one")
        named: dict[str, Source] = {}
        added = (*self.train, *self.shaping)
        for source in (*(source for source, _ in added), self.gold, *self.metrics):
            if named.setdefault(check_source(source).name, source) is not source:
                raise SourceContractError(f"two sources are called {source.name!r}: give each its own name")
        for source, weight in added:
            _check_weight(source, weight)
        if len({source.name for source, _ in added}) < len(added):
            raise ValueError(
                f"a source is paid twice in {[source.name for source, _ in added]}: add its weights up"
            )

    @property
    def sources(self) -> tuple[Source, ...]:
        """Return every source once: train, shaping, gold, metrics."""
        every = (*(source for source, _ in (*self.train, *self.shaping)), self.gold, *self.metrics)
        return tuple({source.name: source for source in every}.values())

    def weighted(self, scores: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Return the weighted train and shaping terms by name, of the shape of ``scores``."""
        return {source.name: weight * scores[source.name] for source, weight in (*self.train, *self.shaping)}

    def paid(self, weighted: Mapping[str, FloatArray]) -> FloatArray:
        """Return the sum of the terms of ``weighted`` in the order of the train sources, float64."""
        return _added(self.train, weighted)

    def reward(self, weighted: Mapping[str, FloatArray]) -> FloatArray:
        """Return what the learner gets, float64: what is paid, and the shaping terms in their order."""
        return _added((*self.train, *self.shaping), weighted)

    def with_weight(self, name: str, weight: float) -> "Composition":
        """Return the composition in which the train source ``name`` has another weight. For trainers, which log it.

        Raises:
            ValueError: no train source of that name, or a weight that is no finite number.
        """
        if name not in (names := [source.name for source, _ in self.train]):
            raise ValueError(f"no source called {name!r} is paid: there are {', '.join(names)}")
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
