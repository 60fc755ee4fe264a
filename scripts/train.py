"""``tokenwalk train AGENT ENV``: trains an agent into a run folder."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from tokenwalk.agents.learners.registry import FAMILIES, Agent, find_agent
from tokenwalk.agents.problem.saved_models import MODELS
from tokenwalk.scripts.console import (
    Count,
    EnvArgs,
    EnvName,
    Folder,
    Rewards,
    note,
    parse,
    print_json,
    print_summary,
    progress_bar,
    tensorboard_command,
)
from tokenwalk.scripts.main import run_command

USAGE = (
    "usage: tokenwalk train AGENT ENV [OPTIONS]     ('tokenwalk train AGENT --help' lists an agent's options)"
)


@dataclass(frozen=True)
class TrainArguments:
    """Train an agent, write a run folder with TensorBoard curves, and print what the agent is worth."""

    env: EnvName
    """an environment, such as CounterWalk or FrozenLake"""
    steps: Count = None
    """environment steps of each run (default: what suits the environment)"""
    seed: int = 0
    """of everything that is drawn"""
    runs: Count = None
    """independent runs (default: 16 for tabular agents on tables, else 1)"""
    run_dir: Folder = None
    """a new folder for the run (default: a numbered one under runs/)"""
    resume: Folder = None
    """go on with this run for --steps more steps; tabular agents only"""
    observation: Annotated[str | None, tyro.conf.arg(metavar="[tokens|machine]", help_behavior_hint="")] = (
        None
    )
    """what an agent sees of a token task (default: the machine for tabular agents, else the tokens)"""
    reward: Rewards = field(default_factory=list)
    """what a token task pays: gold, proxy, a RUN of a learned reward, FILE.py:FUNCTION; may be repeated, each with
    =WEIGHT or, of what is learned or a function, =FROM..TO, which changes it while learning"""
    shaping: Rewards = field(default_factory=list)
    """a potential whose shaping is added: machine, value, a RUN, FILE.py:FUNCTION; may be repeated"""
    env_arg: EnvArgs = field(default_factory=list)
    """an argument of the environment as key=value; may be repeated"""
    threads: int = 1
    """of torch: small networks want one"""
    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run ``tokenwalk train``; the exit code is 130 after Ctrl-C, with what was learned saved."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{USAGE}\n\nagents")
        for family in FAMILIES:
            print(f"  {', '.join(family.names):<55}{family.title}")
        print(f"  {'FILE.py:CLASS':<55}a custom algorithm: docs/how-to.md")
        print(f"  {', '.join(MODELS):<55}models: tokenwalk train lm TASK")
        return 0
    if argv[0] in MODELS:
        from tokenwalk.scripts.train_model import main as train_model

        return train_model(argv[0], argv[1:])
    agent = argv[0]
    arguments, config = _parse(find_agent(agent), argv[1:])
    from tokenwalk.agents.problem.problem import parse_env_args
    from tokenwalk.agents.training.train_agent import resume, train

    with progress_bar(f"{agent} on {arguments.env}") as on_progress:
        if arguments.resume is not None:
            summary = resume(arguments.resume, steps=arguments.steps, on_progress=on_progress)
        else:
            summary = train(
                agent,
                arguments.env,
                steps=arguments.steps,
                seed=arguments.seed,
                runs=arguments.runs,
                env_args=parse_env_args(arguments.env_arg)
                | ({"observation": arguments.observation} if arguments.observation else {}),
                reward=arguments.reward,
                shaping=arguments.shaping,
                config=config,
                run_dir=arguments.run_dir,
                threads=arguments.threads,
                on_progress=on_progress,
            )
    if arguments.json:
        print_json(summary)
    else:
        print_summary(summary)
        print(f"curves: {tensorboard_command(Path(summary['run_dir']).parent)}")
    if summary["interrupted"]:
        note(f"stopped at step {summary['steps']}; what was learned is in {summary['run_dir']}")
        return 130
    return 0


def _parse(agent: Agent, argv: Sequence[str]) -> tuple[TrainArguments, Any]:
    """Return the arguments and the agent's config, whose defaults are those of the environment that ``argv`` names."""
    kind = agent.config_type
    if kind is None:
        return parse(TrainArguments, f"train {agent.name}", argv), None

    def parse_with(default: Any) -> Any:
        both = dataclasses.make_dataclass(
            "TrainAgentArguments",
            [("request", TrainArguments), ("config", kind, dataclasses.field(default=default))],
            namespace={"__doc__": TrainArguments.__doc__},
            frozen=True,
        )
        return parse(both, f"train {agent.name}", argv)

    env = parse_with(
        kind()
    ).request.env  # the first reading only finds the environment, in whatever place it stands
    parsed = parse_with(agent.default(env)[0])
    return parsed.request, parsed.config


if __name__ == "__main__":
    raise SystemExit(run_command("train"))
