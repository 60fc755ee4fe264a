"""A trained scorer as a reward: centered, scaled, and refused where it is not finite."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.machine import TokenArray
from tokenwalk.envs.rewards.source import MachineSource, TokenBatch
from tokenwalk.envs.vocabulary import Vocabulary

ROWS_AT_ONCE = 512  # texts in one call of a network: more would not fit the cache of the CPU


@dataclass(frozen=True, eq=False)
class LearnedSource:
    """The reward mean + scale * (raw - centre) at the end of a completion, where raw is a network's score.

    With ``centre`` the network's mean under the reference policy, and ``scale`` the ratio of gold's standard deviation
    to the network's, the reward has gold's mean and standard deviation under the reference policy. The optimal
    policy maximizes the network's score and exploits its errors, above all far from its training data. The same object
    is a potential: ``value`` scores unfinished texts.

    Args:
        name: under which it is logged.
        scorer: from a batch of texts, finished or not, to one number each, [B].
        centre: in the scorer's unit. scale: gold's unit per the scorer's. mean: in gold's unit.
        low, high: the allowed range; any finite number by default.

    Raises:
        ValueError: a centre, scale or mean that is not finite, or a scale that is not above 0.
    """

    name: str
    scorer: Callable[[TokenBatch], npt.NDArray[np.floating[Any]]]
    centre: float = 0.0
    scale: float = 1.0
    mean: float = 0.0
    low: float = -np.inf
    high: float = np.inf
    timing: Literal["token", "end"] = "end"

    def __post_init__(self) -> None:
        if not all(isfinite(number) for number in (self.centre, self.scale, self.mean)) or self.scale <= 0:
            raise ValueError(
                f"{self.name!r} has centre {self.centre}, scale {self.scale}, mean {self.mean}: give finite numbers, and a "
                "scale above 0"
            )

    def score(self, batch: TokenBatch) -> FloatArray:
        """Return the reward of each completion, float64 [B]; a value that is not finite is refused later."""
        raw = np.empty(len(batch.length))
        for first in range(0, len(raw), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            raw[rows] = self.scorer(batch[rows])
        return self.mean + self.scale * (raw - self.centre)

    def as_machine(self, vocabulary: Vocabulary, horizon: int, prompts: TokenArray) -> MachineSource | None:
        """Return the machine of few states that gives every completion the same reward, up to ``horizon`` tokens after
        each of ``prompts`` [N, P]; None where none is known."""
        return None

    def value(self, batch: TokenBatch) -> FloatArray:
        """Return the same number for unfinished texts, float64 [B]: as a potential."""
        return self.score(batch)

    def __deepcopy__(self, memo: object) -> "LearnedSource":
        """Return itself: Gymnasium copies ``spec`` at each read, and a network with it."""
        return self
