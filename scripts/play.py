"""``tokenwalk play ENV``: a person chooses the tokens."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenwalk.scripts.console import EnvArgs, EnvName, parse
from tokenwalk.scripts.main import run_command


@dataclass(frozen=True)
class PlayArguments:
    """Play a token task: after each token see its reward, each component, and the best return that is still possible."""

    env: EnvName
    """a token task, such as Flattery"""
    seed: int = 0
    """of the prompt"""
    env_arg: EnvArgs = field(default_factory=list)
    """an argument of the environment as key=value; may be repeated"""


def main(argv: Sequence[str]) -> int:
    """Run ``tokenwalk play``."""
    arguments = parse(PlayArguments, "play", argv)
    from tokenwalk.agents.problem.problem import open_problem, parse_env_args
    from tokenwalk.agents.study.commands.play import Table, play_episode

    table = Table(open_problem(arguments.env, parse_env_args(arguments.env_arg)), arguments.seed)

    def ask() -> str | None:
        print("> ", end="", flush=True)
        line = sys.stdin.readline()
        return line.removesuffix("\n") if line else None

    if not play_episode(table, ask, print):
        print(f"stopped; {table.optimum()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command("play"))
