"""Tabular agents on disk: all that they need to go on, as one npz without pickled objects."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenwalk.agents.runs.checkpoint import DamagedFileError, read_arrays, write_arrays
from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.tabular.memory import new_memory
from tokenwalk.agents.tabular.observations import ObservationIndex
from tokenwalk.agents.tabular.q_learning import QLearning

KIND, FORMAT = "tokenwalk tabular agent", 1


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

    In tables it goes on bit for bit; in an environment, whose own state is in no file, it begins an episode.

    Raises:
        DamagedFileError: a torn file, a foreign one, or one of another format.
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
    """Return the agent of a file's arrays and JSON. Any exception means that they are not an agent's."""
    if (meta["kind"], meta["format"]) != (KIND, FORMAT):
        raise ValueError(f"it is {meta['kind']!r} in format {meta['format']!r}, not {KIND!r} in {FORMAT}")
    agent = QLearning(
        QLearningConfig(**meta["config"]),
        ObservationIndex(meta["sizes"], meta["starts"], arrays.get("keys")),
        meta["n_actions"],
        n_times=meta["n_times"],
        first_action=meta["first_action"],
        runs=meta["runs"],
        seed=meta["seed"],
    )
    if agent.index.grows:  # with the room that it had, which is more than its rows
        room = max(len(arrays["log_reference"]), agent.index.n_rows)
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
