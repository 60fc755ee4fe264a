"""``tokenwalk report RUNS... --out DIR``: one page of what runs came to, with pictures; it reads run folders alone."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.evaluation.stored_completions import read_completions
from tokenwalk.agents.exact_tokens.completions import Completions, sample_completions
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.agents.learners.registry import AGENTS
from tokenwalk.agents.problem.problem import Problem
from tokenwalk.agents.problem.reopen import reopen_problem
from tokenwalk.agents.runs.checkpoint import read_json, write_atomically
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.runs.tracking import read_metrics
from tokenwalk.agents.tabular.config import BACKUPS
from tokenwalk.envs.rewards.source import score_tokens

METRIC = "eval/return"
SHOWN = 6  # completions of each run
MOST_STATES = 200  # of a table that is drawn
_FIGURES = ("normalized_score", "exact", "return", "gold", "proxy", "kl", "steps", "seconds")


@dataclass(frozen=True)
class Run:
    """A finished run: where it is, what it was asked for, and what it came to."""

    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    settings: str = ""  # by which it differs from other runs of the same agent

    @property
    def agent(self) -> str:
        """Return who learned, and how where others of the same name learned otherwise."""
        return f"{self.config['agent']}{self.settings}"

    @property
    def paid(self) -> str:
        """Return what it was paid by, and shaped by; "gold" where it was the environment's own reward."""
        rewards = [_named(text) for text in self.config.get("reward", ())]
        shaping = [Path(text).name for text in self.config.get("shaping", ())]
        return " + ".join(rewards or ["gold"]) + (f", shaped by {' + '.join(shaping)}" if shaping else "")

    @property
    def label(self) -> str:
        """Return what it has in common with other seeds of the same: agent, rewards and shaping."""
        return self.agent if self.paid == "gold" else f"{self.agent}, paid by {self.paid}"

    def curve(self, tag: str) -> list[tuple[int, float]]:
        """Return (step, value) of a metric, the last of each step."""
        found = {step: value for step, _, name, value in read_metrics(self.path) if name == tag}
        return sorted(found.items())


def find_runs(paths: Sequence[Path]) -> tuple[list[Run], list[Path]]:
    """Return the runs in ``paths`` (run folders, or folders of them at any depth), and the comparisons.

    Raises:
        ValueError: no run, one that is still being written or was killed, or runs of several environments.
    """
    folders: list[Path] = []
    comparisons: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"{path} is no folder: give run folders, or folders that hold some")
        inside = (
            [path] if (path / "config.json").is_file() else [one.parent for one in path.rglob("config.json")]
        )
        # What a run keeps of others, and models that are no agents, are no runs of their own.
        folders += sorted(one for one in inside if one.parent.name != "sources")
        comparisons += [one.parent for one in path.rglob("comparison.json")]
    runs = []
    for folder in dict.fromkeys(folders):
        run = RunFolder.open(folder)
        if run.config["agent"] not in AGENTS:
            continue
        if not run.is_complete:
            raise ValueError(
                f"{folder} is still being written, or was killed: wait for its end, or leave it out"
            )
        runs.append(Run(folder, run.config, _checked_summary(folder, run.summary)))
    if not runs:
        raise ValueError(
            f"there is no agent's run in {', '.join(map(str, paths))}: train one with tokenwalk train"
        )
    environments = sorted({run.config["env"] for run in runs})
    if len(environments) > 1:
        raise ValueError(
            f"the runs are of {' and '.join(environments)}, which do not go into one picture: report on one at a time"
        )
    worlds = [_world(run) for run in runs]
    if other := [run for run, world in zip(runs, worlds, strict=True) if world != worlds[0]]:
        raise ValueError(
            f"{runs[0].path} and {other[0].path} are of {environments[0]} with {worlds[0] or 'its defaults'} and "
            f"{_world(other[0]) or 'its defaults'}, which do not go into one picture: report on one at a time"
        )
    return [replace(run, settings=_settings(run, runs)) for run in runs], comparisons


def _checked_summary(folder: Path, summary: Any) -> Mapping[str, Any]:
    """Return the summary of a run. Raises ValueError where figures are missing."""
    if not isinstance(summary, dict) or not {"optimal_return", "gold", "normalized_score"} <= set(summary):
        raise ValueError(f"{folder / 'summary.json'} is damaged: leave the run out, or train it again")
    return summary


def _named(reward: str) -> str:
    """Return a reward's name with its weight, without the folders that lead to it."""
    name, equals, weight = reward.partition("=")
    return f"{Path(name).name}{equals}{weight}"


def _world(run: Run) -> dict[str, Any]:
    """Return the arguments that make its environment another problem: not what an agent sees of it."""
    return {name: value for name, value in run.config.get("env_args", {}).items() if name != "observation"}


def _settings(run: Run, runs: Sequence[Run]) -> str:
    """Return by what the run's config differs from others of the same agent and pay, as ", kl_coef 0.1"."""
    alike = [one.config["config"] for one in runs if (one.agent, one.paid) == (run.agent, run.paid)]
    names = [
        name for name in run.config["config"] if any(one.get(name) != alike[0].get(name) for one in alike)
    ]
    return "".join(f", {name} {run.config['config'][name]}" for name in names)


def write_report(paths: Sequence[Path], out: Path, metric: str = METRIC) -> dict[str, Any]:
    """Write ``out``/report.html with its pictures, and return what is in it.

    Args:
        paths: run folders, or folders of them.
        out: a folder that does not exist yet.
        metric: the tag of the learning curves.

    Returns:
        env, runs (how many), page, pictures (their files).

    Raises:
        ValueError: as ``find_runs``, a metric that no run has, or a folder that exists.
    """
    runs, comparisons = find_runs(paths)
    if out.exists():
        raise ValueError(f"{out} exists: name a new folder")
    curves = [run.curve(metric) for run in runs]
    if not any(curves):
        tags = sorted({name for run in runs for _, _, name, _ in read_metrics(run.path)})
        known = f"give one of {', '.join(tags)}" if tags else "their metrics.csv are empty or damaged"
        raise ValueError(f"no run has a metric {metric!r}: {known}")
    problem = reopen_problem(runs[0].path, runs[0].config)
    out.mkdir(parents=True)
    try:
        return _write(runs, comparisons, problem, metric, out)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)  # a report is whole, or it is not there
        raise


def _write(
    runs: Sequence[Run], comparisons: Sequence[Path], problem: Problem, metric: str, out: Path
) -> dict[str, Any]:
    """Do as ``write_report`` says, into a folder that was made for it."""
    sections = [
        *(_comparison(folder) for folder in comparisons),
        _table_of(runs),
        _picture("Learning curves", out / "curves.svg", lambda path: _plot_curves(runs, metric, path)),
    ]
    if problem.tokens is not None:
        sections.append(
            _picture("What each source gave", out / "sources.svg", lambda path: _plot_sources(runs, path))
        )
        if "proxy" in problem.tokens.task.sources:
            sections.append(
                _picture(
                    "Gold against KL", out / "goodhart.svg", lambda path: _plot_goodhart(problem, runs, path)
                )
            )
        sections.append(_completions(runs, problem))
    tables = [run for run in runs if run.config["agent"] in BACKUPS and problem.tokens is None]
    if tables and problem.mdp is not None and problem.mdp.n_states <= MOST_STATES:
        sections.append(
            _picture("Action values", out / "values.svg", lambda path: _plot_values(tables[0], path))
        )
    page = _PAGE.format(title=escape(problem.env_id), body="\n".join(filter(None, sections)))
    write_atomically(out / "report.html", page.encode())
    pictures = sorted(str(path) for path in out.glob("*.svg"))
    return {"env": problem.env_id, "runs": len(runs), "page": str(out / "report.html"), "pictures": pictures}


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>tokenwalk: {title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #111; background: #fff; }}
body {{ max-width: 60rem; margin: 0 auto; padding: 1rem; }}
h1 {{ font-size: 1.5rem; overflow-wrap: anywhere; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
.wide {{ overflow-x: auto; }} svg {{ width: 100%; min-width: 40rem; height: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.2rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }}
th:first-child, .t {{ text-align: left; }}
mark {{ background: #ffe08a; }} mark.loss {{ background: #bcd7ff; text-decoration: underline; }}
.text th {{ text-align: left; }} .text td {{ text-align: left; font-family: ui-monospace, monospace; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>Of the normalised score 1 is the exact optimum and 0 the reference policy, by gold. Figures with "no" under exact are
estimates.</p>
{body}
</body>
</html>
"""


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _rows(columns: Sequence[str], rows: Sequence[Sequence[Any]], kind: str = "") -> str:
    """Return an HTML table; cells that are ``Markup`` stand as they are."""
    head = "".join(f"<th>{escape(column.replace('_', ' '))}</th>" for column in columns)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table class="{kind}">\n<tr>{head}</tr>\n{body}</table></div>'


class Markup(str):
    """Text that is HTML already."""


def _cell(value: Any) -> str:
    shown = value if isinstance(value, Markup) else escape(_number(value))
    return f"<td{' class=t' if isinstance(value, str) else ''}>{shown}</td>"


def _table_of(runs: Sequence[Run]) -> str:
    lines = runs[0].summary
    rows = [(run.label, run.config["seed"], *(run.summary.get(name) for name in _FIGURES)) for run in runs]
    ends = (
        ("gold's optimum", lines["optimal_return"]),
        ("the reference policy's gold", lines["reference_return"]),
    )
    said = ", ".join(f"{name}: {_number(value)}" for name, value in ends if value is not None)
    return f"<h2>Runs</h2>\n<p>{escape(said)}</p>\n" + _rows(("agent", "seed", *_FIGURES), rows)


def _picture(title: str, path: Path, draw: Callable[[Path], Any]) -> str:
    """Draw into ``path`` and return the section that holds the picture itself; nothing where nothing is drawn."""
    if draw(path) is False:
        return ""
    svg = path.read_text(encoding="utf-8")
    return f'<h2>{escape(title)}</h2>\n<div class="wide">{svg[svg.index("<svg") :]}</div>'


def _by_pay(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs by what they were paid, under the titles of their panels."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(f"paid by {run.paid}", []).append(run)
    first = "paid by gold"
    return {title: groups[title] for title in sorted(groups, key=lambda title: (title != first, title))}


def _plot_curves(runs: Sequence[Run], metric: str, path: Path) -> None:
    from tokenwalk.agents.study.report.charts import Curves, plot_curves

    panels = {}
    for title, alike in _by_pay(runs).items():
        groups: dict[str, list[list[tuple[int, float]]]] = {}
        for run in alike:
            if curve := run.curve(metric):
                groups.setdefault(run.agent, []).append(curve)
        if not groups:
            continue
        charts = reopen_problem(alike[0].path, alike[0].config).lines.charts
        lines = {name: tags[metric] for name, tags in charts.items() if metric in tags}
        if metric == "eval/normalized_score":
            lines = {"optimum": 1.0, "reference": 0.0}
        panels[title] = Curves({agent: _banded(curves) for agent, curves in groups.items()}, lines)
    plot_curves(panels, metric, path)


def _banded(curves: Sequence[Sequence[tuple[int, float]]]) -> dict[str, list[float]]:
    """Return steps with the mean, the least and the largest of several curves, read between their own points."""
    steps = sorted({step for curve in curves for step, _ in curve})
    last = min(curve[-1][0] for curve in curves)  # beyond it not all are there
    steps = [step for step in steps if step <= last]
    values = np.array(
        [np.interp(steps, [step for step, _ in curve], [value for _, value in curve]) for curve in curves]
    )
    bands = {"mean": values.mean(axis=0), "low": values.min(axis=0), "high": values.max(axis=0)}
    return {"steps": [float(step) for step in steps], **{name: one.tolist() for name, one in bands.items()}}


def _plot_sources(runs: Sequence[Run], path: Path) -> bool:
    from tokenwalk.agents.study.report.charts import plot_sources

    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for run in runs:
        if run.label in panels:
            continue
        tags = {
            name
            for _, _, name, _ in read_metrics(run.path)
            if name.startswith("reward/") and name.count("/") == 1
        }
        found = {tag.removeprefix("reward/"): run.curve(tag) for tag in sorted(tags)}
        if any(len(curve) > 1 for curve in found.values()):
            panels[run.label] = found
    if not panels:
        return False
    plot_sources(panels, path)
    return True


def _plot_goodhart(problem: Problem, runs: Sequence[Run], path: Path) -> None:
    from tokenwalk.agents.evaluation.goodhart import goodhart_report
    from tokenwalk.agents.study.report.charts import plot_goodhart

    trained = {
        title: [
            (run.agent, run.summary["kl"], run.summary["gold"])
            for run in alike
            if run.summary.get("kl") is not None
            and run.config["config"].get("kl_to", "reference") == "reference"
        ]
        for title, alike in _by_pay(runs).items()
    }
    plot_goodhart(goodhart_report(problem.env_id, env_args=_world(runs[0])), path, trained)


def _plot_values(run: Run, path: Path) -> None:
    from tokenwalk.agents.study.report.charts import plot_values
    from tokenwalk.agents.tabular.saving import load_agent

    agent = load_agent(run.path / "agent.npz")
    plot_values(agent.values.mean(axis=0)[0], agent.greedy_policy().mean(axis=0)[0], run.label, path)


def _completions(runs: Sequence[Run], problem: Problem) -> str:
    """Return what the reference policy writes and what each run wrote, with the tokens that gold pays marked."""
    assert problem.tokens is not None
    task = problem.tokens.task
    before = sample_completions(task, reference_on_tokens(task), SHOWN, np.random.default_rng(0))
    written = {"before: the reference policy": before}
    for run in runs:
        if run.label not in written and (run.path / "completions.jsonl").is_file():
            written[run.label] = read_completions(run.path, task)[slice(SHOWN)]
    rows: list[tuple[Any, ...]] = [
        (label, *row) for label, texts in written.items() for row in _marked(texts, problem)
    ]
    legend = (
        "<p>Tokens that gold pays for are <mark>marked</mark>, those that it takes from "
        "<mark class='loss'>underlined</mark>.</p>"
    )
    columns: tuple[str, ...] = ("who", "prompt", "gold", "how often", "completion")
    if not any(task.prompts):
        columns, rows = (columns[0], *columns[2:]), [(row[0], *row[2:]) for row in rows]
    return f"<h2>Completions before and after</h2>\n{legend}\n" + _rows(columns, rows, "text")


def _marked(texts: Completions, problem: Problem) -> list[tuple[str, float, str, Markup]]:
    """Return each text once: its prompt, its gold, how often it was written, and itself with what gold pays marked."""
    assert problem.tokens is not None
    task = problem.tokens.task
    vocabulary, gold = task.vocabulary, task.sources["gold"]
    paid = score_tokens([gold], task.prompt_ids[texts.prompt], texts.tokens, texts.length, vocabulary)["gold"]
    rows: list[tuple[str, float, Markup]] = []
    for prompt, tokens, length, rewards in zip(texts.prompt, texts.tokens, texts.length, paid, strict=True):
        parts = []
        for token, reward in zip(tokens[:length], rewards, strict=False):
            text = escape(vocabulary.tokens[token]).replace(" ", "&#9251;")
            kind = "" if reward > 0 else " class='loss'"
            parts.append(f"<mark{kind}>{text}</mark>" if reward else text)
        rows.append((task.prompts[prompt], float(rewards.sum()), Markup(vocabulary.separator.join(parts))))
    return [
        (prompt, gold, f"{rows.count((prompt, gold, text))} of {len(rows)}", text)
        for prompt, gold, text in dict.fromkeys(rows)
    ]


def _comparison(folder: Path) -> str:
    report = read_json(folder / "comparison.json")
    if not isinstance(report, dict) or not report.get("rows"):
        raise ValueError(
            f"{folder / 'comparison.json'} is damaged: run the comparison again, which writes it anew"
        )
    columns = list(report["rows"][0])
    return f"<h2>Compared, {report['seeds']} seeds</h2>\n" + _rows(
        columns, [[row[one] for one in columns] for row in report["rows"]]
    )
