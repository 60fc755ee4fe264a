"""Finite automata over tokens, for reward machines, reference policies and their products.

An automaton is ``next_state`` [Q, V] and ``start`` [P] (one state, or one per prompt). The last token, V - 1,
is ``<eos>``: it ends the episode, so the state after it is never read and is set to 0.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tokenwalk.envs.arrays import FloatArray, IntArray

MAX_STATES = 200_000


class TooManyStatesError(ValueError):
    """An automaton that is larger than its limit; the message holds the count."""


def check_automaton(
    next_state: Any, start: Any, names: tuple[str, str] = ("next_state", "start")
) -> tuple[IntArray, IntArray]:
    """Return both as int64, [Q, V] and [P], where a bare ``start`` becomes [1]; ``names`` are used in errors.

    Raises:
        ValueError: not integers, another shape, or a state out of range.
    """
    table, first = np.array(next_state), np.atleast_1d(np.array(start))
    for name, states in zip(names, (table, first), strict=True):
        if states.dtype.kind not in "iu":
            raise ValueError(f"{name} has dtype {states.dtype}: give integers, the numbers of states")
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise ValueError(
            f"{names[0]} has shape {table.shape}: give [Q, V] with Q of 1 or more and V of 2 or more"
        )
    if first.ndim != 1 or not first.size:
        raise ValueError(f"{names[1]} has shape {first.shape}: give one state, or one for each prompt")
    for name, states in zip(names, (table, first), strict=True):
        if states.min() < 0 or states.max() >= len(table):
            worst = states.min() if states.min() < 0 else states.max()
            raise ValueError(f"{name} holds the state {worst}: give states from 0 to {len(table) - 1}")
    return table.astype(np.int64), first.astype(np.int64)


class Product(NamedTuple):
    """The reachable product of n automata, with S states."""

    next_state: IntArray  # [S, V]
    members: IntArray  # [S, n]: the state of each automaton
    start: IntArray  # [P]


def product(tables: Sequence[IntArray], starts: Sequence[IntArray], limit: int = MAX_STATES) -> Product:
    """Return the automata of ``tables`` (each [Q_i, V]) run side by side, unreachable states left out.

    Args:
        tables: the next states of each automaton, over the same V tokens.
        starts: the starting states of each, [1] or [P]; a single one serves every prompt.
        limit: maximum number of states.

    Raises:
        TooManyStatesError: more than ``limit`` reachable states, or sizes whose product leaves 62 bits.
        ValueError: starts of different numbers of prompts.
    """
    sizes = [len(table) for table in tables]
    if prod(sizes) >= 2**62:
        raise TooManyStatesError(
            f"a product of {sizes} states has {prod(sizes):.1e}: minimize the parts or leave some out"
        )
    counts = {len(start) for start in starts} - {1}
    if len(counts) > 1:
        raise ValueError(
            f"the parts start from {sorted(counts)} prompts: give one start, or one for each prompt"
        )
    n_prompts = max(len(start) for start in starts)

    def code(members: Sequence[IntArray]) -> IntArray:
        return np.asarray(np.ravel_multi_index(tuple(members), sizes), dtype=np.int64)

    def successors(keys: IntArray) -> IntArray:
        """Return the codes after each token but <eos>, [len(keys), V - 1]."""
        return code(
            [table[state, :-1] for table, state in zip(tables, np.unravel_index(keys, sizes), strict=True)]
        )

    start = code([np.broadcast_to(one, n_prompts) for one in starts])
    known = frontier = np.unique(start)
    while frontier.size:
        frontier = np.setdiff1d(successors(frontier), known)
        known = np.union1d(known, frontier)
        if known.size > limit:
            raise TooManyStatesError(
                f"the product of machines of {sizes} states has more than {limit:,} reachable ones "
                f"(found {known.size:,}): "
                "minimize the parts, leave some out, or raise the limit"
            )
    next_state = np.zeros((known.size, tables[0].shape[1]), dtype=np.int64)
    next_state[:, :-1] = np.searchsorted(known, successors(known))
    return Product(
        next_state, np.stack(np.unravel_index(known, sizes), axis=1), np.searchsorted(known, start)
    )


def partition(next_state: IntArray, outputs: FloatArray) -> IntArray:
    """Return the class of each state, [Q] in 0..n-1: two states share one if every completion gives both the same outputs.

    Moore's refinement: states are first split by ``outputs`` [Q, K], then by the classes of their successors,
    until no class splits. Outputs are compared exactly.
    """
    label = np.unique(outputs + 0.0, axis=0, return_inverse=True)[1].reshape(-1)  # + 0.0: -0.0 is 0.0
    while True:
        signature = np.column_stack([label, label[next_state[:, :-1]]])
        refined = np.unique(signature, axis=0, return_inverse=True)[1].reshape(-1)
        if refined.max() == label.max():
            return np.asarray(refined, dtype=np.int64)
        label = refined
