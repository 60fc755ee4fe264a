"""Reward functions over tokens: their input, their contract, and the scorer of whole completions."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.rewards.machine import RewardMachine, TokenArray
from tokenwalk.envs.vocabulary import Vocabulary


class SourceContractError(ValueError):
    """A reward function that broke its contract; the message has its name."""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """B prefixes: sub-environments, nodes of a tree, or whole completions. Padding is the id V.

    Attributes:
        prompt: integers [B, P], padded on the left.
        completion: integers [B, H], padded on the right; H is the horizon.
        length: integers [B], tokens of the completion so far, ``<eos>`` included.
        last: bool [B], whether the last of them ended the episode: ``<eos>`` or the H-th token.
    """

    prompt: TokenArray
    completion: TokenArray
    length: TokenArray
    last: BoolArray

    def __getitem__(self, rows: BoolArray | IntArray | slice) -> "TokenBatch":
        """Return the chosen rows."""
        return TokenBatch(self.prompt[rows], self.completion[rows], self.length[rows], self.last[rows])

    def before(self, pad: int) -> "TokenBatch":
        """Return each row with its last token replaced by ``pad``; ``length`` is 1 or more."""
        length = np.asarray(self.length, dtype=np.int64) - 1
        completion = np.array(self.completion)
        completion[np.arange(len(length)), length] = pad
        return TokenBatch(self.prompt, completion, length, np.zeros(len(length), dtype=np.bool_))


@runtime_checkable
class Source(Protocol):
    """A named reward function: a small picklable class. Where ``timing`` is "end", it scores only ``last`` rows."""

    @property
    def name(self) -> str:
        """Return the name under which the reward is logged."""

    @property
    def low(self) -> float:
        """Return the minimum reward of one token."""

    @property
    def high(self) -> float:
        """Return the maximum reward of one token."""

    @property
    def timing(self) -> Literal["token", "end"]:
        """Return "token" if every token is scored, "end" if only the last one of the episode is."""

    def score(self, batch: TokenBatch) -> FloatArray:
        """Return the reward of each row's last token, float64 [B], finite, from ``low`` to ``high``."""


class Potential(Protocol):
    """A value of prefixes for potential-based shaping; ``shaping_reward`` forms the differences."""

    def value(self, batch: TokenBatch) -> FloatArray:
        """Return the value of each prefix, float64 [B]; the value of a ``last`` row is not read."""


@dataclass(frozen=True, eq=False)
class MachineSource:
    """A reward machine as a reward function; its range over all completions is exact.

    Args:
        name: under which it is logged.
        machine: with one start, or one for each prompt.
        horizon: H, the tokens after which an episode ends.
        prompts: integers [N, P], the task's prompts; needed where the machine has a start for each prompt.

    Raises:
        ValueError: a machine with several starts and no prompt for each.
    """

    name: str
    machine: RewardMachine
    horizon: int
    prompts: TokenArray | None = None
    low: float = field(init=False)
    high: float = field(init=False)

    def __post_init__(self) -> None:
        n_starts, n_prompts = self.machine.start.size, 0 if self.prompts is None else len(self.prompts)
        if n_starts > 1 and n_starts != n_prompts:
            raise ValueError(
                f"source {self.name!r} has {n_starts} starts and {n_prompts} prompts: give one prompt for each start"
            )
        low, high = self.machine.bounds(self.horizon)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def timing(self) -> Literal["token", "end"]:
        """Return "end" if only the last token of an episode has a reward, else "token"."""
        return self.machine.timing

    def run(self, prompt: TokenArray, completion: TokenArray, length: TokenArray) -> FloatArray:
        """Return the reward of every token, float64 [B, H]. Raises ValueError for an unknown prompt."""
        if self.prompts is None or self.machine.start.size == 1:
            return self.machine.run(completion, length)
        return self.machine.run(completion, length, find_rows(self.prompts, prompt))

    def score(self, batch: TokenBatch) -> FloatArray:
        """Return the reward of each row's last token, float64 [B]; ``length`` is 1 or more."""
        rewards = self.run(batch.prompt, batch.completion, batch.length)
        return rewards[np.arange(len(rewards)), np.asarray(batch.length, dtype=np.int64) - 1]


def find_rows(table: TokenArray, rows: TokenArray) -> IntArray:
    """Return the index in ``table`` [N, P] of each of ``rows`` [B, P]. Raises ValueError for a new one."""
    both = np.concatenate([np.asarray(table, dtype=np.int64), np.asarray(rows, dtype=np.int64)])
    code = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1)
    index = np.full(len(both), -1)
    index[code[: len(table)]] = np.arange(len(table))
    found = index[code[len(table) :]]
    if (found < 0).any():
        raise ValueError(
            f"prompt {np.asarray(rows)[found < 0][0].tolist()} is none of the task's {len(table)} prompts"
        )
    return found


def states_after(
    next_state: IntArray, start: IntArray, prompts: TokenArray | None, batch: TokenBatch
) -> IntArray:
    """Return the state of an automaton after each prefix, int64 [B].

    Args:
        next_state: int64 [S, V]. start: int64 [1], or [N] with one state for each prompt.
        prompts: integers [N, P], the task's; needed where there is a start for each.
        batch: prefixes; an ended one includes its last token.

    Raises:
        ValueError: an unknown prompt.
    """
    length = np.asarray(batch.length)
    state = np.full(len(length), start[0])
    if start.size > 1 and prompts is not None:
        state = start[find_rows(prompts, batch.prompt)]
    for time in range(int(length.max(initial=0))):
        started = time < length  # [B]
        token = np.where(started, batch.completion[:, time], 0)  # [B]
        state = np.where(started, next_state[state, token], state)  # [B]
    return state


def check_source(source: object) -> Source:
    """Return ``source``. Raises SourceContractError unless it has name, range, ``timing`` and ``score``."""
    if not isinstance(source, Source):
        raise SourceContractError(
            f"{source!r} is no source: it needs name, low, high, timing and score(batch)"
        )
    if not isinstance(source.name, str) or not source.name:
        raise SourceContractError(f"a source is called {source.name!r}: give it a name")
    if not source.low <= source.high:
        raise SourceContractError(
            f"source {source.name!r} states the range {source.low} to {source.high}: give low <= high"
        )
    if source.timing not in ("token", "end"):
        raise SourceContractError(
            f"source {source.name!r} has the timing {source.timing!r}: give 'token' or 'end'"
        )
    return source


def score_strictly(source: Source, batch: TokenBatch, vocabulary: Vocabulary) -> FloatArray:
    """Return ``source.score(batch)``, checked, float64 [B]; 0 where the timing is "end" and the row is not ``last``.

    Raises:
        SourceContractError: not an array of float64 [B], a NaN, an infinity, or a score outside the stated range; the
            message has the name and the text. No error is replaced by 0.
    """
    asked = np.ones(len(batch.last), dtype=np.bool_) if source.timing == "token" else np.asarray(batch.last)
    result = np.zeros(len(asked))
    if not asked.any():
        return result
    given = batch if asked.all() else batch[asked]
    scores = source.score(given)
    count = len(given.last)
    if not isinstance(scores, np.ndarray) or scores.dtype != np.float64 or scores.shape != (count,):
        shown = (
            f"{scores.dtype} {list(scores.shape)}"
            if isinstance(scores, np.ndarray)
            else type(scores).__name__
        )
        raise SourceContractError(
            f"source {source.name!r} returned {shown} for {count} texts, "
            f"the first {_text(given, 0, vocabulary)}: return an array of float64 [{count}]"
        )
    within = (scores >= source.low) & (scores <= source.high) & np.isfinite(scores)  # NaN compares false
    if not within.all():
        row = int(np.flatnonzero(~within)[0])
        raise SourceContractError(
            f"source {source.name!r} returned {scores[row]} for {_text(given, row, vocabulary)}: "
            f"its range is {source.low} to {source.high}"
        )
    result[asked] = scores
    return result


def _text(batch: TokenBatch, row: int, vocabulary: Vocabulary) -> str:
    """Return the prompt and the completion of one row as text."""
    ids = batch.completion[row][: int(batch.length[row])]
    end = f" (ended by {vocabulary.tokens[-1]})" if vocabulary.eos in ids else ""
    return f"prompt {vocabulary.decode(batch.prompt[row])!r}, completion {vocabulary.decode(ids)!r}{end}"


def score_tokens(
    sources: Iterable[Source],
    prompt: TokenArray,
    completion: TokenArray,
    length: TokenArray,
    vocabulary: Vocabulary,
) -> dict[str, FloatArray]:
    """Return the reward of every token by every reward function, float64 [B, H] by name; 0 from ``length`` on.

    Each function gets the input that it gets in an environment: for the t-th token the first t tokens, then padding.

    Args:
        sources: reward functions of different names.
        prompt: integers [B, P]. completion: integers [B, H], H the horizon. length: integers [B].
        vocabulary: gives ``<eos>``, the padding, and the text of an error.

    Raises:
        SourceContractError: a reward function that breaks its contract. ValueError: shapes, tokens or lengths out of
            range.
    """
    prompt, completion, length = np.asarray(prompt), np.asarray(completion), np.asarray(length)
    if completion.ndim != 2 or prompt.ndim != 2 or not len(prompt) == len(completion) == len(length):
        raise ValueError(
            f"prompt, completion, length have shapes {prompt.shape}, {completion.shape}, {length.shape}: "
            "give [B, P], [B, H] and [B]"
        )
    return {
        source.name: source.run(prompt, completion, length)
        if isinstance(source, MachineSource)
        else _score_prefixes(source, prompt, completion, length, vocabulary)
        for source in sources
    }


def _score_prefixes(
    source: Source, prompt: TokenArray, completion: TokenArray, length: TokenArray, vocabulary: Vocabulary
) -> FloatArray:
    """Return the score of every prefix by a reward function that is not a machine, float64 [B, H].

    One of timing "end" is called once, for all completions that have ended.
    """
    horizon = completion.shape[1]
    rewards = np.zeros(completion.shape)
    if source.timing == "end":
        at = np.maximum(length, 1) - 1  # [B], the position of the last token
        ended = (completion[np.arange(len(at)), at] == vocabulary.eos) | (length == horizon)
        rows = np.flatnonzero(ended & (length > 0))
        batch = TokenBatch(prompt[rows], completion[rows], length[rows], np.ones(len(rows), dtype=np.bool_))
        rewards[rows, at[rows]] = score_strictly(source, batch, vocabulary)
        return rewards
    for time in range(horizon):
        rows = np.flatnonzero(length > time)
        prefix = np.full((len(rows), horizon), vocabulary.pad, dtype=completion.dtype)
        prefix[:, : time + 1] = completion[rows, : time + 1]
        last = (prefix[:, time] == vocabulary.eos) | (time == horizon - 1)
        batch = TokenBatch(prompt[rows], prefix, np.full(len(rows), time + 1), last)
        rewards[rows, time] = score_strictly(source, batch, vocabulary)
    return rewards
