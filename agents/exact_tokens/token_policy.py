"""Policies over tokens: their protocol, and those that are automata."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from tokenwalk.agents.exact.dynamic_programming import Solution
from tokenwalk.agents.exact.policy import SUM_TOLERANCE
from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.rewards.automaton import product
from tokenwalk.envs.rewards.machine import TokenArray
from tokenwalk.envs.rewards.source import TokenBatch, states_after
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.token_model import TokenModel

ROWS_AT_ONCE = 4_096  # prefixes in one call of a policy


class Policy(Protocol):
    """A policy over tokens: a table, a network, the exact optimum. It is called with unfinished prefixes only."""

    def log_probs(self, batch: TokenBatch) -> npt.NDArray[np.floating]:
        """Return the natural log-probability of each token after each prefix, [B, V].

        The probabilities of a row sum to 1. A token of probability 0 is -inf: a row of a greedy policy has one 0.
        """


@runtime_checkable
class FastSampler(Policy, Protocol):
    """A policy that samples whole completions faster than token by token."""

    def sample(
        self, task: Task, count: int, rng: np.random.Generator
    ) -> tuple[IntArray, TokenArray, FloatArray]:
        """Return ``count`` independent completions, each after a prompt sampled by its weight.

        The index of each prompt, int64 [B]; tokens, integers [B, H], padded with V; the natural log-probability of each
        completion, float64 [B].
        """


@dataclass(frozen=True, eq=False)
class AutomatonPolicy:
    """A policy whose input is the number of tokens so far and one of S states.

    Attributes:
        next_state: int64 [S, V]. The column of ``<eos>``, token V - 1, is never read.
        start: int64 [1], or [N] with one state per prompt.
        table: float64 [H or 1, S, V], the probability of each token; one table is used at every step.
        prompts: integers [N, P], the task's.
    """

    next_state: IntArray
    start: IntArray
    table: FloatArray
    prompts: TokenArray

    def states(self, batch: TokenBatch) -> IntArray:
        """Return the state that each prefix leads to, int64 [B]. Raises ValueError for an unknown prompt."""
        return states_after(self.next_state, self.start, self.prompts, batch)

    def log_probs(self, batch: TokenBatch) -> FloatArray:
        """Return the natural log-probability of each token after each prefix, float64 [B, V]."""
        time = np.minimum(batch.length, len(self.table) - 1)
        with np.errstate(divide="ignore"):
            return np.log(self.table[time, self.states(batch)])


def reference_on_tokens(task: Task) -> AutomatonPolicy:
    """Return the reference policy of ``task`` as a policy over tokens."""
    reference = task.reference
    return AutomatonPolicy(
        reference.next_context, reference.start, reference.probability[None], task.prompt_ids
    )


def exact_policy(model: TokenModel, solution: Solution) -> AutomatonPolicy:
    """Return the policy of a ``solution`` of ``model.tabular_mdp()`` as a policy over tokens. Raises as ``table_policy``."""
    return table_policy(model, solution.policy)


def table_policy(model: TokenModel, table: FloatArray) -> AutomatonPolicy:
    """Return a policy of ``model.tabular_mdp()``, float64 [H or 1, S, V], as a policy over tokens.

    Raises:
        ValueError: a policy of other tables.
    """
    reference = model.task.reference
    joint = product([model.next_state, reference.next_context], [model.start, reference.start])
    if table.shape[1:] != joint.next_state.shape:
        raise ValueError(
            f"the policy is of {table.shape[1:]} states and actions, the tables of {model.task.name} have "
            f"{joint.next_state.shape}: solve model.tabular_mdp() of the same model"
        )
    return AutomatonPolicy(joint.next_state, joint.start, table, model.task.prompt_ids)


def ask(policy: Policy, batch: TokenBatch, allowed: BoolArray) -> FloatArray:
    """Return the probability of each token after each prefix, float64 [B, V], in rows that sum to 1.

    Args:
        policy: called with at most 4,096 prefixes at once.
        batch: unfinished prefixes.
        allowed: bool [B, V], the allowed tokens.

    Raises:
        ValueError: another shape, a row that does not sum to 1 within 1e-5 (or holds a NaN), or probability on
            a token that is not allowed.
    """
    probability = np.empty(allowed.shape)
    for first in range(0, len(allowed), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        answer = policy.log_probs(batch[rows])
        if np.shape(answer) != allowed[rows].shape:
            raise ValueError(f"log_probs returned {np.shape(answer)}: give [B, V] = {allowed[rows].shape}")
        probability[rows] = np.exp(np.asarray(answer, dtype=np.float64))
    total = probability.sum(axis=1)
    if not (sound := np.abs(total - 1) <= SUM_TOLERANCE).all():  # a NaN is not sound either
        row = int(sound.argmin())
        raise ValueError(
            f"the policy's probabilities after the tokens {_tokens(batch, row)} sum to {total[row]}: "
            "give natural log-probabilities of a row that sums to 1"
        )
    if (stray := (probability > 0) & ~allowed).any():
        row, token = np.argwhere(stray)[0]
        raise ValueError(
            f"the policy gives {probability[row, token]} to token {token} after the tokens "
            f"{_tokens(batch, row)}, where it is masked: give it -inf"
        )
    return np.asarray(probability / total[:, None])


def _tokens(batch: TokenBatch, row: int) -> list[int]:
    """Return the tokens of one prefix, for an error."""
    tokens: list[int] = batch.completion[row][: int(batch.length[row])].tolist()
    return tokens
