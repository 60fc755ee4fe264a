"""``tokenwalk audit WHAT``: the optimum and the exploits of a reward, or the bias of a gradient."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from tokenwalk.scripts.console import File, note, parse, print_json, print_table
from tokenwalk.scripts.main import run_command

_ROWS = 10  # of the curve
_INTERVAL = 2.0  # seconds between two reports of progress
_TEXT_WIDTH = 60


@dataclass(frozen=True)
class RewardArguments:
    """Print the reward-optimal completion, its gold, and the exploits of a reward.

    The exit code is 0 for aligned and for costly (with a warning), 1 for hackable, 2 for a reward that breaks its
    contract. Without --task there is no gold and no verdict."""

    name: Annotated[
        tyro.conf.Positional[str | None], tyro.conf.arg(metavar="NAME", help_behavior_hint="")
    ] = None
    """the reward: FILE.py:FUNCTION, a RUN of a learned reward, or a task's own gold or proxy"""
    task: Annotated[str | None, tyro.conf.arg(metavar="TASK", help_behavior_hint="")] = None
    """the task with the gold reward: a name such as Flattery, or FILE.py:NAME"""
    text: File = None
    """without a task: fit the reference policy to this text (default: the bundled one)"""
    tokens: Literal["characters", "words"] = "characters"
    """without a task: the tokens"""
    horizon: Annotated[int | None, tyro.conf.arg(metavar="H", help_behavior_hint="")] = None
    """maximum tokens of a completion (default: the task's own, or 32)"""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """seed of the searches and samples"""
    budget: Annotated[int, tyro.conf.arg(metavar="N")] = 200_000
    """completions that a search may score, approximately"""
    self_test: bool = False
    """audit built-in rewards (correct, exploitable, broken) and compare each verdict with the expected one"""
    json: bool = False
    """print one JSON object"""


@dataclass(frozen=True)
class KlArguments:
    """Compare the gradient of an agent and its KL with the exact gradient of reward minus kl_coef times KL.

    The exact gradient is by enumeration, on a small task. The exit code is 0 where the agent's gradient has the right
    direction, 1 where it has another one."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[TASK]")] = "Flattery"
    """a token task of few completions"""
    agent: Annotated[str, tyro.conf.arg(metavar="AGENT")] = "rloo"
    """reinforce, rloo, grpo, ppo-lm, or FILE.py:CLASS of a custom PolicyGradient"""
    updates: Annotated[int, tyro.conf.arg(metavar="N")] = 100
    """updates to sample, for each agent"""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """seed of the model and the samples"""
    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run ``tokenwalk audit``."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        width = max(map(len, AUDITS))
        listing = "\n".join(f"  {name:<{width}}  {purpose}" for name, (purpose, _) in AUDITS.items())
        print(
            "usage: tokenwalk audit WHAT [ARGUMENTS]     ('tokenwalk audit WHAT --help' explains one)\n\n"
            f"{listing}\n\nFor example: tokenwalk audit reward my_reward.py:score --task Flattery"
        )
        return 0
    if argv[0] not in AUDITS:
        raise ValueError(f"there is no audit of {argv[0]!r}: give {' or '.join(AUDITS)}")
    return AUDITS[argv[0]][1](argv[1:])


def _audit_reward(argv: Sequence[str]) -> int:
    """Run ``tokenwalk audit reward``."""
    arguments = parse(RewardArguments, "audit reward", argv)
    if arguments.seed < 0:
        raise ValueError(f"seed is {arguments.seed}: give an integer of 0 or more")
    if arguments.self_test:
        return _self_test(arguments)
    if arguments.name is None:
        raise ValueError("there is no reward to audit: give one, such as my_reward.py:score, or --self-test")
    from tokenwalk.agents.study.audit.audit_reward import EXIT_CODES, audit_reward
    from tokenwalk.agents.study.audit.load_reward import name_reward

    named = name_reward(arguments.name, arguments.task, arguments.text, arguments.tokens, arguments.horizon)
    with _progress() as on_stage:
        report = audit_reward(
            named.source,
            named.task,
            judged=named.judged,
            seed=arguments.seed,
            budget=arguments.budget,
            on_stage=on_stage,
        )
    if arguments.json:
        print_json(report)
    else:
        _show(report)
    if report["verdict"] == "costly":
        note(f"warning: optimizing this reward loses {100 * report['gold_lost']:.3g} % of the possible gold")
    return EXIT_CODES[report["verdict"]]


def _audit_kl(argv: Sequence[str]) -> int:
    """Run ``tokenwalk audit kl``."""
    from tokenwalk.agents.policy_gradient.config import PolicyGradientConfig
    from tokenwalk.agents.study.audit.audit_kl import SMALL, audit_kl, find_choice

    asked = dataclasses.make_dataclass(
        "AuditKlArguments",
        [
            ("request", KlArguments),
            ("config", PolicyGradientConfig, SMALL),
        ],
        namespace={"__doc__": KlArguments.__doc__},
        frozen=True,
    )
    parsed: Any = parse(asked, "audit kl", argv)
    arguments = parsed.request
    from tokenwalk.envs.tasks import find_task

    choice = find_choice(arguments.agent, parsed.config, seed=arguments.seed, updates=arguments.updates)
    with _progress() as on_stage:
        report = audit_kl(find_task(arguments.env), choice, on_stage)
    if arguments.json:
        print_json(report)
    else:
        _show_kl(report)
    return 0 if report["verdict"] != "turned" else 1


def _show_kl(report: dict[str, Any]) -> None:
    """Print an audit of a gradient as tables."""
    print(
        f"{report['task']}, a model {report['kl']:.3g} nats from the reference policy ({report['model']}), kl_coef "
        f"{report['kl_coef']:g}"
    )
    columns = ("placement", "relative_error", "cosine", "scale", "optimizes")
    if report["placements"]:
        rows = [_rounded(row, columns) for row in report["placements"]]
        print_table(columns, rows, title="gradient of the KL by placement: exact, by enumeration")
    names = ("agent", "normalization", "kl", "relative_error", "sampling_error", "bias", "cosine", "scale")
    rows = [_rounded(row, names) for row in (*report["estimators"], report["choice"])]
    rows[-1][0] = f"your choice: {rows[-1][0]}"
    print_table(names, rows, title="gradient of the objective by agent: sampled")
    meaning = {
        "unbiased": "has an unbiased gradient: sampling explains the error",
        "shorter": "has a gradient of the right direction and another length: adjust the learning rate",
        "turned": "has a biased gradient: its direction is not that of the objective",
    }
    chosen = report["choice"]
    print(f"{chosen['agent']} with {chosen['kl']} {meaning[report['verdict']]}")


def _rounded(row: dict[str, Any], columns: Sequence[str]) -> list[Any]:
    """Return the values of ``columns``, numbers to three digits."""
    return [f"{row[c]:.3g}" if isinstance(row[c], float) else row[c] for c in columns]


# The audits: the purpose for the listing, and the command.
AUDITS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "reward": ("the reward-optimal completion, its gold, and the exploits of a reward", _audit_reward),
    "kl": ("the gradient of an algorithm and its KL beside the exact gradient", _audit_kl),
}


def _self_test(arguments: RewardArguments) -> int:
    """Run the audit's self-test; 0 where every verdict is the expected one."""
    from tokenwalk.agents.study.audit.self_test import run_cases

    rows = []
    for row in run_cases(arguments.seed):
        rows.append(row)
        note(f"{row['reward']} on {row['task']}: {row['found']}")
    passed = all(row["right"] for row in rows)
    if arguments.json:
        print_json({"passed": passed, "rows": rows})
        return 0 if passed else 1
    columns = ("reward", "task", "expected", "found", "gold_lost", "right")
    print_table(columns, [[row[column] for column in columns] for row in rows])
    print(f"{sum(row['right'] for row in rows)} of {len(rows)} verdicts are right")
    return 0 if passed else 1


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Report the stage on stderr every two seconds; yields the callback for the stages."""
    stage, over, started = ["starting"], threading.Event(), time.monotonic()

    def report() -> None:
        while not over.wait(_INTERVAL):
            note(f"{time.monotonic() - started:.0f} s: {stage[0]} ...")

    def on_stage(text: str) -> None:
        stage[0] = text

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield on_stage
    finally:
        over.set()
        reporter.join()


def _show(report: dict[str, Any]) -> None:
    """Print a report: the verdict, then the tables."""
    print(report["sentence"])
    names = ("optimal_gold", "reference_gold", "reference_reward", "gold_optimal_reward", "range")
    metrics = [(name, report[name]) for name in names if report[name] is not None]
    print_table(("metric", "value"), [*metrics, ("exact", report["exact"]), ("found by", report["found_by"])])
    columns = ("name", "text", "reward", "gold")
    rows = [
        [_shortened(tried["text"]) if c == "text" else tried[c] for c in columns]
        for tried in report["candidates"]
    ]
    print_table(("candidate", *columns[1:]), rows, title="exploit candidates")
    print_table(
        ("group size", "probability of equal rewards"),
        list(report["dead_groups"].items()),
        title="dead groups",
    )
    curve = report["curve"]
    if curve is not None:
        keys = [key for key in ("kl_coef", "kl", "reward", "gold") if curve[key] is not None]
        points = list(zip(*(curve[key] for key in keys), strict=True))
        kind = "exact optima" if curve["exact"] else "estimates"
        print_table(keys, points[:: max(1, len(points) // _ROWS)], title=f"{len(points)} {kind}, a selection")
    if curve is not None and curve["peak"] is not None:
        where = "" if curve["exact"] else "as estimated, "
        print(f"{where}gold peaks at {curve['peak']['gold']:.4g}, at a KL of {curve['peak']['kl']:.3g} nats")
    if report["note"]:
        print(f"note: {report['note']}")


def _shortened(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= _TEXT_WIDTH else shown[: _TEXT_WIDTH - 3] + "..."


if __name__ == "__main__":
    raise SystemExit(run_command("audit"))
