"""The memory of the runs of a tabular agent: how to create it, grow it and give one run of it to a driver."""

import math
from typing import Any

import numpy as np

from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.tabular.kernels import NEVER, STEP_STATE, WINDOW, CompiledMDP, Learner, StepState
from tokenwalk.envs.arrays import FloatArray, IntArray
from tokenwalk.envs.tabular import TabularMDP

# ``python_view`` copies these into lists and ``write_back`` copies them back.
_BUFFERS = ("buffer_state_index", "buffer_action", "buffer_reward", "buffer_kl_penalty")


def new_memory(config: QLearningConfig, runs: int, n_states: int, n_actions: int) -> Learner:
    """Return the memory of R new runs: every entry at ``initial_value``, a uniform reference policy."""
    tables = (runs, 3 if config.backup == "double-q" else 1, n_states, n_actions)
    counts = tables if config.step_size_half_life > 0 else (runs, 0, 0, 0)
    buffer = (runs, config.n_step)
    return Learner(
        q=np.full(tables, float(config.initial_value)),
        visits=np.zeros(counts, dtype=np.int64),
        log_reference=np.full((n_states, n_actions), -math.log(n_actions)),
        buffer_state_index=np.zeros(buffer, dtype=np.int64),
        buffer_action=np.zeros(buffer, dtype=np.int64),
        buffer_reward=np.zeros(buffer),
        buffer_kl_penalty=np.zeros(buffer),
        step_state=np.zeros(runs, dtype=STEP_STATE),
        recent=np.zeros((runs, 2, WINDOW)),
    )


def grown(memory: Learner, config: QLearningConfig, n_states: int) -> Learner:
    """Return ``memory`` with room for at least ``n_states`` state indices, the new ones as in ``new_memory``."""
    runs, _, had, n_actions = memory.q.shape
    if n_states <= had:
        return memory
    fresh = new_memory(config, runs, max(n_states, 2 * had), n_actions)
    fresh.q[:, :, :had] = memory.q
    fresh.log_reference[:had] = memory.log_reference
    if memory.visits.size:
        fresh.visits[:, :, :had] = memory.visits
    return memory._replace(q=fresh.q, visits=fresh.visits, log_reference=fresh.log_reference)


def run_of(memory: Learner, run: int) -> Learner:
    """Return one run's part of ``memory`` as arrays, for the compiled driver."""
    parts = {name: part[run] for name, part in memory._asdict().items() if name != "log_reference"}
    return Learner(log_reference=memory.log_reference, **parts)


class ValueViews(dict[int, memoryview]):
    """A table [X, A] for the Python driver: one memoryview [A] per state index, made at its first use.

    An entry of a memoryview is read in a quarter of the time that an array takes, and is a Python number.
    """

    def __init__(self, table: FloatArray | IntArray) -> None:
        super().__init__()
        self._table = table

    def __missing__(self, state_index: int) -> memoryview:
        """Return the view of the entries of ``state_index``, [A]."""
        view = self[state_index] = memoryview(self._table[state_index])
        return view


def python_view(memory: Learner, run: int) -> Learner:
    """Return one run's part of ``memory`` for the Python driver.

    The tables are views of the memory. The n-step buffer and the step state are copies until ``write_back``.
    """
    part = run_of(memory, run)
    views: dict[str, Any] = {name: getattr(part, name).tolist() for name in _BUFFERS}
    views["step_state"] = StepState(*part.step_state.item())
    views["q"] = [ValueViews(table) for table in part.q]
    views["visits"] = [ValueViews(table) for table in part.visits]
    views["log_reference"] = ValueViews(part.log_reference)
    return part._replace(**views)


def write_back(memory: Learner, run: int, learner: Learner) -> None:
    """Write what the Python driver changed in the copies of a ``python_view`` into the memory."""
    for name in _BUFFERS:
        getattr(memory, name)[run] = getattr(learner, name)
    memory.step_state[run] = learner.step_state.as_tuple()
    if memory.q.shape[1] == 3:  # an interruption may have come between a table and the mean
        memory.q[run, 2] = (memory.q[run, 0] + memory.q[run, 1]) / 2


def restricted(log_reference: FloatArray, mask: Any) -> FloatArray:
    """Return ``log_reference`` [A] over the actions that ``mask`` [A] allows, normalized again.

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


def compiled_mdp(mdp: TabularMDP, reward: FloatArray, last_reward: FloatArray) -> CompiledMDP:
    """Return ``mdp`` for the compiled loop, with ``reward`` [S, A, K] and ``last_reward`` [S, A]."""
    return CompiledMDP(
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
    """Return the sums along the last axis, infinite from the last possible outcome on: no random number is larger."""
    possible: IntArray = (probability > 0).astype(np.int64)
    following: IntArray = np.cumsum(possible[..., ::-1], axis=-1)[..., ::-1] - possible
    cumulated: FloatArray = np.where(following == 0, np.inf, np.cumsum(probability, axis=-1))
    return cumulated
