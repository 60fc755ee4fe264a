"""``tokenwalk goodhart ENV``: gold against KL as the proxy is optimized."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenwalk.scripts.console import EnvArgs, EnvName, File, Rewards, parse, print_json, print_table
from tokenwalk.scripts.main import run_command

_ROWS = 12


@dataclass(frozen=True)
class GoodhartArguments:
    """Print gold against KL as the proxy of a task is optimized more strongly. Every point is an exact optimum."""

    env: EnvName
    """a token task with a proxy, Flattery or LengthBias; any token task with --reward"""
    reward: Rewards = field(default_factory=list)
    """optimize this instead of the proxy: a RUN of a learned reward, FILE.py:FUNCTION; may be repeated, with =WEIGHT"""
    env_arg: EnvArgs = field(default_factory=list)
    """an argument of the environment as key=value; may be repeated"""
    out: File = None
    """plot the curves into this .png, .svg or .pdf file"""
    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run ``tokenwalk goodhart``."""
    arguments = parse(GoodhartArguments, "goodhart", argv)
    from tokenwalk.agents.evaluation.goodhart import goodhart_report
    from tokenwalk.agents.problem.problem import parse_env_args

    report = goodhart_report(arguments.env, arguments.reward, parse_env_args(arguments.env_arg))
    if arguments.out:
        from tokenwalk.agents.study.report.charts import plot_goodhart

        plot_goodhart(report, arguments.out)
    if arguments.json:
        print_json(report)
        return 0
    columns = ("kl_coef", "kl", "proxy", "gold", "best_gold")
    rows = list(zip(*(report[column] for column in columns), strict=True))
    print_table(columns, rows[:: max(1, len(rows) // _ROWS)], title=f"some of {len(rows)} exact optima")
    if best := report["best_of_n"]:
        names = ("n", "kl", "bound", "proxy", "gold")
        rows = list(zip(*(best[name] for name in names), strict=True))
        print_table(names, rows[::2], title="best of n by the proxy")
    print(report["sentence"])
    if arguments.out:
        print(f"plotted: {arguments.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command("goodhart"))
