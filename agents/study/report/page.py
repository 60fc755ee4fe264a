"""``tokenwalk report RUNS... --out DIR``: one page of what runs reached, with plots; it reads run folders alone."""

import shutil
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.evaluation.stored_completions import read_completions
from tokenwalk.agents.exact_tokens.completions import Completions, sample_completions
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.agents.problem.problem import Problem
from tokenwalk.agents.problem.reopen import reopen_problem
from tokenwalk.agents.runs.checkpoint import write_atomically
from tokenwalk.agents.runs.tracking import read_metrics
from tokenwalk.agents.study.report.charts import curves_chart, goodhart_chart, terms_chart, values_chart
from tokenwalk.agents.study.report.runs import Run, find_runs, read_comparison
from tokenwalk.agents.tabular.config import BACKUPS
from tokenwalk.envs.rewards.source import score_tokens

METRIC = "eval/return"
SHOWN = 6  # completions per run
MOST_STATES = 200  # of a table of action values that is plotted
_FIGURES = ("normalized_score", "exact", "return", "gold", "proxy", "kl", "steps", "seconds")


def write_report(paths: Sequence[Path], out: Path, metric: str = METRIC) -> dict[str, Any]:
    """Write ``out``/report.html and its charts.

    Args:
        paths: run folders, or folders that contain some.
        out: a folder that does not exist yet.
        metric: the tag of the learning curves.

    Returns:
        env, runs (their number), page (its file), pictures (the files of the charts).

    Raises:
        ValueError: as ``find_runs``; a metric that no run has; ``out`` exists.
    """
    runs, comparisons = find_runs(paths)
    if out.exists():
        raise ValueError(f"{out} exists: name a new folder")
    curves = [run.curve(metric) for run in runs]
    if not any(curves):
        tags = sorted({name for run in runs for _, _, name, _ in read_metrics(run.path)})
        known = f"give one of {', '.join(tags)}" if tags else "every metrics.csv is empty or damaged"
        raise ValueError(f"no run has a metric {metric!r}: {known}")
    problem = reopen_problem(runs[0].path, runs[0].config)
    out.mkdir(parents=True)
    try:
        return _write(runs, comparisons, problem, metric, out)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)  # no partial reports
        raise


def _write(
    runs: Sequence[Run], comparisons: Sequence[Path], problem: Problem, metric: str, out: Path
) -> dict[str, Any]:
    """Write the report into the empty folder ``out``."""
    sections = [
        *(_comparison(folder) for folder in comparisons),
        _table_of(runs),
        _chart("Learning curves", out / "curves.svg", lambda path: curves_chart(runs, metric, path)),
    ]
    if problem.tokens is not None:
        sections.append(
            _chart("Reward components", out / "sources.svg", lambda path: terms_chart(runs, path))
        )
        if "proxy" in problem.tokens.task.sources:
            sections.append(
                _chart(
                    "Gold against KL", out / "goodhart.svg", lambda path: goodhart_chart(problem, runs, path)
                )
            )
        sections.append(_completions(runs, problem))
    tables = [run for run in runs if run.config["agent"] in BACKUPS and problem.tokens is None]
    if tables and problem.mdp is not None and problem.mdp.n_states <= MOST_STATES:
        sections.append(
            _chart("Action values", out / "values.svg", lambda path: values_chart(tables[0], path))
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
<p>The normalized score is computed from gold: 1 is the exact optimum, 0 the reference policy. A row with "no" under exact
holds estimates.</p>
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
    """Return an HTML table; ``Markup`` cells are not escaped."""
    head = "".join(f"<th>{escape(column.replace('_', ' '))}</th>" for column in columns)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table class="{kind}">\n<tr>{head}</tr>\n{body}</table></div>'


class Markup(str):
    """A string of HTML."""


def _cell(value: Any) -> str:
    shown = value if isinstance(value, Markup) else escape(_number(value))
    return f"<td{' class=t' if isinstance(value, str) else ''}>{shown}</td>"


def _table_of(runs: Sequence[Run]) -> str:
    summary = runs[0].summary
    rows = [(run.label, run.config["seed"], *(run.summary.get(name) for name in _FIGURES)) for run in runs]
    bounds = (
        ("optimal gold return", summary["optimal_return"]),
        ("gold return of the reference policy", summary["reference_return"]),
    )
    text = ", ".join(f"{name}: {_number(value)}" for name, value in bounds if value is not None)
    return f"<h2>Runs</h2>\n<p>{escape(text)}</p>\n" + _rows(("agent", "seed", *_FIGURES), rows)


def _chart(title: str, path: Path, plot: Callable[[Path], Any]) -> str:
    """Plot into ``path`` and return the section with the SVG; "" if ``plot`` returns False."""
    if plot(path) is False:
        return ""
    svg = path.read_text(encoding="utf-8")
    return f'<h2>{escape(title)}</h2>\n<div class="wide">{svg[svg.index("<svg") :]}</div>'


def _completions(runs: Sequence[Run], problem: Problem) -> str:
    """Return the table of completions of the reference policy and of each run; rewarded tokens are marked."""
    assert problem.tokens is not None
    task = problem.tokens.task
    before = sample_completions(task, reference_on_tokens(task), SHOWN, np.random.default_rng(0))
    texts_of = {"before training: the reference policy": before}
    for run in runs:
        if run.label not in texts_of and (run.path / "completions.jsonl").is_file():
            texts_of[run.label] = read_completions(run.path, task)[slice(SHOWN)]
    rows: list[tuple[Any, ...]] = [
        (label, *row) for label, texts in texts_of.items() for row in _marked(texts, problem)
    ]
    legend = (
        "<p>Tokens with a positive gold reward are <mark>marked</mark>, tokens with a negative one are "
        "<mark class='loss'>underlined</mark>.</p>"
    )
    columns: tuple[str, ...] = ("policy", "prompt", "gold", "count", "completion")
    if not any(task.prompts):
        columns, rows = (columns[0], *columns[2:]), [(row[0], *row[2:]) for row in rows]
    return f"<h2>Completions before and after training</h2>\n{legend}\n" + _rows(columns, rows, "text")


def _marked(texts: Completions, problem: Problem) -> list[tuple[str, float, str, Markup]]:
    """Return (prompt, gold, count, marked completion) of each distinct completion."""
    assert problem.tokens is not None
    task = problem.tokens.task
    vocabulary, gold = task.vocabulary, task.sources["gold"]
    rewards_of = score_tokens([gold], task.prompt_ids[texts.prompt], texts.tokens, texts.length, vocabulary)[
        "gold"
    ]
    rows: list[tuple[str, float, Markup]] = []
    for prompt, tokens, length, rewards in zip(
        texts.prompt, texts.tokens, texts.length, rewards_of, strict=True
    ):
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
    report = read_comparison(folder)
    columns = list(report["rows"][0])
    return f"<h2>Comparison, {report['seeds']} seeds</h2>\n" + _rows(
        columns, [[row[one] for one in columns] for row in report["rows"]]
    )
