"""Potentials of unfinished texts, and the shaping rewards that come of them.

Shaping pays discount * Phi(after) - Phi(before) for every token, with Phi = 0 where the episode has ended: over an
episode the terms cancel but for -Phi(start), so no policy gains by them that would not gain without (Ng, Harada and
Russell 1999). The discount must be the learner's own.
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
    """What shaping must know of a task: ``Task`` itself."""

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
    """A potential that knows a text by the state of an automaton, and may know how many tokens it has.

    Attributes:
        next_state: int64 [Q, V]; after ``<eos>``, token V - 1, it is never read.
        start: int64 [1], or [N] with one state for each prompt.
        table: float64 [1, Q], or [H + 1, Q] with a row for each number of tokens written.
        prompts: integers [N, P], the task's; needed where there is a start for each.

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
        """Return the machine that pays the shaping reward, exactly; its state also counts tokens if the table does."""
        n_states, n_tokens = self.next_state.shape
        times = 1 if len(self.table) == 1 else horizon
        time, state = (index.ravel() for index in np.indices((times, n_states)))
        later = np.minimum(time + 1, len(self.table) - 1)
        following = self.next_state[state]
        ends = np.zeros((len(state), n_tokens), dtype=np.bool_)
        now = np.broadcast_to(self.table[time, state][:, None], ends.shape)
        after = self.table[later[:, None], following]
        at_horizon = shaping_reward(
            discount, ~ends, now, after
        )  # every token of the last step ends the episode
        ends[:, -1] = True
        reward = shaping_reward(discount, ends, now, after)
        counted = np.minimum(time + 1, times - 1)[:, None] * n_states
        return RewardMachine(counted + following, reward, at_horizon - reward, self.start).minimized()


@dataclass(frozen=True, eq=False)
class RememberedPotential:
    """A potential that is asked about each prefix once: for networks, whose learners come by the same texts again.

    Args:
        inner: a potential that does not change.
        limit: prefixes that are remembered; later ones are asked about each time.
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
    """Shaping by any potential as a source: discount * Phi(after the token) - Phi(before it). Make it with ``shape``.

    Its scores are float64, of the potential's unit. It leaves the optimal policy where it is, and the
    KL-regularised one too, if ``discount`` is the learner's.
    """

    name: str
    potential: Potential
    vocabulary: Vocabulary
    discount: float
    low: float = field(default=-np.inf, init=False)
    high: float = field(default=np.inf, init=False)
    paid: Literal["token"] = field(default="token", init=False)

    def score(self, batch: TokenBatch) -> FloatArray:
        """Return the shaping reward of each row's last token, float64 [B]."""
        now = self.potential.value(batch.before(self.vocabulary.pad))
        after, goes_on = np.zeros(len(now)), np.flatnonzero(~batch.last)
        if goes_on.size:
            after[goes_on] = self.potential.value(batch[goes_on])
        return shaping_reward(self.discount, batch.last, now, after)


def shape(potential: Potential, task: "Shaped", discount: float = 1.0, name: str = "shaping") -> Source:
    """Return the shaping of ``potential`` as a source of ``task``, an exact machine where the potential is an automaton's.

    Raises:
        ValueError: a discount outside (0, 1].
    """
    check_discount(discount)
    if isinstance(potential, AutomatonPotential):
        machine = potential.shaping_machine(discount, task.horizon)
        return MachineSource(name, machine, task.horizon, task.prompt_ids)
    return ShapingSource(name, potential, task.vocabulary, discount)


def distance_potential(machine: RewardMachine, prompts: TokenArray | None = None) -> AutomatonPotential:
    """Return the potential R (D + 1 - d) / (D + 1), where d is the fewest tokens to a payment of R, the machine's largest.

    D is the largest such distance from a state that can still come to it; a state that cannot has the potential 0. Of
    Password it is the share of the word that is already written.

    Raises:
        ValueError: a machine that never pays more than 0.
    """
    largest = float(machine.reward.max())
    if largest <= 0:
        raise ValueError("the machine never pays more than 0, so there is nothing to come nearer to")
    distance = np.where((machine.reward >= largest - 1e-12 * largest).any(axis=1), 1.0, np.inf)
    for _ in range(machine.n_states):
        nearer = np.minimum(distance, 1 + distance[machine.next_state[:, :-1]].min(axis=1))
        if (nearer == distance).all():
            break
        distance = nearer
    far = distance[np.isfinite(distance)].max()
    share = np.where(np.isfinite(distance), (far + 1 - distance) / (far + 1), 0.0)
    return AutomatonPotential(machine.next_state, machine.start, largest * share[None], prompts)
