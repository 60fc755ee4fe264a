"""Builders of reward machines: keywords, exact answers, brackets, token weights, any step function.

Every builder takes token ids; ``n_tokens`` is V, and token V - 1 is ``<eos>``. Each returns the smallest
machine.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np

from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.automaton import TooManyStatesError
from tokenwalk.envs.rewards.machine import RewardMachine

State = TypeVar("State", bound=Hashable)
Step = Callable[[State, int], tuple[State, float]]
# The expected closing brackets and the number of pairs opened so far; None after an error.
_Open = tuple[tuple[int, ...], int] | None
STEP_LIMIT = 20_000  # states explored from a Python function; 50 tokens each take a second or so


def from_step_function(
    step: Step[State],
    starts: Sequence[State],
    n_tokens: int,
    at_horizon: Callable[[State, int], float] | None = None,
    limit: int = STEP_LIMIT,
) -> RewardMachine:
    """Return the machine of a Python function, explored breadth-first from ``starts``.

    Args:
        step: ``step(state, token) -> (next state, reward)``, pure; states are hashable. The state after
            ``<eos>`` is not read.
        starts: the state before the first token: one, or one for each prompt.
        n_tokens: V.
        at_horizon: additional reward of the H-th token; 0 if None.
        limit: maximum number of states.

    Raises:
        TooManyStatesError: more than ``limit`` states, with the count reached.
    """
    number = {state: index for index, state in enumerate(dict.fromkeys(starts))}
    states = list(number)
    following: list[list[int]] = []
    rewards: list[list[float]] = []
    for state in states:  # grows during the loop: breadth first
        outcomes = [step(state, token) for token in range(n_tokens)]
        for reached, _ in outcomes[:-1]:
            if reached not in number:
                number[reached] = len(states)
                states.append(reached)
        if len(states) > limit:
            raise TooManyStatesError(
                f"the step function has more than {limit:,} states (found {len(states):,} after "
                f"{len(rewards) + 1:,} were expanded): use a smaller state, or raise the limit"
            )
        following.append([number[reached] for reached, _ in outcomes[:-1]] + [0])
        rewards.append([reward for _, reward in outcomes])
    extra = [
        [at_horizon(state, token) if at_horizon else 0.0 for token in range(n_tokens)] for state in states
    ]
    start = np.array([number[state] for state in starts])
    return RewardMachine(np.array(following), np.array(rewards), np.array(extra), start).minimized()


def keyword(
    word: Sequence[int], n_tokens: int, reward: float = 1.0, afterwards: float | None = None
) -> RewardMachine:
    """Return the machine that gives ``reward`` where the last tokens spell ``word``.

    The state is the length of the longest prefix of ``word`` that the tokens so far end with (Knuth, Morris
    and Pratt 1977).

    Args:
        word: token ids.
        n_tokens: V.
        reward: of the token that completes the word.
        afterwards: with None each occurrence has the reward, overlapping ones too. With a number only the first one
            has it, and each later token but ``<eos>`` has that number as reward.

    Raises:
        ValueError: an empty word, a token out of range, or ``<eos>`` in the word.
    """
    word = _checked_word(word, n_tokens)
    if not word:
        raise ValueError("the word is empty: give it one token or more")

    def longest_match(tokens: tuple[int, ...], most: int) -> int:
        return next(size for size in range(most, -1, -1) if tokens[len(tokens) - size :] == word[:size])

    def step(matched: int, token: int) -> tuple[int, float]:
        if matched < 0:  # the word is complete, and only its first occurrence has the reward
            return matched, (afterwards or 0.0) if token != n_tokens - 1 else 0.0
        reached = longest_match((*word[:matched], token), matched + 1)
        if reached < len(word):
            return reached, 0.0
        return (longest_match(word, len(word) - 1) if afterwards is None else -1), reward

    return from_step_function(step, [0], n_tokens)


def exact_answers(answers: Sequence[Sequence[int]], n_tokens: int, reward: float = 1.0) -> RewardMachine:
    """Return the machine that gives ``reward`` at ``<eos>`` if the completion is exactly the prompt's answer.

    ``answers`` holds one answer for each prompt; a single one is an exact string. The state is the rest
    of the answer. A completion that the horizon ends has the reward 0.

    Raises:
        ValueError: no answers, a token out of range, or ``<eos>`` in an answer.
    """
    if not answers:
        raise ValueError("answers is empty: give one answer, or one for each prompt")

    def step(remaining: tuple[int, ...] | None, token: int) -> tuple[tuple[int, ...] | None, float]:
        if token == n_tokens - 1:
            return None, reward if remaining == () else 0.0
        return (remaining[1:] if remaining and remaining[0] == token else None), 0.0

    starts: list[tuple[int, ...] | None] = [_checked_word(answer, n_tokens) for answer in answers]
    return from_step_function(step, starts, n_tokens)


def balanced_brackets(
    pairs: Sequence[tuple[int, int]], n_tokens: int, max_depth: int, max_pairs: int, reward_per_pair: float
) -> RewardMachine:
    """Return the machine that gives ``reward_per_pair`` for each matched pair, at ``<eos>``, if all are balanced.

    Args:
        pairs: the opening and the closing token of each kind.
        n_tokens: V.
        max_depth: maximum number of open pairs; above it the reward is 0.
        max_pairs: maximum number of pairs; above it the reward is 0. A horizon has room for (H - 1) // 2.
        reward_per_pair: reward of each pair.

    Raises:
        ValueError: a token out of range or used twice.
    """
    tokens = _checked_word([token for pair in pairs for token in pair], n_tokens)
    if len(set(tokens)) < len(tokens):
        raise ValueError(f"the pairs {list(pairs)} use a token twice: give each bracket another token")
    closing = dict(pairs)

    def step(state: _Open, token: int) -> tuple[_Open, float]:
        if state is None:
            return None, 0.0
        expected, opened = state
        if token == n_tokens - 1:
            return None, opened * reward_per_pair if not expected else 0.0
        if token in closing:
            if len(expected) == max_depth or opened == max_pairs:
                return None, 0.0
            return ((*expected, closing[token]), opened + 1), 0.0
        return ((expected[:-1], opened) if expected and expected[-1] == token else None), 0.0

    starts: list[_Open] = [((), 0)]
    return from_step_function(step, starts, n_tokens)


def token_weights(weights: Sequence[float] | FloatArray) -> RewardMachine:
    """Return the machine of one state whose reward is ``weights[token]``, [V], ``<eos>`` last."""
    reward = np.array([weights], dtype=np.float64)
    return RewardMachine(
        np.zeros(reward.shape, dtype=np.int64), reward, np.zeros(reward.shape), np.zeros(1, dtype=np.int64)
    )


def _checked_word(word: Sequence[int], n_tokens: int) -> tuple[int, ...]:
    """Return ``word`` as a tuple of ints. Raises ValueError for a token out of range, and for ``<eos>``."""
    for token in word:
        if not 0 <= token < n_tokens - 1:
            raise ValueError(
                f"token {token} is out of range: give tokens from 0 to {n_tokens - 2}, without <eos>"
            )
    return tuple(int(token) for token in word)
