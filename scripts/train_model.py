"""``tokenwalk train reward-model|autoencoder TASK``: trains what an agent may be paid by."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tokenwalk.scripts.console import (
    File,
    Folder,
    note,
    parse,
    print_json,
    print_summary,
    progress_bar,
    tensorboard_command,
)

_WEIGHT = {"reward-model": "", "autoencoder": "=-1"}  # that puts each to use as it is mostly meant


@dataclass(frozen=True)
class TaskArguments:
    """What every learned reward is asked for."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """a token task, such as Flattery, or FILE.py:NAME"""
    data: File = None
    """learn from this file instead of from drawn texts: preferences as JSON lines with prompt, chosen and rejected;
    for an autoencoder a text, a line for each"""
    run_dir: Folder = None
    """a new folder for the run (default: a numbered one under runs/)"""
    threads: int = 1
    """of torch: small networks want one"""
    json: bool = False
    """print one JSON object"""


@dataclass(frozen=True)
class RewardModelArguments(TaskArguments):
    """Train a reward model on preferences (Bradley and Terry), on gold, or on the value of unfinished texts, and say how
    well it agrees with gold and where it is worst."""

    writer: Annotated[Literal["reference", "mixed"], tyro.conf.arg(metavar="[reference|mixed]")] = "reference"
    """who writes the texts: the task's reference policy, or each token by it or by the exact optimum"""


@dataclass(frozen=True)
class AutoencoderArguments(TaskArguments):
    """Train an autoencoder on the reference policy's texts: its error is a bonus, a penalty, or a potential."""


def main(kind: str, argv: Sequence[str]) -> int:
    """Run ``tokenwalk train KIND``; the exit code is 130 after Ctrl-C, with what was learned saved."""
    from tokenwalk.agents.backprop.configs import RewardModelConfig, TokenAutoencoderConfig

    reward_model = kind == "reward-model"
    config_type: Any = RewardModelConfig if reward_model else TokenAutoencoderConfig
    arguments, config, training = _parse(
        kind, RewardModelArguments if reward_model else AutoencoderArguments, config_type, argv
    )
    from tokenwalk.agents.study.teaching import Teaching, teach_autoencoder, teach_reward_model

    writer: Any = getattr(arguments, "writer", "reference")
    teaching = Teaching(arguments.env, writer, arguments.data, arguments.run_dir, arguments.threads)
    teach: Any = teach_reward_model if reward_model else teach_autoencoder
    with progress_bar(f"{kind} of {arguments.env}") as on_progress:
        summary = teach(teaching, config, training, on_progress)
    if arguments.json:
        print_json(summary)
    else:
        print_summary(summary)
        print(f"curves: {tensorboard_command(Path(summary['run_dir']).parent)}")
        use = "--reward" if reward_model else "--reward proxy --reward"
        print(
            f"put to use: tokenwalk train q-learning {arguments.env} {use} {summary['run_dir']}{_WEIGHT[kind]}"
        )
    if summary["interrupted"]:
        note(f"stopped after {summary['updates']} updates; what was learned is in {summary['run_dir']}")
        return 130
    return 0


def _parse(
    kind: str, request: type[TaskArguments], config_type: type[Any], argv: Sequence[str]
) -> tuple[Any, Any, Any]:
    """Return the arguments, the config and how to train, whose defaults are those of the config."""
    from tokenwalk.agents.backprop.configs import TrainingConfig, default_training

    def parse_with(training: TrainingConfig) -> Any:
        every = dataclasses.make_dataclass(
            "TrainModelArguments",
            [
                ("request", request),
                ("config", config_type),
                ("training", TrainingConfig, dataclasses.field(default=training)),
            ],
            namespace={"__doc__": request.__doc__},
            frozen=True,
        )
        return parse(every, f"train {kind}", argv)

    first = parse_with(TrainingConfig())  # the first reading only finds out what is trained
    parsed = parse_with(default_training(first.config))
    return parsed.request, parsed.config, parsed.training
