"""Named, weighted sources with roles; terms are kept apart until the very sum that is paid."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

import numpy as np

from tokenwalk.envs.rewards.source import Source, SourceContractError, check_source
from tokenwalk.envs.transition import FloatArray


@dataclass(frozen=True, eq=False)
class Composition:
    """What an agent is paid, what is true, and what is only looked at.

    The reward is, by definition, the float64 sum of the weighted train terms in their order.

    Attributes:
        train: role *train*: the sources that are paid, each with its weight.
        gold: role *gold*: the truth, always measured; the agent sees it only where it is a train source as
            well.
        metrics: role *metric*: sources that are measured and logged, never paid.

    Raises:
        SourceContractError: an object that is no source, or two sources of one name.
        ValueError: nothing to pay, a source paid twice, or a weight that is no finite number.
    """

    train: tuple[tuple[Source, float], ...]
    gold: Source
    metrics: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("no source is paid: give at least one")
        named: dict[str, Source] = {}
        for source in (*(source for source, _ in self.train), self.gold, *self.metrics):
            if named.setdefault(check_source(source).name, source) is not source:
                raise SourceContractError(f"two sources are called {source.name!r}: give each its own name")
        for source, weight in self.train:
            if (
                isinstance(weight, bool)
                or not isinstance(weight, (int, float, np.floating))
                or not isfinite(weight)
            ):
                raise ValueError(f"the weight of {source.name!r} is {weight!r}: give a finite number")
        if len({source.name for source, _ in self.train}) < len(self.train):
            raise ValueError(
                f"a source is paid twice in {[source.name for source, _ in self.train]}: add its weights up"
            )

    @property
    def sources(self) -> tuple[Source, ...]:
        """Return every source once: train, gold, metrics."""
        every = (*(source for source, _ in self.train), self.gold, *self.metrics)
        return tuple({source.name: source for source in every}.values())

    def weighted(self, scores: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Return the weighted train terms by name, of the shape of ``scores``."""
        return {source.name: weight * scores[source.name] for source, weight in self.train}

    def paid(self, weighted: Mapping[str, FloatArray]) -> FloatArray:
        """Return the sum of the terms of ``weighted`` in the order of the train sources, float64."""
        total = np.zeros(next(iter(weighted.values())).shape)
        for source, _ in self.train:
            total += weighted[source.name]
        return total
