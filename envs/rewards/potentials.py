"""Potentials of unfinished texts, and their shaping rewards.

The shaping reward of a token is discount * Phi(after) - Phi(before), with Phi = 0 where the episode has ended. Over an
episode the terms sum to -Phi(start), so the optimal policies do not change (Ng, Harada and Russell 1999). The discount
must be the learner's.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from tokenwalk.envs.arrays import FloatArray, IntArray
from tokenwalk.envs.rewards.machine import RewardMachine, TokenArray
from tokenwalk.envs.rewards.shaping import check_discount, shaping_reward
from tokenwalk.envs.rewards.source import MachineSource, Potential, Source, TokenBatch, states_after
from tokenwalk.envs.vocabulary import Vocabulary


class Shaped(Protocol):
    """The part of a ``Task`` that shaping needs."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Return V tokens."""

    @property
    def horizon(self) -> int:
        """Return H."""

    @property
    def prompt_ids(self) -> TokenArray:
        """Return the prompts, integers [N, P]."""


@dataclass(frozen=True, eq=False)
class AutomatonPotential:
    """A potential of the state of an automaton and, optionally, of the number of tokens.

    Attributes:
        next_state: int64 [Q, V]; after ``<eos>``, token V - 1, it is never read.
        start: int64 [1], or [N] with one state for each prompt.
        table: float64 [1, Q], or [H + 1, Q] with a row for each number of tokens.
        prompts: integers [N, P], the task's; needed where there is a start for each prompt.

    Raises:
        ValueError: shapes that disagree, or a value that is not finite.
    """

    next_state: IntArray
    start: IntArray
    table: FloatArray
    prompts: TokenArray | None = None

    def __post_init__(self) -> None:
        if self.table.ndim != 2 or self.table.shape[1] != len(self.next_state):
            raise ValueError(
                f"the table has shape {self.table.shape}: give [1 or H + 1, Q = {len(self.next_state)}]"
            )
        if not np.isfinite(self.table).all():
            raise ValueError("a potential is not finite: give finite numbers")

    def value(self, batch: TokenBatch) -> FloatArray:
        """Return the potential of each prefix, float64 [B]. Raises ValueError for an unknown prompt."""
        state = states_after(self.next_state, self.start, self.prompts, batch)
        value: FloatArray = self.table[np.minimum(batch.length, len(self.table) - 1), state]
        return value

    def shaping_machine(self, discount: float, horizon: int) -> RewardMachine:
        """Return the machine of the exact shaping reward; its state counts the tokens if the table does."""
        n_states, n_tokens = self.next_state.shape
        times = 1 if len(self.table) == 1 else horizon
        time, state = (index.ravel() for index in np.indices((times, n_states)))
        later = np.minimum(time + 1, len(self.table) - 1)
        following = self.next_state[state]  # [times * Q, V]
        ends = np.zeros((len(state), n_tokens), dtype=np.bool_)
        now = np.broadcast_to(self.table[time, state][:, None], ends.shape)
        after = self.table[later[:, None], following]
        # Every token of the last step ends the episode.
        at_horizon = shaping_reward(discount, ~ends, now, after)
        ends[:, -1] = True
        reward = shaping_reward(discount, ends, now, after)
        counted = np.minimum(time + 1, times - 1)[:, None] * n_states
        return RewardMachine(counted + following, reward, at_horizon - reward, self.start).minimized()


@dataclass(frozen=True, eq=False)
class RememberedPotential:
    """A cache around a slow potential: it is called once for each prefix.

    Args:
        inner: a potential that does not change.
        limit: maximum number of cached prefixes; later ones are not cached.
    """

    inner: Potential
    limit: int = 200_000
    _known: dict[bytes, float] = field(default_factory=dict, init=False, repr=False)

    def value(self, batch: TokenBatch) -> FloatArray:
        """Return the potential of each prefix, float64 [B]."""
        tokens = np.hstack([batch.prompt, batch.completion, np.asarray(batch.length)[:, None]]).astype(
            np.int64
        )
        keys = [row.tobytes() for row in tokens]
        found = [self._known.get(key) for key in keys]
        new = np.array([row for row, value in enumerate(found) if value is None], dtype=np.int64)
        values = np.array([0.0 if value is None else value for value in found])
        if new.size:
            values[new] = self.inner.value(batch[new])
            if len(self._known) + new.size <= self.limit:
                self._known.update(zip([keys[row] for row in new], values[new].tolist(), strict=True))
        return values


@dataclass(frozen=True, eq=False)
class ShapingSource:
    """Shaping by any potential: discount * Phi(after the token) - Phi(before it). Make it with ``shape``.

    Its scores are float64, of the potential's unit. It changes neither the optimal policy nor the KL-regularized one
    if ``discount`` is the learner's.
    """

    name: str
    potential: Potential
    vocabulary: Vocabulary
    discount: float
    low: float = field(default=-np.inf, init=False)
    high: float = field(default=np.inf, init=False)
    timing: Literal["token"] = field(default="token", init=False)

    def score(self, batch: TokenBatch) -> FloatArray:
        """Return the shaping reward of each row's last token, float64 [B]."""
        now = self.potential.value(batch.before(self.vocabulary.pad))
        after, goes_on = np.zeros(len(now)), np.flatnonzero(~batch.last)
        if goes_on.size:
            after[goes_on] = self.potential.value(batch[goes_on])
        return shaping_reward(self.discount, batch.last, now, after)


def shape(potential: Potential, task: "Shaped", discount: float = 1.0, name: str = "shaping") -> Source:
    """Return the shaping of ``potential`` for ``task``, an exact machine where the potential is an automaton's.

    Raises:
        ValueError: a discount outside (0, 1].
    """
    check_discount(discount)
    if isinstance(potential, AutomatonPotential):
        machine = potential.shaping_machine(discount, task.horizon)
        return MachineSource(name, machine, task.horizon, task.prompt_ids)
    return ShapingSource(name, potential, task.vocabulary, discount)


def distance_potential(machine: RewardMachine, prompts: TokenArray | None = None) -> AutomatonPotential:
    """Return the potential R (D + 1 - d) / (D + 1), where R is the machine's maximum reward and d the minimum number of
    tokens to it.

    D is the maximum of d over the states that can reach R; a state that cannot has the potential 0. In Password it is
    the share of the word that is already generated.

    Raises:
        ValueError: a machine without a positive reward.
    """
    largest = float(machine.reward.max())
    if largest <= 0:
        raise ValueError("the machine has no positive reward: give one that has")
    distance = np.where((machine.reward >= largest - 1e-12 * largest).any(axis=1), 1.0, np.inf)
    for _ in range(machine.n_states):
        nearer = np.minimum(distance, 1 + distance[machine.next_state[:, :-1]].min(axis=1))
        if (nearer == distance).all():
            break
        distance = nearer
    far = distance[np.isfinite(distance)].max()
    share = np.where(np.isfinite(distance), (far + 1 - distance) / (far + 1), 0.0)
    return AutomatonPotential(machine.next_state, machine.start, largest * share[None], prompts)
