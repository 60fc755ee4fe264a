"""Reward machines: rewards over tokens by a finite automaton.

Source: Toro Icarte, Klassen, Valenzano and McIlraith 2018, "Using Reward Machines for High-Level Task
Specification and Decomposition in Reinforcement Learning"; here the events are the tokens.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tokenwalk.envs.arrays import FloatArray, IntArray
from tokenwalk.envs.rewards.automaton import Product, check_automaton, partition, product

TokenArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class RewardMachine:
    """A reward that depends on the tokens so far through one of Q states.

    In state q the token a has the reward ``reward[q, a]`` and leads to ``next_state[q, a]``. The H-th token, at which
    the horizon ends the episode, adds ``reward_at_horizon[q, a]``. Token V - 1 is
    ``<eos>``: the state after it is never read. Sums and products of machines are machines again.

    Attributes:
        next_state: int64 [Q, V].
        reward: float64 [Q, V], no unit.
        reward_at_horizon: float64 [Q, V]; a bare 0.0 stands for zeros.
        start: int64 [1], or [P] with one state per prompt; a bare integer is accepted.

    Raises:
        ValueError: shapes that disagree, entries that are not integers, a state out of range, or a reward that
            is not finite.
    """

    next_state: IntArray
    reward: FloatArray
    reward_at_horizon: FloatArray
    start: IntArray

    def __post_init__(self) -> None:
        next_state, start = check_automaton(self.next_state, self.start)
        object.__setattr__(self, "next_state", next_state)
        object.__setattr__(self, "start", start)
        for name in ("reward", "reward_at_horizon"):
            table = np.array(getattr(self, name), dtype=np.float64)
            if name == "reward_at_horizon" and table.ndim == 0:
                table = np.full(self.next_state.shape, table)
            if table.shape != self.next_state.shape:
                raise ValueError(
                    f"{name} has shape {table.shape}: next_state asks for {self.next_state.shape}"
                )
            if not np.isfinite(table).all():
                state, token = np.argwhere(~np.isfinite(table))[0]
                raise ValueError(
                    f"{name} is {table[state, token]} for token {token} in state {state}: give finite numbers"
                )
            object.__setattr__(self, name, table)
        for name in ("next_state", "reward", "reward_at_horizon", "start"):
            getattr(self, name).flags.writeable = False  # machines are shared between tasks and environments

    @property
    def n_states(self) -> int:
        """Return Q."""
        return int(self.next_state.shape[0])

    @property
    def n_tokens(self) -> int:
        """Return V, ``<eos>`` included."""
        return int(self.next_state.shape[1])

    @property
    def timing(self) -> Literal["token", "end"]:
        """Return "end" if only the last token of an episode has a reward, else "token"."""
        return "token" if self.reward[:, :-1].any() else "end"

    def run(self, completion: TokenArray, length: TokenArray, prompt: TokenArray | None = None) -> FloatArray:
        """Return the reward of every token, float64 [B, H]; 0 from ``length`` on.

        Args:
            completion: [B, H]; entries from ``length`` on are not read. H is the horizon.
            length: [B], tokens in each row, 0 to H.
            prompt: [B], the index of each row's prompt; needed where the machine has a start per prompt.

        Raises:
            ValueError: shapes that disagree, a token or a length out of range, a token after ``<eos>``, or a
                prompt missing or out of range.
        """
        tokens = self._checked_tokens(completion, length)
        state = self._starting_states(prompt, len(tokens))
        n_tokens, horizon = self.n_tokens, tokens.shape[1]
        following, reward = self.next_state.ravel(), self.reward.ravel()  # [Q * V]
        rewards = np.zeros(tokens.shape)
        for time in range(horizon):
            index = state * n_tokens + tokens[:, time]  # [B]
            rewards[:, time] = reward.take(index)
            if time == horizon - 1:
                rewards[:, time] += self.reward_at_horizon.ravel().take(index)
            state = following.take(index)
        rewards[np.arange(horizon) >= np.asarray(length)[:, None]] = 0.0
        return rewards

    def _checked_tokens(self, completion: TokenArray, length: TokenArray) -> IntArray:
        """Return ``completion`` with 0 for padding, int64 [B, H]. Raises ValueError as ``run`` says."""
        completion, length = np.asarray(completion), np.asarray(length)
        if (
            completion.ndim != 2
            or length.shape != completion.shape[:1]
            or {completion.dtype.kind, length.dtype.kind} - set("iu")
        ):
            raise ValueError(
                f"completion has shape {completion.shape} and dtype {completion.dtype}, "
                f"length {length.shape} and {length.dtype}: give integers [B, H] and [B]"
            )
        horizon = completion.shape[1]
        if length.size and not 0 <= length.min() <= length.max() <= horizon:
            raise ValueError(
                f"length spans {length.min()} to {length.max()}: completion has {horizon} columns"
            )
        tokens = np.where(np.arange(horizon) < length[:, None], completion, 0).astype(np.int64)
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.n_tokens:
            wrong = tokens[(tokens < 0) | (tokens >= self.n_tokens)][0]
            raise ValueError(f"token {wrong} is out of range: give tokens from 0 to {self.n_tokens - 1}")
        if (ended := (tokens[:, :-1] == self.n_tokens - 1) & (np.arange(1, horizon) < length[:, None])).any():
            row = int(np.flatnonzero(ended.any(axis=1))[0])
            raise ValueError(
                f"completion {row} goes on after <eos>: its length is {length[row]}, end it at <eos>"
            )
        return tokens

    def _starting_states(self, prompt: TokenArray | None, n_rows: int) -> IntArray:
        """Return the starting state of each row, [B]. Raises ValueError as ``run`` says."""
        if self.start.size == 1:
            return np.full(n_rows, self.start[0])
        if prompt is None or prompt.shape != (n_rows,):
            raise ValueError(
                f"this machine starts from one of {self.start.size} prompts: give their indices, [{n_rows}]"
            )
        if n_rows and not 0 <= prompt.min() <= prompt.max() < self.start.size:
            raise ValueError(
                f"prompt spans {prompt.min()} to {prompt.max()}: give 0 to {self.start.size - 1}"
            )
        return self.start[prompt]

    def __add__(self, other: "RewardMachine") -> "RewardMachine":
        """Return the machine of the sum of both rewards. Raises ValueError for another vocabulary."""
        both, mine, its = self._beside(other)
        reward = self.reward[mine] + other.reward[its]
        at_horizon = self.reward_at_horizon[mine] + other.reward_at_horizon[its]
        return RewardMachine(both.next_state, reward, at_horizon, both.start).minimized()

    def __mul__(self, other: "RewardMachine | float") -> "RewardMachine":
        """Return the machine of this reward times ``other``, a number or another machine.

        The product is taken per token: a machine of the rewards 0 and 1 gates the other.
        """
        if not isinstance(other, RewardMachine):
            return RewardMachine(
                self.next_state, self.reward * other, self.reward_at_horizon * other, self.start
            )
        both, mine, its = self._beside(other)
        reward = self.reward[mine] * other.reward[its]
        last = (self.reward + self.reward_at_horizon)[mine] * (other.reward + other.reward_at_horizon)[its]
        return RewardMachine(both.next_state, reward, last - reward, both.start).minimized()

    __rmul__ = __mul__

    def _beside(self, other: "RewardMachine") -> tuple[Product, IntArray, IntArray]:
        """Return the product automaton and, by its states, the state of this machine and of ``other``."""
        if self.n_tokens != other.n_tokens:
            raise ValueError(
                f"one machine reads {self.n_tokens} tokens, the other {other.n_tokens}: give two of the same vocabulary"
            )
        both = product([self.next_state, other.next_state], [self.start, other.start])
        return both, both.members[:, 0], both.members[:, 1]

    def minimized(self) -> "RewardMachine":
        """Return the smallest machine of the same reward: unreachable states removed, equivalent ones merged."""
        reachable = product([self.next_state], [self.start])
        old = reachable.members[:, 0]
        label = partition(reachable.next_state, np.hstack([self.reward[old], self.reward_at_horizon[old]]))
        first = np.unique(label, return_index=True)[1]
        next_state = label[reachable.next_state[first]]
        next_state[:, -1] = 0
        return RewardMachine(
            next_state, self.reward[old[first]], self.reward_at_horizon[old[first]], label[reachable.start]
        )

    def bounds(self, horizon: int) -> tuple[float, float]:
        """Return the minimum and the maximum reward of one token, over all completions within ``horizon``."""
        low, high = np.inf, -np.inf
        reached = np.zeros(self.n_states, dtype=np.bool_)
        reached[self.start] = True
        for time in range(horizon):
            reward = self.reward[reached]  # [reached states, V]
            if time == horizon - 1:
                reward = reward + self.reward_at_horizon[reached]
            low, high = min(low, float(reward.min())), max(high, float(reward.max()))
            following = self.next_state[reached, :-1]
            reached = np.zeros(self.n_states, dtype=np.bool_)
            reached[following] = True
        return low, high
