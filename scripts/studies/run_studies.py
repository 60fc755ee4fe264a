"""``make studies``: measures the studies of docs/ again and plots their charts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import tyro

from tokenwalk.scripts.console import note, parse, print_json, print_table
from tokenwalk.scripts.main import run_command
from tokenwalk.scripts.studies import overoptimization, password, policies
from tokenwalk.scripts.studies.charts import (
    plot_overoptimization,
    plot_password,
    plot_placements,
    plot_policies,
    plot_sizes,
)
from tokenwalk.scripts.studies.language_studies import kl_placements, model_sizes

NAMES = ("password", "overoptimization", "policies", "sizes", "placements")


@dataclass(frozen=True)
class StudiesArguments:
    """Measure the studies of docs/ again (minutes) and plot their charts."""

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME ...]", help_behavior_hint="")
    ] = ()
    """password, overoptimization, policies, sizes, placements (default: all)"""
    out: Path = Path("docs")
    """the folder of the charts"""
    runs: int = 16
    """of each condition of Password"""
    seeds: int = 3
    """of PPO, for each annotator"""
    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run ``make studies``."""
    arguments = parse(StudiesArguments, "studies", argv)
    names = arguments.names or NAMES
    if unknown := [name for name in names if name not in NAMES]:
        raise ValueError(f"no study is called {unknown[0]!r}: give {', '.join(NAMES)}")
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    if "password" in names:
        found["password"] = _password(arguments)
    if "overoptimization" in names:
        found["overoptimization"] = _overoptimization(arguments)
    if "policies" in names:
        found["policies"] = _policies(arguments)
    if "sizes" in names:
        found["sizes"] = _sizes(arguments)
    if "placements" in names:
        found["placements"] = _placements(arguments)
    if arguments.json:
        print_json(found)
    return 0


def _password(arguments: StudiesArguments) -> list[Any]:
    with TemporaryDirectory() as folder:
        note("training the potential ...")
        trained = password.train_potential(Path(folder) / "value")
        rows = []
        for condition in password.conditions(trained):
            label = f"{condition.name}, on {condition.observation}"
            solved = password.time_to_solve(
                condition,
                arguments.runs,
                lambda run, episodes, label=label: note(f"{label}, run {run}: {episodes:,.0f}"),  # type: ignore[misc]
            )
            rows.append(password.as_json(solved))
    plot_password(rows, arguments.out / "password.png")
    if not arguments.json:
        columns = ("name", "observation", "median_episodes", "median_steps")
        print_table(
            columns,
            [[row[column] for column in columns] for row in rows],
            title="Password: until solved",
        )
    return rows


def _overoptimization(arguments: StudiesArguments) -> list[Any]:
    rows = [
        overoptimization.as_json(one)
        for one in overoptimization.measure(
            seeds=arguments.seeds, on_stage=lambda stage: note(f"{stage} ...")
        )
    ]
    plot_overoptimization(rows, arguments.out / "overoptimization.png")
    if not arguments.json:
        print_table(
            (
                "bias",
                "accuracy",
                "correlation",
                "peak gold",
                "at KL",
                "proxy",
                "gold",
                "Q-learning",
                "PPO",
                "minimum of 5",
                "penalty",
            ),
            [
                (
                    row["liked"],
                    row["accuracy"],
                    row["correlation"],
                    row["peak_gold"],
                    row["peak_kl"],
                    row["alone"]["proxy"],
                    row["alone"]["gold"],
                    row["q_learning"]["gold"],
                    row["ppo"]["gold"][-1],
                    row["ensemble"]["gold"],
                    row["guarded"]["gold"],
                )
                for row in rows
            ],
            title="Flattery: gold after training on a biased annotator",
        )
    return rows


def _policies(arguments: StudiesArguments) -> list[Any]:
    with TemporaryDirectory() as folder:
        panels = policies.measure(Path(folder), on_stage=note)
    plot_policies(panels, arguments.out / "policies.png")
    if not arguments.json:
        rows = [
            (
                panel["task"],
                panel["reward"],
                *(run[key] for key in ("kl_coef", "kl", "proxy", "gold", "seconds")),
            )
            for panel in panels
            for run in panel["runs"]
        ]
        columns = ("task", "training reward", "kl_coef", "kl", "proxy", "gold", "seconds")
        print_table(columns, rows, title="policies trained by RLOO")
        fits = [
            (
                panel["task"],
                panel["reward"],
                form,
                *(fit[key] for key in ("alpha", "beta", "peak_kl", "residual")),
            )
            for panel in panels
            for form, fit in panel["fits"].items()
        ]
        print_table(
            ("task", "training reward", "form", "a", "b", "peak KL", "residual"),
            fits,
            title="fits to their gold",
        )
    return panels


def _sizes(arguments: StudiesArguments) -> list[Any]:
    rows = [vars(one) for one in model_sizes(on_stage=note)]
    plot_sizes(rows, arguments.out / "sizes.png")
    if not arguments.json:
        columns = ("n_layers", "width", "parameters", "floor", "excess", "seconds")
        print_table(
            columns, [[row[column] for column in columns] for row in rows], title="Lexicon, pre-trained"
        )
    return rows


def _placements(arguments: StudiesArguments) -> list[Any]:
    rows = [vars(one) for one in kl_placements(on_stage=note)]
    plot_placements(rows, arguments.out / "placements.png")
    if not arguments.json:
        shown = [
            (row["placement"], row["seed"], row["regret"][len(row["regret"]) // 2], row["regret"][-1])
            for row in rows
        ]
        print_table(("KL", "seed", "regret half way", "regret at the end"), shown, title="Flattery, RLOO")
    return rows


if __name__ == "__main__":
    raise SystemExit(run_command("studies.run_studies"))
