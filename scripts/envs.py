"""``tokenwalk envs``: the registered environments."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tokenwalk.scripts.console import parse, print_json, print_table
from tokenwalk.scripts.main import run_command


@dataclass(frozen=True)
class EnvsArguments:
    """List tokenwalk's environments: spaces, horizon, discount, and the exact optimal and reference returns."""

    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run ``tokenwalk envs``."""
    arguments = parse(EnvsArguments, "envs", argv)
    from tokenwalk.agents.study.commands.envs import list_environments

    rows = list_environments()
    if arguments.json:
        print_json({"envs": rows})
        return 0
    columns = ("horizon", "discount", "optimal_return", "reference_return")
    print_table(
        ["env", "observes", "actions", *(column.removesuffix("_return") for column in columns)],
        [
            [
                str(row["env"]).removeprefix("tokenwalk/"),
                _size(str(row["observation"])),
                _size(str(row["action"])),
                *(row[column] for column in columns),
            ]
            for row in rows
        ],
    )
    print("Gymnasium's own environments work too: solve and train take FrozenLake, CliffWalking, Taxi, ...")
    return 0


def _size(space: str) -> str:
    """Return ``Discrete(3)`` as ``3`` and ``MultiDiscrete([10 10 10])`` as ``3 x 10``."""
    sizes = re.findall(r"\d+", space)
    return sizes[0] if len(sizes) == 1 else f"{len(sizes)} x {sizes[0]}"


if __name__ == "__main__":
    raise SystemExit(run_command("envs"))
