"""Tabular agents on disk: everything that they need to continue, as one npz without pickled objects.

Format 2 stores the fields of ``Learner`` by name, ``step_state`` as a structured array. Format 1, which is still
read, stored the step state as eight integers and a float, and had other names for the n-step buffer.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.runs.checkpoint import DamagedFileError, read_arrays, write_arrays
from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.tabular.kernels import STEP_STATE, STEP_STATE_FIELDS
from tokenwalk.agents.tabular.memory import new_memory
from tokenwalk.agents.tabular.observations import ObservationIndex
from tokenwalk.agents.tabular.q_learning import QLearning

KIND, FORMAT = "tokenwalk tabular agent", 2
_NAMES_OF_FORMAT_1 = {  # name now -> name in format 1
    "buffer_state_index": "waiting_row",
    "buffer_action": "waiting_action",
    "buffer_reward": "waiting_reward",
    "buffer_kl_penalty": "waiting_excess",
}


def save_agent(agent: QLearning, path: Path) -> None:
    """Write ``agent``: config, tables, counters, generators, the episode in progress."""
    arrays: dict[str, Any] = {**agent.memory._asdict(), "environments_begun": agent.environments_begun}
    if agent.reference is not None:
        arrays["reference"] = agent.reference
    if agent.index.grows:
        arrays["keys"] = agent.index.keys
    meta = {
        "kind": KIND,
        "format": FORMAT,
        "config": asdict(agent.config),
        "sizes": agent.index.sizes,
        "starts": agent.index.starts,
        "n_actions": agent.n_actions,
        "n_times": agent.n_times,
        "first_action": agent.first_action,
        "runs": agent.runs,
        "seed": agent.seed,
        "generators": [generator.bit_generator.state for generator in agent.generators],
    }
    write_arrays(path, arrays, meta)


def load_agent(path: Path) -> QLearning:
    """Return the agent that ``save_agent`` wrote.

    In tables it continues bit for bit. In an environment it begins a new episode: no file holds the state of an
    environment.

    Raises:
        DamagedFileError: a torn file, a foreign one, or one of an unknown format.
        FileNotFoundError: there is no such file.
    """
    arrays, meta = read_arrays(path)
    try:
        return _restored(arrays, meta)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFileError(
            f"{path} holds no tabular agent of this version ({type(error).__name__}: {error}): train again"
        ) from None


def _restored(arrays: dict[str, Any], meta: Any) -> QLearning:
    """Return the agent of a file's arrays and JSON. An exception means that the file holds no agent."""
    if meta["kind"] != KIND or meta["format"] not in (1, FORMAT):
        raise ValueError(
            f"it is {meta['kind']!r} in format {meta['format']!r}, not {KIND!r} in 1 or {FORMAT}"
        )
    if meta["format"] == 1:
        arrays = _from_format_1(arrays)
    agent = QLearning(
        QLearningConfig(**meta["config"]),
        ObservationIndex(meta["sizes"], meta["starts"], arrays.get("keys")),
        meta["n_actions"],
        n_times=meta["n_times"],
        first_action=meta["first_action"],
        runs=meta["runs"],
        seed=meta["seed"],
    )
    if agent.index.grows:  # with its old room, which is larger than its number of states
        room = max(len(arrays["log_reference"]), agent.index.n_states)
        agent.memory = new_memory(agent.config, agent.runs, room, agent.n_actions)
    parts = {**agent.memory._asdict(), "environments_begun": agent.environments_begun}
    for name, part in parts.items():
        if arrays[name].shape != part.shape or arrays[name].dtype != part.dtype:
            raise ValueError(f"{name} has shape {arrays[name].shape} and dtype {arrays[name].dtype}")
        part[...] = arrays[name]
    agent.reference = arrays.get("reference")
    if agent.reference is not None and agent.reference.shape != agent.memory.log_reference.shape:
        raise ValueError(f"reference has shape {agent.reference.shape}")
    for generator, state in zip(agent.generators, meta["generators"], strict=True):
        generator.bit_generator.state = state
    return agent


def _from_format_1(arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays of a file in format 1 under the names and in the layout of format 2."""
    cursor, episode_return = arrays["cursor"], arrays["return_so_far"]  # [R, 8], [R, 1]
    step_state = np.zeros(len(cursor), dtype=STEP_STATE)
    for column, name in enumerate(STEP_STATE_FIELDS[:8]):
        step_state[name] = cursor[:, column]
    step_state["episode_return"] = episode_return[:, 0]
    renamed = {name: arrays[old] for name, old in _NAMES_OF_FORMAT_1.items()}
    return {**arrays, **renamed, "step_state": step_state}
