"""The arrows of the house: what may import what, read from the text of every file."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Each room stands on a floor; it may import itself and every lower floor, never another room of its own floor.
FLOORS = (
    ("envs", "agents/runs"),
    ("agents/exact",),
    ("agents/exact_tokens",),
    ("agents/tabular", "agents/backprop", "agents/baselines"),
    ("agents/policy_gradient",),
    ("agents/problem",),
    ("agents/evaluation",),
    ("agents/learners",),
    ("agents/training",),
    (
        "agents/study/compare",
        "agents/study/audit",
        "agents/study/report",
        "agents/study/benchmark",
        "agents/study/commands",
    ),
    ("agents/api",),
    ("scripts",),
    ("scripts/studies",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MOST_FILES = 16  # of a room: more means that it holds two ideas
BARE = {"envs", "agents", "scripts", "tests"}
# What the rewards may know of envs: what they score and the tables that they become, not who pays them.
BELOW_REWARDS = {"rewards", "arrays", "checks", "transition", "vocabulary", "tabular"}
# envs is installed by people who want neither torch nor a trainer.
BASE = {"numpy", "gymnasium", "tokenwalk"} | set(sys.stdlib_module_names)


def imported_modules(source: str) -> Iterator[str]:
    """Yield the dotted name of every import in ``source``, at any depth; a relative one keeps its dots."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # `from tokenwalk.agents import exact` names its folder only in the alias.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def folder_of(parts: tuple[str, ...]) -> str | None:
    """Return the room of FLOORS in which a path or a dotted name below ``tokenwalk`` lies."""
    return next((name for depth in (3, 2, 1) if (name := "/".join(parts[:depth])) in FLOOR), None)


def violations(path: str, source: str) -> list[str]:
    """Return what is wrong with the imports of the file ``path`` (relative to the root), in words."""
    parts = Path(path).parts
    home = folder_of(parts)
    found = []
    for name in imported_modules(source):
        top, *rest = name.split(".")
        target = folder_of(tuple(rest)) if top == "tokenwalk" else None
        if name.startswith("."):
            found.append(f"{path}: the relative import {name}")
        elif top in BARE:
            found.append(f"{path}: {name}, which must be tokenwalk.{name}")
        elif home == "envs" and top not in BASE:
            found.append(f"{path}: {top}, where only numpy, gymnasium and the standard library are allowed")
        elif home and target and target != home and FLOOR[target] >= FLOOR[home]:
            found.append(f"{path}: {name}, an arrow from {home} that does not run down")
        elif parts[:2] == ("envs", "rewards") and target == "envs" and rest[1] not in BELOW_REWARDS:
            found.append(f"{path}: {name}, an arrow from the bottom of envs upwards")
    return found


def our_files() -> list[Path]:
    """Return every Python file of the three folders and of the door."""
    folders = (ROOT / "envs", ROOT / "agents", ROOT / "scripts")
    return [
        ROOT / "src/tokenwalk/__init__.py",
        *(file for folder in folders for file in sorted(folder.rglob("*.py"))),
    ]


def test_every_arrow_runs_down() -> None:
    assert [
        line for file in our_files() for line in violations(str(file.relative_to(ROOT)), file.read_text())
    ] == []


def test_every_file_of_agents_stands_on_a_floor() -> None:
    strays = [file for file in our_files() if folder_of(file.relative_to(ROOT).parts) is None]
    assert [str(file.relative_to(ROOT)) for file in strays] == [
        "src/tokenwalk/__init__.py",
        "agents/__init__.py",
        "agents/study/__init__.py",
    ]


def rooms(files: Iterable[Path]) -> dict[str, list[str]]:
    """Return the names of the files in each room, ``__init__.py`` apart."""
    found: dict[str, list[str]] = {}
    for file in files:
        if file.name != "__init__.py":
            found.setdefault(str(file.parent), []).append(file.name)
    return found


def crowded(files: Iterable[Path]) -> list[str]:
    """Return the rooms that hold more files than one idea needs; envs is the given world, so it may hold more."""
    return [
        f"{room} holds {len(names)} files"
        for room, names in rooms(files).items()
        if len(names) > MOST_FILES and room.startswith("agents")
    ]


def test_no_room_is_a_drawer() -> None:
    assert crowded(file.relative_to(ROOT) for file in our_files()) == []


def test_a_planted_drawer_is_found() -> None:
    planted = [Path(f"agents/exact/a{number}.py") for number in range(MOST_FILES + 1)]
    assert crowded(planted) == [f"agents/exact holds {MOST_FILES + 1} files"]
    assert crowded(planted[1:]) == []


def module_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return which of our modules each module imports; ``sources`` maps dotted names to texts."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        prefixes = (accumulate(name.split("."), "{}.{}".format) for name in imported_modules(source))
        graph[module] = {prefix for name in prefixes for prefix in list(name)[1:] if prefix in sources}
    return graph


def find_cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return one cycle of ``graph``, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_cycle() -> None:
    files = [file.relative_to(ROOT) for file in our_files() if file.name != "__init__.py"]
    sources = {
        ".".join(["tokenwalk", *file.with_suffix("").parts]): (ROOT / file).read_text() for file in files
    }
    graph = module_graph(sources)
    assert find_cycle(graph) == []
    assert "tokenwalk.envs.tabular" in graph["tokenwalk.envs.counter_walk"]


def test_a_planted_cycle_is_found() -> None:
    planted = {"tokenwalk.a": "import tokenwalk.b", "tokenwalk.b": "def f():\n    from tokenwalk.c import g"}
    assert find_cycle(module_graph(planted | {"tokenwalk.c": ""})) == []
    assert "tokenwalk.c" in find_cycle(module_graph(planted | {"tokenwalk.c": "from tokenwalk import a"}))


@pytest.mark.parametrize(
    ("path", "line", "what"),
    [
        ("agents/exact/a.py", "from tokenwalk.agents.tabular.q_learning import train", "does not run down"),
        ("agents/exact/a.py", "from tokenwalk.agents.runs.folder import open_run", None),
        ("agents/exact/a.py", "from tokenwalk.envs.tabular import TabularMDP", None),
        ("agents/tabular/a.py", "from tokenwalk.agents.baselines.sb3 import train", "does not run down"),
        ("agents/tabular/a.py", "import tokenwalk.agents.backprop.linear", "does not run down"),
        ("agents/tabular/a.py", "from tokenwalk.agents import backprop", "does not run down"),
        ("agents/tabular/a.py", "from tokenwalk.agents.exact.evaluation import evaluate", None),
        ("agents/tabular/a.py", "from tokenwalk.agents.tabular.greedy import greedy", None),
        (
            "agents/policy_gradient/a.py",
            "from tokenwalk.agents.study.audit import audit_reward",
            "does not run down",
        ),
        (
            "agents/policy_gradient/a.py",
            "from tokenwalk.agents.backprop.transformer import Transformer",
            None,
        ),
        (
            "agents/study/report/a.py",
            "def f():\n    from tokenwalk.scripts.train import main",
            "does not run down",
        ),
        ("agents/study/report/a.py", "from tokenwalk.agents.study.compare.run import x", "does not run down"),
        ("agents/study/report/a.py", "from tokenwalk.agents.study.report.charts import x", None),
        ("agents/evaluation/a.py", "from tokenwalk.agents.learners.protocol import x", "does not run down"),
        ("agents/problem/a.py", "from tokenwalk.agents.evaluation.score import x", "does not run down"),
        ("agents/learners/a.py", "from tokenwalk.agents.training.model_run import x", "does not run down"),
        ("agents/exact/a.py", "from tokenwalk.agents.exact_tokens.completions import x", "does not run down"),
        ("scripts/a.py", "from tokenwalk.scripts.studies.claims import x", "does not run down"),
        ("scripts/studies/a.py", "from tokenwalk.scripts.console import x", None),
        ("agents/runs/a.py", "from tokenwalk.agents.exact.evaluation import evaluate", "does not run down"),
        ("agents/runs/a.py", "from tokenwalk.envs.registration import resolve_id", "does not run down"),
        ("envs/a.py", "from tokenwalk.agents.exact.evaluation import evaluate", "does not run down"),
        ("envs/a.py", "import torch", "only numpy, gymnasium"),
        ("envs/a.py", "if True:\n    from scipy.special import logsumexp", "only numpy, gymnasium"),
        ("envs/a.py", "import json, numpy.typing as npt", None),
        (
            "envs/rewards/a.py",
            "from tokenwalk.envs.counter_walk import CounterWalkEnv",
            "from the bottom of envs",
        ),
        ("envs/rewards/a.py", "from tokenwalk.envs.rewards.machine import Machine", None),
        ("envs/a.py", "from . import transition", "relative import"),
        ("agents/exact/a.py", "from ..runs import folder", "relative import"),
        ("scripts/a.py", "from envs.counter_walk import CounterWalkEnv", "must be tokenwalk.envs"),
        ("scripts/a.py", "import agents", "must be tokenwalk.agents"),
        ("scripts/a.py", "from tokenwalk.agents.study.audit import audit", None),
        ("src/tokenwalk/__init__.py", "from tokenwalk.envs.registration import register_all", None),
    ],
)
def test_the_reader_of_arrows_catches_what_it_should_and_nothing_else(
    path: str, line: str, what: str | None
) -> None:
    found = violations(path, line)
    assert len(found) == (what is not None)
    assert all(str(what) in one for one in found)


def run_python(code: str, *options: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=False, cwd=cwd
    )


def test_import_tokenwalk_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, tokenwalk; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = set(run_python(code, cwd=tmp_path).stdout.split())
    assert {"tokenwalk", "gymnasium", "numpy"} <= loaded
    heavy = {
        "torch",
        "stable_baselines3",
        "sb3_contrib",
        "numba",
        "tensorboard",
        "matplotlib",
        "scipy",
        "tyro",
        "rich",
    }
    assert loaded & heavy == set()


def test_beside_gymnasium_import_tokenwalk_loads_only_itself(tmp_path: Path) -> None:
    code = "import sys, gymnasium; old = set(sys.modules); import tokenwalk; print(*set(sys.modules) - old)"
    own = run_python(code, cwd=tmp_path).stdout.split()
    known = {"gymnasium", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in own} - known == {"tokenwalk"}
    # The ids are strings until they are made: no environment is loaded before its first gym.make.
    assert {name for name in own if name.startswith("tokenwalk.")} == {
        "tokenwalk.envs",
        "tokenwalk.envs.registration",
    }


@pytest.mark.parametrize("folder", ["envs", "agents"])
def test_a_bare_import_in_the_checkout_says_what_to_import(folder: str) -> None:
    result = run_python(f"import {folder}")
    assert result.returncode == 1
    assert f"ImportError: this folder is the package tokenwalk.{folder}" in result.stderr
    assert f"from tokenwalk.{folder}." in result.stderr
