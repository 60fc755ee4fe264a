"""``tokenwalk report RUNS... --out DIR``: one page of what runs reached, with charts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tokenwalk.scripts.console import parse, print_json
from tokenwalk.scripts.main import run_command


@dataclass(frozen=True)
class ReportArguments:
    """Write one self-contained HTML page and its SVG charts from run folders: learning curves with the optimum, reward
    components, gold against KL, action values, completions before and after training, and the table of a comparison."""

    runs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="")
    ]
    """run folders of one environment, or folders that contain some"""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """a new folder for the page"""
    metric: Annotated[str, tyro.conf.arg(metavar="TAG")] = "eval/return"
    """the metric of the learning curves"""
    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run ``tokenwalk report``."""
    arguments = parse(ReportArguments, "report", argv)
    if not arguments.runs:
        raise ValueError("no run is given: give run folders, or a folder that contains some, such as runs")
    from tokenwalk.agents.study.report.page import write_report

    found = write_report(arguments.runs, arguments.out, arguments.metric)
    if arguments.json:
        print_json(found)
    else:
        print(
            f"{found['runs']} runs on {found['env']}: {found['page']}, and {len(found['pictures'])} charts beside it"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command("report"))
