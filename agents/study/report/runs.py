"""The run folders of a report: which runs it is about, what each was trained on, and what it reached."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenwalk.agents.learners.registry import AGENTS
from tokenwalk.agents.runs.checkpoint import read_json
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.runs.tracking import read_metrics
from tokenwalk.envs.loading import is_place


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its config.json, and its summary.json."""

    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    settings: str = ""  # where its config differs from other runs of the same agent: ", kl_coef 0.1"

    @property
    def agent(self) -> str:
        """Return the agent's name (the class of a custom one) and the settings that differ between its runs."""
        return f"{self.config['agent'].rpartition(':')[2]}{self.settings}"

    @property
    def trained_on(self) -> str:
        """Return the training reward and the shaping; "gold" is the environment's default reward."""
        rewards = [_named(text) for text in self.config.get("reward", ())]
        shaping = [Path(text).name for text in self.config.get("shaping", ())]
        return " + ".join(rewards or ["gold"]) + (f", shaped by {' + '.join(shaping)}" if shaping else "")

    @property
    def label(self) -> str:
        """Return the name that it shares with its other seeds: agent, training reward and shaping."""
        return self.agent if self.trained_on == "gold" else f"{self.agent}, trained on {self.trained_on}"

    def curve(self, tag: str) -> list[tuple[int, float]]:
        """Return (step, value) of the metric ``tag``, sorted by step; of several values of one step the last."""
        found = {step: value for step, _, name, value in read_metrics(self.path) if name == tag}
        return sorted(found.items())


def find_runs(paths: Sequence[Path]) -> tuple[list[Run], list[Path]]:
    """Return the runs in ``paths`` and the folders of the comparisons.

    Args:
        paths: run folders, or folders that contain some at any depth.

    Raises:
        ValueError: no run, an incomplete run, or runs of several environments.
    """
    folders: list[Path] = []
    comparisons: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"{path} is not a folder: give run folders, or folders that contain some")
        inside = (
            [path] if (path / "config.json").is_file() else [one.parent for one in path.rglob("config.json")]
        )
        # A run copies the learned rewards that it uses into sources/.
        folders += sorted(one for one in inside if one.parent.name != "sources")
        comparisons += [one.parent for one in path.rglob("comparison.json")]
    runs = []
    for folder in dict.fromkeys(folders):
        run = RunFolder.open(folder)
        if run.config["agent"] not in AGENTS and not is_place(run.config["agent"]):
            continue  # a learned reward or a language model
        if not run.is_complete:
            raise ValueError(
                f"{folder} is incomplete, because it is still running or was killed: wait for its end, or leave it out"
            )
        runs.append(Run(folder, run.config, _checked_summary(folder, run.summary)))
    if not runs:
        raise ValueError(
            f"no run of an agent in {', '.join(map(str, paths))}: train one with tokenwalk train"
        )
    _check_one_problem(runs)
    return [replace(run, settings=_settings(run, runs)) for run in runs], comparisons


def _check_one_problem(runs: Sequence[Run]) -> None:
    """Raise ValueError if the runs are of several environments, or of one with several arguments."""
    environments = sorted({run.config["env"] for run in runs})
    if len(environments) > 1:
        raise ValueError(
            f"the runs are of several environments, {' and '.join(environments)}: report on one at a time"
        )
    first = env_args_of(runs[0])
    if other := [run for run in runs if env_args_of(run) != first]:
        raise ValueError(
            f"{runs[0].path} and {other[0].path} are of {environments[0]} with different arguments, "
            f"{first or 'its defaults'} and {env_args_of(other[0]) or 'its defaults'}: report on one at a time"
        )


def _checked_summary(folder: Path, summary: Any) -> Mapping[str, Any]:
    """Return the summary of a run. Raises ValueError if a figure is missing."""
    if not isinstance(summary, dict) or not {"optimal_return", "gold", "normalized_score"} <= set(summary):
        raise ValueError(f"{folder / 'summary.json'} is damaged: leave the run out, or repeat it")
    return summary


def _named(reward: str) -> str:
    """Return the name and the weight of a reward; of a path its last part."""
    name, equals, weight = reward.partition("=")
    return f"{Path(name).name}{equals}{weight}"


def env_args_of(run: Run) -> dict[str, Any]:
    """Return the arguments of its environment without ``observation``, which does not change the problem."""
    return {name: value for name, value in run.config.get("env_args", {}).items() if name != "observation"}


def _settings(run: Run, runs: Sequence[Run]) -> str:
    """Return where the config differs from other runs of the same agent and training reward: ", kl_coef 0.1"."""
    alike = [
        one.config["config"] for one in runs if (one.agent, one.trained_on) == (run.agent, run.trained_on)
    ]
    names = [
        name for name in run.config["config"] if any(one.get(name) != alike[0].get(name) for one in alike)
    ]
    return "".join(f", {name} {run.config['config'][name]}" for name in names)


def read_comparison(folder: Path) -> dict[str, Any]:
    """Return the comparison.json of ``folder``. Raises ValueError if it is damaged."""
    report = read_json(folder / "comparison.json")
    if not isinstance(report, dict) or not report.get("rows"):
        raise ValueError(f"{folder / 'comparison.json'} is damaged: repeat the comparison to restore it")
    return report
