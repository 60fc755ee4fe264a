"""``tokenwalk benchmark [PART]``: speed against peers, as ratios in one run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tokenwalk.scripts.console import note, parse, print_json, print_table
from tokenwalk.scripts.main import run_command

if TYPE_CHECKING:
    from tokenwalk.agents.study.benchmark.harness import Row

Part = Literal["walk", "tokens", "learning", "sb3", "solve", "rewards", "lm", "all"]


@dataclass(frozen=True)
class BenchmarkArguments:
    """Measure our speed and that of a peer in turns and print medians and their ratio. Only ratios are claims: absolute
    figures depend on the machine."""

    part: Annotated[
        tyro.conf.Positional[Part], tyro.conf.arg(metavar="[walk|tokens|learning|sb3|solve|rewards|lm|all]")
    ] = "all"
    """what to measure"""
    rounds: int = 7
    """number of rounds; medians are reported"""
    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run ``tokenwalk benchmark``."""
    arguments = parse(BenchmarkArguments, "benchmark", argv)
    if arguments.rounds < 1:
        raise ValueError(f"--rounds is {arguments.rounds}: give 1 or more")
    from tokenwalk.agents.study.benchmark.environments import PARTS
    from tokenwalk.agents.study.benchmark.harness import run

    parts = list(PARTS) if arguments.part == "all" else [arguments.part]
    rows = [
        row
        for part in parts
        for row in run(PARTS[part](), arguments.rounds, lambda name: note(f"measuring {name} ..."))
    ]
    show(rows, arguments.json)
    return 0


def show(rows: "Sequence[Row]", as_json: bool) -> None:
    """Print the rows as a table or as one JSON object."""
    if as_json:
        print_json({"rows": [row.as_json() for row in rows]})
        return
    print_table(
        ("ours / peer", "ours", "peer", "ratio", "target", "unit", "met"),
        [
            (
                r.name,
                with_prefix(r.ours),
                with_prefix(r.peer),
                f"{r.ratio:.3g}",
                r.target,
                r.unit,
                None if r.target is None else r.ratio >= r.target,
            )
            for r in rows
        ],
    )


def with_prefix(value: float) -> str:
    """Return a rate with three digits and the suffix k or M.

    >>> with_prefix(118_259_000.0), with_prefix(5_120.0)
    ('118 M', '5.12 k')
    """
    scale, letter = next(
        ((scale, letter) for scale, letter in ((1e6, " M"), (1e3, " k")) if value >= scale), (1.0, "")
    )
    return f"{value / scale:.3g}{letter}"


if __name__ == "__main__":
    raise SystemExit(run_command("benchmark"))
