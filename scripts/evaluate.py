"""``tokenwalk evaluate RUN``: the returns of a trained agent."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from tokenwalk.scripts.console import Count, File, Rewards, parse, print_json, print_summary, print_table
from tokenwalk.scripts.main import run_command


@dataclass(frozen=True)
class EvaluateArguments:
    """Evaluate a run exactly; without an exact answer, or with --episodes, from played episodes with a 95 % interval."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """a run folder, such as runs/0001-q-learning-CounterWalk-v0"""
    episodes: Count = None
    """number of episodes to play"""
    trajectories: File = None
    """write each played episode to this file as one JSON line"""
    reward: Rewards = field(default_factory=list)
    """score the stored completions of the run with this reward: gold, proxy, a RUN of a learned reward,
    FILE.py:FUNCTION; may be repeated"""
    best_of: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """print the returns of best-of-N by the training reward: exact, where that is possible, and sampled"""
    seed: int = 0
    """of the played episodes"""
    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run ``tokenwalk evaluate``."""
    arguments = parse(EvaluateArguments, "evaluate", argv)
    from tokenwalk.agents.problem.saved_models import MODELS
    from tokenwalk.agents.runs.folder import RunFolder
    from tokenwalk.agents.study.commands.evaluate import evaluate_run

    if RunFolder.open(arguments.run).config["agent"] in MODELS:
        return _evaluate_model(arguments)
    report = evaluate_run(
        arguments.run,
        episodes=arguments.episodes,
        trajectories=arguments.trajectories,
        seed=arguments.seed,
        reward=arguments.reward,
        best_of=arguments.best_of,
    )
    if arguments.json:
        print_json(report)
        return 0
    stored, best_of = report.pop("stored", None), report.pop("best_of", None)
    print_summary(report)
    if best_of:
        figures = ("return", "gold", "proxy", "kl", "bound", "interval")
        rows = [(kind, *map(best_of[kind].get, figures)) for kind in ("exact", "sampled") if best_of[kind]]
        print_table(("method", *figures), rows, title=f"best of {best_of['n']} by the training reward")
    if stored:
        columns = ("mean", "interval", "low", "high")
        rows = [(name, *(figures[column] for column in columns)) for name, figures in stored.items()]
        print_table(("reward", *columns), rows, title="scores of the stored completions")
    return 0


def _evaluate_model(arguments: EvaluateArguments) -> int:
    """Print the figures of a learned reward or a language model. Raises ValueError for options of agents."""
    from tokenwalk.agents.runs.folder import RunFolder
    from tokenwalk.agents.training.train_reward_model import evaluate_model

    if arguments.episodes or arguments.trajectories or arguments.reward or arguments.best_of:
        raise ValueError(
            f"{arguments.run} is a run of a model, which plays no episodes: leave the other options out"
        )
    if RunFolder.open(arguments.run).config["agent"] == "lm":
        from tokenwalk.agents.training.train_lm import evaluate_lm

        report = evaluate_lm(arguments.run)
    else:
        report = evaluate_model(arguments.run)
    if arguments.json:
        print_json(report)
    else:
        print_summary(report)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command("evaluate"))
