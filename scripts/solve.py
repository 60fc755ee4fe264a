"""``tokenwalk solve ENV``: the exact answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from tokenwalk.scripts.console import (
    EnvArgs,
    EnvName,
    File,
    Number,
    Rewards,
    format_value,
    parse,
    print_json,
    print_table,
)
from tokenwalk.scripts.main import run_command

_SHOWN_STATES = 20


@dataclass(frozen=True)
class SolveArguments:
    """Print the exact optimum of an environment: its return, its discounted value, and with --kl-coef the KL-regularized
    optimum."""

    env: EnvName
    """an environment, such as CounterWalk or FrozenLake"""
    discount: Number = None
    """discount of the value (default: that of the environment)"""
    kl_coef: Number = None
    """weight of the KL to the reference policy"""
    source: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """solve for this reward function, such as proxy, instead of the training reward"""
    reward: Rewards = field(default_factory=list)
    """the training reward: gold, proxy, a RUN of a learned reward, FILE.py:FUNCTION; may be repeated, each with =WEIGHT"""
    shaping: Rewards = field(default_factory=list)
    """does this change the optimal policy? a potential: machine, value, a RUN, FILE.py:FUNCTION; may be repeated"""
    bonus: Rewards = field(default_factory=list)
    """does this change the optimal policy? an added reward: a RUN, FILE.py:FUNCTION; may be repeated"""
    env_arg: EnvArgs = field(default_factory=list)
    """an argument of the environment as key=value; may be repeated"""
    out: File = None
    """write values, optimal actions and policies to this .npz file"""
    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run ``tokenwalk solve``."""
    arguments = parse(SolveArguments, "solve", argv)
    from tokenwalk.agents.evaluation.solve import solve_problem
    from tokenwalk.agents.problem.problem import open_problem, parse_env_args

    problem = open_problem(
        arguments.env,
        parse_env_args(arguments.env_arg),
        arguments.reward,
        arguments.shaping,
        arguments.discount,
    )
    solved = solve_problem(
        problem,
        discount=arguments.discount,
        kl_coef=arguments.kl_coef,
        source=arguments.source,
        bonus=arguments.bonus,
    )
    if arguments.out:
        solved.write_arrays(arguments.out)
    if arguments.json:
        print_json(solved.report)
        return 0
    report = solved.report
    lists = ("optimal_values", "optimal_actions", "shaping")
    print_table(
        ("figure", "value"), [(key, format_value(value)) for key, value in report.items() if key not in lists]
    )
    if report["optimal_values"] is not None:
        rows = list(zip(range(report["states"]), *(report[key] for key in lists[:2]), strict=True))
        print_table(
            ("state", "value", "optimal actions"),
            [(s, v, " ".join(map(str, a))) for s, v, a in rows[:_SHOWN_STATES]],
        )
        if len(rows) > _SHOWN_STATES:
            print(f"({len(rows) - _SHOWN_STATES} more states: see --json or --out FILE.npz)")
    if "shaping" in report:
        print(f"with what is added, {report['shaping']['sentence']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command("solve"))
