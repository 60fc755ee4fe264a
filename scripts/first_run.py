"""``make train``: trains two kinds of learner on three environments and shows them beside the provable optimum."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenwalk.scripts.console import (
    Folder,
    parse,
    print_json,
    print_table,
    progress_bar,
    tensorboard_command,
)
from tokenwalk.scripts.main import run_command

TRAININGS = (("q-learning", "CounterWalk"), ("q-learning", "FrozenLake"), ("ppo", "CounterWalk"))


@dataclass(frozen=True)
class FirstRunArguments:
    """Train Q-learning on CounterWalk and FrozenLake and PPO on CounterWalk, each beside its exact optimum."""

    run_dir: Folder = None
    """a new folder for the runs (default: the next number under runs/)"""
    seed: int = 0
    """of everything that is drawn"""
    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run the trainings one after another and print their table."""
    arguments = parse(FirstRunArguments, "first-run", argv)
    from tokenwalk.agents.runs.folder import RunFolder
    from tokenwalk.agents.study.training import train

    started = time.perf_counter()
    folder = RunFolder.create(arguments.run_dir, "first-run")
    summaries: list[dict[str, Any]] = []
    for agent, env in TRAININGS:
        with progress_bar(f"{agent} on {env}") as on_progress:
            run_dir = folder.path / f"{agent}-{env}"
            summaries.append(train(agent, env, seed=arguments.seed, run_dir=run_dir, on_progress=on_progress))
        if summaries[-1]["interrupted"]:
            raise KeyboardInterrupt
    if arguments.json:
        print_json({"runs": summaries})
        return 0
    print_table(
        ("agent", "environment", "runs", "steps", "return", "optimum", "score", "seconds"),
        [
            (
                s["agent"],
                s["env"].rsplit("/", 1)[-1],
                s["runs"],
                s["steps"],
                s["return"],
                s["optimal_return"],
                s["normalized_score"],
                round(s["seconds"], 1),
            )
            for s in summaries
        ],
        title=f"trained in {time.perf_counter() - started:.0f} s; a score of 1 is the exact optimum, 0 the random policy",
    )
    print(f"curves, each with its optimum: {tensorboard_command(folder.path)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command("first_run"))
