"""The one table of ids, their registration, and the id of a name that a user typed."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

NAMESPACE = "tokenwalk"


@dataclass(frozen=True)
class Row:
    """One registered id. ``discount`` is the id's own: 1.0 where the horizon is part of the task."""

    name: str  # with its version: CounterWalk-v0
    entry_point: str
    vector_entry_point: str
    discount: float
    max_episode_steps: int | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Return the id as Gymnasium knows it."""
        return f"{NAMESPACE}/{self.name}"


def _token_row(name: str, task: Any) -> Row:
    """Return the row of a token task: its horizon is part of it, so there is no limit and no discount."""
    scalar, vector = "tokenwalk.envs.token_generation", "tokenwalk.envs.token_vector"
    return Row(
        name, f"{scalar}:TokenGenerationEnv", f"{vector}:TokenGenerationVectorEnv", 1.0, kwargs={"task": task}
    )


_WALK = "tokenwalk.envs.counter_walk"
TASKS = {  # name -> the function of tokenwalk.envs.tasks that makes it: the one place where a task's name stands
    "Keyword": "keyword_task",
    "Password": "password_task",
    "Brackets": "brackets_task",
    "Arithmetic": "arithmetic_task",
    "Lexicon": "lexicon_task",
    "LengthBias": "length_bias_task",
    "Flattery": "flattery_task",
    "Delayed": "delayed_task",
}
TABLE = (
    Row("CounterWalk-v0", f"{_WALK}:CounterWalkEnv", f"{_WALK}:CounterWalkVectorEnv", 0.9, 100),
    Row(
        "CounterWalkLong-v0",
        f"{_WALK}:CounterWalkEnv",
        f"{_WALK}:CounterWalkVectorEnv",
        0.99,
        1000,
        {"n_states": 101, "goal": 100, "terminate_at_goal": True},
    ),
    _token_row("TokenGeneration-v0", "Keyword"),
    *(_token_row(f"{task}-v0", task) for task in TASKS),
)
DEFAULT_DISCOUNT = 0.99


def register_all() -> None:
    """Register every id of the table with Gymnasium; a second call registers nothing."""
    for row in TABLE:
        if row.id not in gym.registry:
            _register(row)


def _register(row: Row) -> None:
    gym.register(
        row.id,
        entry_point=row.entry_point,
        vector_entry_point=row.vector_entry_point,
        max_episode_steps=row.max_episode_steps,
        kwargs=dict(row.kwargs),
        # Our environments check actions, order and ranges themselves; the wrappers would check them twice.
        order_enforce=False,
        disable_env_checker=True,
    )


def register(name: str, task: Any) -> str:
    """Register a custom token task as a Gymnasium id of this process, and return the id.

    Args:
        name: with its version, such as "Haiku-v0"; the id is ``tokenwalk/Haiku-v0``.
        task: a ``Task``, or FILE.py:NAME.

    Raises:
        ValueError: a name without a version, or one that is taken by another task.
    """
    if not re.fullmatch(r"[A-Za-z][\w.-]*-v\d+", name):
        raise ValueError(f"name is {name!r}: give a name with its version, such as 'Haiku-v0'")
    row = _token_row(name, task)
    if row.id in gym.registry and gym.registry[row.id].kwargs.get("task") is not task:
        raise ValueError(f"{row.id} is registered already: give another name or version")
    if row.id not in gym.registry:
        _register(row)
        _CUSTOM[row.id] = row
    return row.id


_CUSTOM: dict[str, Row] = {}  # of ``register``


def discount_of(env_id: str) -> float:
    """Return the discount that the id ``env_id`` carries; 0.99 for ids that are not ours."""
    return next((row.discount for row in (*TABLE, *_CUSTOM.values()) if row.id == env_id), DEFAULT_DISCOUNT)


def resolve_id(name: str) -> str:
    """Return the id for what a person typed: ``Flattery``, ``Flattery-v0`` and ``tokenwalk/Flattery-v0`` are the same.

    A name without a version takes the newest registered one, ours before Gymnasium's.

    Raises:
        ValueError: no such environment; the message names the nearest.
    """
    for candidate in (f"{NAMESPACE}/{name}", name):
        if candidate in gym.registry:
            return candidate
        versions = [spec for spec in gym.registry.values() if _name_without_version(spec) == candidate]
        if versions:
            return max(versions, key=lambda spec: spec.version or 0).id
    ours = {row.name.rsplit("-v", 1)[0]: row.name for row in TABLE}
    known = {_name_without_version(spec).lower() for spec in gym.registry.values()} | {
        short.lower() for short in ours
    }
    near = difflib.get_close_matches(
        name.rsplit("/", 1)[-1].rsplit("-v", 1)[0].lower(), known, n=3, cutoff=0.5
    )
    shown = sorted({_as_written(one, ours) for one in near}) or list(ours)
    raise ValueError(
        f"no environment is called {name!r}: did you mean {', '.join(shown)}? 'tokenwalk envs' lists ours"
    )


def _name_without_version(spec: EnvSpec) -> str:
    return f"{spec.namespace}/{spec.name}" if spec.namespace else spec.name


def _as_written(lowered: str, ours: Mapping[str, str]) -> str:
    """Return the name whose lower-case form is ``lowered``, ours without the namespace."""
    names = [*ours, *(_name_without_version(spec) for spec in gym.registry.values())]
    return next(name for name in names if name.lower() == lowered).removeprefix(f"{NAMESPACE}/")
