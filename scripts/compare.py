"""``tokenwalk compare ENV``: agents, rewards and seeds side by side, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from tokenwalk.scripts.console import (
    EnvArgs,
    EnvName,
    Folder,
    note,
    parse,
    print_json,
    print_table,
    progress_bar,
)
from tokenwalk.scripts.main import run_command

Names = Annotated[list[str], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")]


@dataclass(frozen=True)
class CompareArguments:
    """Train agents on rewards with several seeds and print the score that each reached by gold: the interquartile mean of
    the normalized score (1: the exact optimum, 0: the reference policy), with a 95 % bootstrap interval over seeds. With
    fewer than four seeds this is the plain mean, and the interval hardly more than the minimum and the maximum.

    The rewards: gold; proxy; reward-model (learned from preferences); bonus (gold plus an autoencoder's error whose
    weight goes to 0); potential (gold, shaped by the autoencoder); penalty (proxy minus the autoencoder's error)."""

    env: EnvName
    """an environment, such as Flattery"""
    agents: Names = field(default_factory=list)
    """agents, or FILE.py:CLASS (default: q-learning ppo rloo sft on token tasks, else q-learning ppo dqn)"""
    rewards: Names = field(default_factory=list)
    """rewards (default: every reward of the environment)"""
    seeds: int = 2
    """runs per agent and reward, with the seeds 0, 1, ...; more seeds can be added later in the same folder"""
    budget: float = 1.0
    """a factor of each agent's default steps"""
    jobs: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """processes (default: one per core)"""
    env_arg: EnvArgs = field(default_factory=list)
    """an argument of the environment as key=value; may be repeated"""
    run_dir: Folder = None
    """the comparison's folder (default: runs/compare-ENV); a killed comparison is resumed"""
    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run ``tokenwalk compare``."""
    arguments = parse(CompareArguments, "compare", argv)
    import os

    from tokenwalk.agents.problem.problem import parse_env_args
    from tokenwalk.agents.runs.progress import Progress
    from tokenwalk.agents.study.compare.plan import estimate, plan
    from tokenwalk.agents.study.compare.run import cells_left, claim, compare

    comparison = plan(
        arguments.env,
        arguments.agents,
        arguments.rewards,
        arguments.seeds,
        arguments.budget,
        parse_env_args(arguments.env_arg),
    )
    name = comparison.env.rsplit("/", 1)[-1].rpartition("-v")[0]  # without its version, as people type it
    folder = arguments.run_dir or Path("runs") / f"compare-{name}"
    jobs = arguments.jobs or os.cpu_count() or 1
    claim(folder, comparison, arguments.jobs)
    left = cells_left(comparison, folder)
    note(
        f"training {len(left)} of {len(comparison.cells())} runs, {jobs} at once: about "
        f"{_time(estimate(left, jobs))}; run folders: {folder}"
    )
    with progress_bar(f"comparing on {arguments.env}") as on_progress:

        def on_cell(finished: int, total: int, name: str) -> None:
            on_progress(Progress(finished, total, {}, None))
            if name:
                note(f"{finished} of {total}: {name}")

        report = compare(comparison, folder, jobs=arguments.jobs, on_cell=on_cell, on_stage=note)
    if arguments.json:
        print_json(report)
        return 0
    cells = report["rows"]
    reached = ("agent", "reward", "score", "interval", "exact", "gold", "proxy", "kl")
    seeds = f"{comparison.seeds} seed{'s' * (comparison.seeds > 1)}"
    title = f"{comparison.env}, {seeds}: normalized score (by gold), and KL to the reference policy in nats"
    print_table(reached, [[_cell(row, column) for column in reached] for row in cells], title=title)
    took = ("agent", "reward", "steps_to_95", "seconds_to_95", "steps", "seconds")
    title = "steps and seconds to a normalized score of 0.95, and in total"
    print_table(took, [[_cell(row, column) for column in took] for row in cells], title=title)
    for kind in ("agent", "reward"):
        together = [
            (row["name"], row["cells"], _cell(row, "score"), _cell(row, "interval"))
            for row in report[f"by_{kind}"]
        ]
        print_table((kind, "cells", "score", "interval"), together, title=f"by {kind}, over its cells")
    print(
        f"as a table: {folder / 'comparison.csv'}; as a page: tokenwalk report {folder} --out {folder}-report"
    )
    return 0


def _cell(row: dict[str, Any], column: str) -> Any:
    if column == "interval":
        return None if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
    value = row[column]
    if column.startswith("steps") and value is not None:
        return round(value)
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


if __name__ == "__main__":
    raise SystemExit(run_command("compare"))
