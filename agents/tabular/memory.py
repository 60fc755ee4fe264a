"""What the runs of a tabular agent remember: made, grown, and lent to the drivers, who change it."""

import math
from typing import Any

import numpy as np

from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.tabular.kernels import NEVER, WINDOW, Learner, World
from tokenwalk.envs.arrays import FloatArray, IntArray
from tokenwalk.envs.tabular import TabularMDP

# What ``lent`` copies into lists and ``hand_back`` writes back.
_SMALL = ("waiting_row", "waiting_action", "waiting_reward", "waiting_excess", "cursor", "return_so_far")


def new_memory(config: QLearningConfig, runs: int, n_rows: int, n_actions: int) -> Learner:
    """Return R runs that know nothing: every entry at ``initial_value``, a uniform reference policy."""
    tables = (runs, 3 if config.backup == "double-q" else 1, n_rows, n_actions)
    counts = tables if config.step_size_half_life > 0 else (runs, 0, 0, 0)
    queue = (runs, config.n_step)
    return Learner(
        q=np.full(tables, float(config.initial_value)),
        visits=np.zeros(counts, dtype=np.int64),
        log_reference=np.full((n_rows, n_actions), -math.log(n_actions)),
        waiting_row=np.zeros(queue, dtype=np.int64),
        waiting_action=np.zeros(queue, dtype=np.int64),
        waiting_reward=np.zeros(queue),
        waiting_excess=np.zeros(queue),
        cursor=np.zeros((runs, 8), dtype=np.int64),
        return_so_far=np.zeros((runs, 1)),
        recent=np.zeros((runs, 2, WINDOW)),
    )


def grown(memory: Learner, config: QLearningConfig, n_rows: int) -> Learner:
    """Return ``memory`` with room for at least ``n_rows`` rows, the new ones as in ``new_memory``."""
    runs, _, had, n_actions = memory.q.shape
    if n_rows <= had:
        return memory
    fresh = new_memory(config, runs, max(n_rows, 2 * had), n_actions)
    fresh.q[:, :, :had] = memory.q
    fresh.log_reference[:had] = memory.log_reference
    if memory.visits.size:
        fresh.visits[:, :, :had] = memory.visits
    return memory._replace(q=fresh.q, visits=fresh.visits, log_reference=fresh.log_reference)


def run_of(memory: Learner, run: int) -> Learner:
    """Return one run's part of ``memory`` as arrays, for the compiled driver."""
    parts = {name: part[run] for name, part in memory._asdict().items() if name != "log_reference"}
    return Learner(log_reference=memory.log_reference, **parts)


class Rows(dict[int, memoryview]):
    """A table [X, A] for the Python driver: its rows as memoryviews, made when first asked for.

    An entry of a memoryview is read in a quarter of the time that an array takes, and is a Python number.
    """

    def __init__(self, table: FloatArray | IntArray) -> None:
        super().__init__()
        self._table = table

    def __missing__(self, row: int) -> memoryview:
        """Return the view of ``row``."""
        view = self[row] = memoryview(self._table[row])
        return view


def lent(memory: Learner, run: int) -> Learner:
    """Return one run's part of ``memory`` for the Python driver: tables as shared rows, the rest as lists.

    The lists are copies until ``hand_back``.
    """
    part = run_of(memory, run)
    views: dict[str, Any] = {name: getattr(part, name).tolist() for name in _SMALL}
    views["q"] = [Rows(table) for table in part.q]
    views["visits"] = [Rows(table) for table in part.visits]
    views["log_reference"] = Rows(part.log_reference)
    return part._replace(**views)


def hand_back(memory: Learner, run: int, learner: Learner) -> None:
    """Write what the Python driver changed in a ``lent`` learner's lists into the memory."""
    for name in _SMALL:
        getattr(memory, name)[run] = getattr(learner, name)
    if memory.q.shape[1] == 3:  # an interruption may have come between a table and the mean
        memory.q[run, 2] = (memory.q[run, 0] + memory.q[run, 1]) / 2


def restricted(log_reference: FloatArray, mask: Any) -> FloatArray:
    """Return ``log_reference`` [A] over the actions that ``mask`` [A] allows, normalised again.

    Raises:
        ValueError: a mask of another shape, or one that allows nothing that the reference allows.
    """
    allowed = np.asarray(mask).astype(np.bool_)
    if allowed.shape != log_reference.shape:
        raise ValueError(f"the action mask has shape {allowed.shape}: give {log_reference.shape}")
    kept: FloatArray = np.where(allowed, log_reference, NEVER)
    if (kept == log_reference).all():
        return log_reference
    if not (kept > NEVER).any():
        raise ValueError(f"the action mask {mask} leaves no action to choose: allow at least one")
    kept -= np.logaddexp.reduce(kept)
    return kept


def world_of(mdp: TabularMDP, reward: FloatArray, last_reward: FloatArray) -> World:
    """Return ``mdp`` as the compiled loop walks it, paid ``reward`` [S, A, K] and ``last_reward`` [S, A]."""
    return World(
        next_state=np.array(mdp.next_state, dtype=np.int64, order="C"),
        cumulative=_cumulated(mdp.probability),
        terminated=np.array(mdp.terminated, order="C"),
        reward=reward,
        last_reward=last_reward,
        start=_cumulated(mdp.start),
        horizon=int(np.iinfo(np.int64).max) if mdp.horizon is None else mdp.horizon,
        horizon_terminates=mdp.horizon is not None and mdp.horizon_terminates,
    )


def _cumulated(probability: FloatArray) -> FloatArray:
    """Return the sums along the last axis, infinite from the last possible outcome on: no draw passes it."""
    possible: IntArray = (probability > 0).astype(np.int64)
    following: IntArray = np.cumsum(possible[..., ::-1], axis=-1)[..., ::-1] - possible
    cumulated: FloatArray = np.where(following == 0, np.inf, np.cumsum(probability, axis=-1))
    return cumulated
