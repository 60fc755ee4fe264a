"""``tokenwalk train reward-model|autoencoder|lm TASK``: trains a learned reward or a language model."""

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

_USE = {  # the most common use of each
    "reward-model": "tokenwalk train q-learning {task} --reward {run}",
    "autoencoder": "tokenwalk train q-learning {task} --reward proxy --reward {run}=-1",
    "lm": "tokenwalk train rloo {task} --model {run}",
}


@dataclass(frozen=True)
class RunArguments:
    """The options of every model."""

    run_dir: Folder = None
    """a new folder for the run (default: a numbered one under runs/)"""
    threads: int = 1
    """of torch; one is fastest for small networks"""
    json: bool = False
    """print one JSON object"""


@dataclass(frozen=True)
class TaskArguments(RunArguments):
    """The options of every learned reward."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")] = tyro.MISSING
    """a token task, such as Flattery, or FILE.py:NAME"""
    data: File = None
    """train on this file instead of sampled completions: preferences as JSON lines with prompt, chosen and rejected;
    for an autoencoder one completion per line"""


@dataclass(frozen=True)
class RewardModelArguments(TaskArguments):
    """Train a reward model on preferences (Bradley and Terry), on gold, or on the value of prefixes, and print its agreement
    with gold and its largest errors."""

    writer: Annotated[Literal["reference", "mixed"], tyro.conf.arg(metavar="[reference|mixed]")] = "reference"
    """the policy that generates the completions: the reference policy, or a mix with the exact optimum per token"""


@dataclass(frozen=True)
class AutoencoderArguments(TaskArguments):
    """Train an autoencoder on completions of the reference policy: its error is a bonus, a penalty, or a potential."""


@dataclass(frozen=True)
class LMArguments(RunArguments):
    """Pre-train a language model on a task's reference policy, whose entropy rate is the lower bound of the loss, or on
    a text."""

    env: Annotated[
        tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[TASK]", help_behavior_hint="")
    ] = None
    """a token task, such as Lexicon, or FILE.py:NAME, whose reference policy is sampled"""
    text: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """train on this text file instead; 'bundled' is part of the package"""
    tokens: Literal["characters", "words"] = "characters"
    """the tokens of a text"""
    horizon: Annotated[int | None, tyro.conf.arg(metavar="H", help_behavior_hint="")] = None
    """maximum length in tokens (default: that of the task; 64 of a text)"""


def main(kind: str, argv: Sequence[str]) -> int:
    """Run ``tokenwalk train KIND``; the exit code is 130 after Ctrl-C, after the model is saved."""
    from tokenwalk.agents.backprop.configs import LMConfig, RewardModelConfig, TokenAutoencoderConfig

    kinds: dict[str, tuple[type[RunArguments], type[Any]]] = {
        "reward-model": (RewardModelArguments, RewardModelConfig),
        "autoencoder": (AutoencoderArguments, TokenAutoencoderConfig),
        "lm": (LMArguments, LMConfig),
    }
    arguments, config, training = _parse(kind, *kinds[kind], argv)
    label = arguments.env or getattr(arguments, "text", None) or ""
    with progress_bar(f"{kind} of {label}") as on_progress:
        summary = _train(kind, arguments, config, training, on_progress)
    if arguments.json:
        print_json(summary)
    else:
        print_summary(summary)
        print(f"curves: {tensorboard_command(Path(summary['run_dir']).parent)}")
        if use := _USE[kind].format(task=arguments.env, run=summary["run_dir"]) if arguments.env else "":
            print(f"use: {use}")
    if summary["interrupted"]:
        note(f"stopped after {summary['updates']} updates; the model is in {summary['run_dir']}")
        return 130
    return 0


def _train(kind: str, arguments: Any, config: Any, training: Any, on_progress: Any) -> dict[str, Any]:
    """Train the model and return its summary."""
    from tokenwalk.agents.training.model_run import ModelRequest

    if kind == "lm":
        from tokenwalk.agents.training.train_lm import read_source, train_lm_run

        source = read_source(arguments.env, arguments.text, arguments.tokens, arguments.horizon)
        named = arguments.env or Path(arguments.text).stem
        request = ModelRequest(named, run_dir=arguments.run_dir, threads=arguments.threads)
        return train_lm_run(request, source, config, training, on_progress)
    from tokenwalk.agents.training.train_autoencoder import train_autoencoder_run
    from tokenwalk.agents.training.train_reward_model import train_reward_model_run

    writer: Any = getattr(arguments, "writer", "reference")
    request = ModelRequest(arguments.env, writer, arguments.data, arguments.run_dir, arguments.threads)
    if kind == "reward-model":
        return train_reward_model_run(request, config, training, on_progress)
    return train_autoencoder_run(request, config, training, on_progress)


def _parse(
    kind: str, request: type[RunArguments], config_type: type[Any], argv: Sequence[str]
) -> tuple[Any, Any, Any]:
    """Return the arguments, the config of the model, and the training config, whose defaults depend on the model."""
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

    # The first parse finds the config of the model, or prints the help with the defaults of the default model.
    first = parse_with(default_training(config_type()))
    parsed = parse_with(default_training(first.config))
    return parsed.request, parsed.config, parsed.training
