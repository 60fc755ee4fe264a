"""A clip or a gate around a reward function is a new reward function, with its own name and range."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.machine import RewardMachine
from tokenwalk.envs.rewards.source import MachineSource, Source, SourceContractError, TokenBatch


@dataclass(frozen=True, eq=False)
class Clipped:
    """``inner``, with every score moved into the range from ``low`` to ``high``. Make it with ``clipped``."""

    name: str
    inner: Source
    low: float
    high: float

    @property
    def timing(self) -> Literal["token", "end"]:
        """Return the timing of the inner reward function."""
        return self.inner.timing

    def score(self, batch: TokenBatch) -> FloatArray:
        """Return the clipped score of each row, float64 [B]; NaN stays NaN and is refused later."""
        return np.clip(self.inner.score(batch), self.low, self.high)


@dataclass(frozen=True, eq=False)
class Gated:
    """``inner`` times ``gate``, whose scores lie between 0 and 1. Make it with ``gated``."""

    name: str
    inner: Source
    gate: Source
    low: float = field(init=False)
    high: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", min(0.0, self.inner.low))
        object.__setattr__(self, "high", max(0.0, self.inner.high))

    @property
    def timing(self) -> Literal["token", "end"]:
        """Return "end" if one of the two has this timing: elsewhere their product is 0."""
        return "end" if "end" in (self.inner.timing, self.gate.timing) else "token"

    def score(self, batch: TokenBatch) -> FloatArray:
        """Return the product of both scores, float64 [B]."""
        return self.inner.score(batch) * self.gate.score(batch)


def clipped(source: Source, low: float, high: float, name: str) -> Source:
    """Return ``source`` with every token's score moved into [low, high]; for a machine it is a machine again.

    It can change the optimal policy.

    Raises:
        ValueError: low above high, or a range without 0 (a token without a reward scores 0).
    """
    if not low <= 0 <= high:
        raise ValueError(f"the range is {low} to {high}: give low <= 0 <= high")
    if not isinstance(source, MachineSource):
        return Clipped(name, source, max(low, min(source.low, high)), min(high, max(source.high, low)))
    machine = source.machine
    reward = np.clip(machine.reward, low, high)
    last = np.clip(machine.reward + machine.reward_at_horizon, low, high)
    inner = RewardMachine(machine.next_state, reward, last - reward, machine.start)
    return MachineSource(name, inner.minimized(), source.horizon, source.prompts)


def gated(source: Source, gate: Source, name: str) -> Source:
    """Return ``source`` times ``gate``, token by token; for two machines it is a machine again.

    Raises:
        SourceContractError: a gate whose range leaves 0 to 1.
        ValueError: two machines of different horizons or vocabularies.
    """
    if gate.low < 0 or gate.high > 1:
        raise SourceContractError(
            f"the gate {gate.name!r} states the range {gate.low} to {gate.high}: give a gate between 0 and 1"
        )
    if not (isinstance(source, MachineSource) and isinstance(gate, MachineSource)):
        return Gated(name, source, gate)
    if source.horizon != gate.horizon:
        raise ValueError(
            f"{source.name!r} has the horizon {source.horizon} and {gate.name!r} {gate.horizon}: give both the same"
        )
    prompts = gate.prompts if source.prompts is None else source.prompts
    return MachineSource(name, source.machine * gate.machine, source.horizon, prompts)
