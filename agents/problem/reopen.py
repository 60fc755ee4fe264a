"""The request of a run, kept so that its problem can be opened again wherever its folder goes."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenwalk.agents.problem.problem import Problem, open_problem
from tokenwalk.agents.problem.reward_spec import Named
from tokenwalk.envs.loading import is_place

KEPT = "sources"
_NEEDED = ("config.json", "summary.json", "model.safetensors")  # of a run that is a reward


def keep_sources(run: Path, names: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return ``names`` ("reward" and "shaping") as config.json keeps them; learned models are copied into the run.

    A run folder becomes ``sources/NAME`` in the run's own folder, a Python file its absolute path.
    """
    return {role: [_kept(run, text) for text in texts] for role, texts in names.items()}


def _kept(run: Path, text: str) -> str:
    named = Named.of(text)
    weight = text.removeprefix(named.name)
    if is_place(named.name):
        file, _, name = named.name.rpartition(":")
        return f"{Path(file).resolve()}:{name}{weight}"
    source = Path(named.name)
    if not source.is_dir():
        return text
    target = run / KEPT / source.resolve().name
    target.mkdir(parents=True, exist_ok=True)
    for file in _NEEDED:
        if (source / file).exists():
            shutil.copy2(source / file, target / file)
    return f"{KEPT}/{target.name}{weight}"


def reopen_problem(run: Path, request: Mapping[str, Any]) -> Problem:
    """Return the problem of a run from its config.json. Raises ValueError as ``open_problem``."""
    reward, shaping = (
        [str(run / text) if text.startswith(f"{KEPT}/") else text for text in request.get(role, ())]
        for role in ("reward", "shaping")
    )
    discount = request["config"].get("discount")
    return open_problem(request["env"], request["env_args"], reward, shaping, discount)
