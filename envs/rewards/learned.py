"""A trained scorer as a reward: centred, scaled, and refused when it is not finite."""

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

ROWS_AT_ONCE = 512  # texts that a network scores in one go: more would leave the processor's cache


@dataclass(frozen=True, eq=False)
class LearnedSource:
    """Pays mean + scale * (raw - centre) at the end of a completion, where raw is what a network says of it.

    With ``centre`` the network's mean under the reference policy, and ``scale`` the ratio of gold's standard deviation
    to the network's, the reward has gold's mean and spread under the reference policy. It moves the optimum to the
    network's own, which is gamed where the network errs: beyond the texts that it was trained on. The same object is a
    potential: its ``value`` of an unfinished text.

    Args:
        name: under which it is logged.
        scorer: from a batch of texts, finished or not, to one number each, [B].
        centre: in the scorer's unit. scale: gold's unit per the scorer's. mean: in gold's unit.
        low, high: the range that it must keep to; any finite number by default.

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
    paid: Literal["token", "end"] = "end"

    def __post_init__(self) -> None:
        if not all(isfinite(number) for number in (self.centre, self.scale, self.mean)) or self.scale <= 0:
            raise ValueError(
                f"{self.name!r} has centre {self.centre}, scale {self.scale}, mean {self.mean}: give finite numbers, and a "
                "scale above 0"
            )

    def score(self, batch: TokenBatch) -> FloatArray:
        """Return the reward of each completion, float64 [B]; what is not finite stays so, and is refused when paid."""
        raw = np.empty(len(batch.length))
        for first in range(0, len(raw), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            raw[rows] = self.scorer(batch[rows])
        return self.mean + self.scale * (raw - self.centre)

    def as_machine(self, vocabulary: Vocabulary, horizon: int, prompts: TokenArray) -> MachineSource | None:
        """Return the machine of few states that pays the same for every completion, of at most ``horizon`` tokens after
        each of ``prompts`` [N, P]; None where no such is known."""
        return None

    def value(self, batch: TokenBatch) -> FloatArray:
        """Return the same number for unfinished texts, float64 [B]: as a potential."""
        return self.score(batch)

    def __deepcopy__(self, memo: object) -> "LearnedSource":
        """Return itself: Gymnasium copies ``spec`` at each read, and a network with it."""
        return self
