"""``tokenwalk examples [NAME]``: the listings of the documents: their printed and their correct results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from tokenwalk.scripts.console import Folder, format_value, note, parse, print_json, tensorboard_command
from tokenwalk.scripts.main import run_command


@dataclass(frozen=True)
class ExamplesArguments:
    """Run the listings of the documents behind tokenwalk: the printed results, the correct results, and the results here."""

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME ...]", help_behavior_hint="")
    ] = ()
    """parameters, regression, network, backpropagation, walk, autoencoder (default: all)"""
    run_dir: Folder = None
    """a new folder for the loss curves (default: the next number under runs/)"""
    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run ``tokenwalk examples``."""
    arguments = parse(ExamplesArguments, "examples", argv)
    from tokenwalk.agents.study.commands.examples import EXAMPLES, as_json, run_examples

    found, folder = run_examples(
        arguments.names or EXAMPLES, arguments.run_dir, lambda name: note(f"running {name} ...")
    )
    if arguments.json:
        print_json({"examples": [as_json(one) for one in found], "run_dir": str(folder)})
        return 0
    for one in found:
        report = as_json(one)
        print(f"{one.name}: {one.idea}")
        print(f"  the document: {one.printed}")
        print(f"  right:        {one.right}")
        for place, (key, value) in enumerate(one.measured.items()):
            print(f"  {'here:' if place == 0 else '':<13} {key} {format_value(value)}")
        if report["loss"] is not None:
            print(f"  loss:         {format_value(report['loss'])}, minimum {format_value(one.optimum)}")
        print()
    print(f"loss curves, each with its optimum: {tensorboard_command(folder)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command("examples"))
