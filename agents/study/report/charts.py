"""The charts of a report. Colors are Okabe and Ito's, which are safe for color-blind readers; line styles differ too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.evaluation.goodhart import goodhart_report
from tokenwalk.agents.problem.problem import Problem
from tokenwalk.agents.problem.reopen import reopen_problem
from tokenwalk.agents.runs.tracking import read_metrics
from tokenwalk.agents.study.report.runs import Run, env_args_of

BLUE, ORANGE, GREEN, PURPLE, GRAY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
COLORS, STYLES, MARKS = (BLUE, ORANGE, GREEN, PURPLE, GRAY), ("-", "--", "-.", ":"), "osD^vPX*<>"


@dataclass(frozen=True)
class Curves:
    """A panel of learning curves.

    Attributes:
        groups: name -> steps, mean, low, high.
        lines: name -> height: the optimum, the reference policy.
    """

    groups: Mapping[str, Mapping[str, Sequence[float]]]
    lines: Mapping[str, float]


def _by_reward(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the title of each panel and its runs: a panel per training reward, gold first."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(f"trained on {run.trained_on}", []).append(run)
    first = "trained on gold"
    return {title: groups[title] for title in sorted(groups, key=lambda title: (title != first, title))}


def curves_chart(runs: Sequence[Run], metric: str, path: Path) -> None:
    """Plot the learning curves of ``runs`` into ``path``: mean and range over the seeds, and the exact optimum."""
    panels = {}
    for title, alike in _by_reward(runs).items():
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
    """Return steps with the mean, minimum and maximum of several curves, which are interpolated linearly."""
    steps = sorted({step for curve in curves for step, _ in curve})
    last = min(curve[-1][0] for curve in curves)  # every curve reaches it
    steps = [step for step in steps if step <= last]
    values = np.array(
        [np.interp(steps, [step for step, _ in curve], [value for _, value in curve]) for curve in curves]
    )
    bands = {"mean": values.mean(axis=0), "low": values.min(axis=0), "high": values.max(axis=0)}
    return {"steps": [float(step) for step in steps], **{name: one.tolist() for name, one in bands.items()}}


def terms_chart(runs: Sequence[Run], path: Path) -> bool:
    """Plot the reward components of one run per label into ``path``; return False if no run logged any."""
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


def goodhart_chart(problem: Problem, runs: Sequence[Run], path: Path) -> None:
    """Plot the exact path of the proxy with the trained policies into ``path``."""
    trained = {
        title: [
            (run.agent, run.summary["kl"], run.summary["gold"])
            for run in alike
            if run.summary.get("kl") is not None
            and run.config["config"].get("kl_to", "reference") == "reference"
        ]
        for title, alike in _by_reward(runs).items()
    }
    plot_goodhart(goodhart_report(problem.env_id, env_args=env_args_of(runs[0])), path, trained)


def values_chart(run: Run, path: Path) -> None:
    """Plot the mean action values of a tabular run into ``path``."""
    from tokenwalk.agents.tabular.saving import load_agent

    agent = load_agent(run.path / "agent.npz")
    plot_values(agent.values.mean(axis=0)[0], agent.greedy_policy().mean(axis=0)[0], run.label, path)


def plot_curves(panels: Mapping[str, Curves], metric: str, path: Path) -> None:
    """Plot learning curves: the mean of each group, and a band from its minimum to its maximum.

    Args:
        panels: title -> curves. A group has the same color and line style in every panel.
        metric: the tag of the metric.
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another suffix. OSError: the file cannot be written.
    """
    figure, every = _panels(path, len(panels), (9, 4.8))
    names = list(dict.fromkeys(name for one in panels.values() for name in one.groups))
    for axes, (title, curves) in zip(every, panels.items(), strict=True):
        for label, curve in curves.groups.items():
            number = names.index(label)
            color, style = COLORS[number % len(COLORS)], STYLES[number % len(STYLES)]
            axes.fill_between(
                curve["steps"], curve["low"], curve["high"], color=color, alpha=0.2, linewidth=0
            )
            mark = "o" if len(curve["steps"]) == 1 else None  # one point has no line
            axes.plot(curve["steps"], curve["mean"], color=color, linestyle=style, marker=mark, label=label)
        for name, height in curves.lines.items():
            axes.axhline(height, color="black", linewidth=0.9, linestyle=(0, (1, 2)))
            axes.annotate(
                name, (1, height), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
            )
        ends = [curve["steps"][-1] for curve in curves.groups.values() if curve["steps"]]
        if min(ends) > 0 and max(ends) > 5 * min(ends):  # else the short curves are too narrow to read
            first = min(step for curve in curves.groups.values() for step in curve["steps"] if step > 0)
            axes.set_xscale("symlog", linthresh=first)  # step 0 has no logarithm
            axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("environment steps (tokens on token tasks)")
        axes.set_ylabel(f"{metric} ({_unit_of(metric)})")
        axes.set_title(title, fontsize=9)
        axes.legend(edgecolor="none", fontsize=8)  # opaque over the curves
    figure.savefig(path)


def _unit_of(metric: str) -> str:
    """Return what a metric is measured in."""
    name = metric.rpartition("/")[2]
    if name in ("kl", "entropy"):
        return "nats"
    rewards = ("return", "gold", "proxy", "regret", "regularized", "ep_rew")
    if name.startswith(rewards) or metric.startswith("reward/"):
        return "reward per episode"
    return {"normalized_score": "1: the optimum", "ep_len_mean": "steps"}.get(name, "no unit")


def plot_sources(panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], path: Path) -> None:
    """Plot each reward component per completion during training, one panel per run.

    Args:
        panels: run -> component -> (step, value).
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another suffix. OSError: the file cannot be written.
    """
    figure, every = _panels(path, len(panels), (9, 4.8))
    for axes, (label, sources) in zip(every, panels.items(), strict=True):
        for number, (name, curve) in enumerate(sources.items()):
            steps, values = zip(*curve, strict=True)
            axes.plot(steps, values, color=COLORS[number % 5], linestyle=STYLES[number % 4], label=name)
        axes.axhline(0, color=GRAY, linewidth=0.6)
        axes.set_title(label, fontsize=9)
        axes.set_xlabel("environment steps")
        axes.set_ylabel("reward per completion")
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def plot_values(values: Any, policy: Any, label: str, path: Path) -> None:
    """Plot a table of action values and mark the greedy actions.

    Args:
        values: action values, [S, A]. policy: the greedy policy's probabilities, [S, A].
        label: the agent's name.
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another suffix. OSError: the file cannot be written.
    """
    states, actions = values.shape
    figure, (axes,) = new_figure(path, 1, (9, 1.6 + 0.35 * actions))
    image = axes.imshow(values.T, aspect="auto", cmap="cividis")
    for state in range(states):
        for action in range(actions):
            if policy[state, action] > 0:
                axes.plot([state], [action], "o", color="white", markeredgecolor="black", markersize=5)
    axes.set_xlabel("state (a dot marks the greedy action)")
    axes.set_ylabel("action")
    axes.set_yticks(range(actions))
    if states <= 20:
        axes.set_xticks(range(states))
    axes.set_title(f"action values of {label} (discounted reward)", fontsize=9)
    figure.colorbar(image, ax=axes)
    figure.savefig(path)


def plot_goodhart(
    report: Mapping[str, Any],
    path: Path,
    trained: Mapping[str, Sequence[tuple[str, float, float]]] | None = None,
) -> None:
    """Plot gold and proxy against KL: the proxy's exact path, the best gold at equal KL, best-of-n and the fit.

    Args:
        report: of ``goodhart_report``.
        path: a .png, .svg or .pdf file.
        trained: title of a panel -> (name, KL, gold) of trained policies. None: one panel with the path alone.

    Raises:
        ValueError: another suffix. OSError: the file cannot be written.
    """
    panels = trained or {"": ()}
    figure, every = _panels(path, len(panels), (8, 5))
    names = list(dict.fromkeys(name for points in panels.values() for name, _, _ in points))
    for axes, (title, points) in zip(every, panels.items(), strict=True):
        _plot_path(axes, report)
        path_lines: list[Any] = axes.get_legend_handles_labels()[0]
        handles = list(path_lines) if len(panels) == 1 else []
        for name in dict.fromkeys(name for name, _, _ in points):
            mark = MARKS[names.index(name) % len(MARKS)]
            far, gold = zip(*((kl, gold) for one, kl, gold in points if one == name), strict=True)
            handles += axes.plot(far, gold, mark, color="black", fillstyle="none", markersize=8, label=name)
        axes.legend(handles=handles, frameon=False)
        axes.set_title(title, fontsize=9)
    if len(panels) > 1:
        figure.legend(handles=path_lines, loc="outside lower center", ncols=3, frameon=False)
    heading = f"{report['env'].rsplit('/', 1)[-1]}: gold as the proxy is optimized more strongly (exact)"
    figure.suptitle(heading, fontsize=12)
    figure.savefig(path, dpi=150)


def _plot_path(axes: Any, report: Mapping[str, Any]) -> None:
    """Plot the proxy's exact path, the best gold at equal KL, best-of-n and the fit."""
    kl, peak = report["kl"], report["peak"]
    axes.axhline(0, color=GRAY, linewidth=0.8)
    axes.plot(kl, report["proxy"], color=ORANGE, linestyle="--", label="proxy: the training reward")
    axes.plot(kl, report["gold"], color=BLUE, linewidth=2.2, label="gold: the true objective")
    axes.plot(kl, report["best_gold"], color=GREEN, linestyle="-.", label="best gold at equal KL")
    if best := report["best_of_n"]:
        dots: dict[str, Any] = {"color": PURPLE, "marker": "o", "markersize": 4, "linestyle": ":"}
        axes.plot(best["kl"], best["gold"], label="best of n by the proxy", **dots)
    thin: dict[str, Any] = {"color": "black", "linewidth": 0.9, "linestyle": (0, (1, 2))}
    axes.plot(report["fit"]["kl"], report["fit"]["gold"], label="fit of gold: d (a - b log d)", **thin)
    axes.plot([peak["kl"]], [peak["gold"]], color=BLUE, marker="v", markersize=9)
    words, where = f"gold peaks at KL {peak['kl']:.2f}", (peak["kl"], peak["gold"])
    axes.annotate(words, where, xytext=(-4, -26), textcoords="offset points", color=BLUE)
    axes.set_xlabel("KL from the reference policy (nats)")
    axes.set_ylabel("return (reward per completion)")
    bound(axes, [*report["proxy"], *report["gold"], *report["best_gold"]])


def _panels(path: Path, count: int, size: tuple[float, float]) -> tuple[Any, Sequence[Any]]:
    """Return a figure with ``count`` panels, two per row, and their axes; ``size`` is that of one panel alone."""
    if count == 1:
        return new_figure(path, 1, size)
    rows = -(-count // 2)
    figure, every = new_figure(path, 2, (11, 3.8 * rows), rows)
    for axes in every[count:]:
        axes.set_axis_off()
    return figure, every[:count]


def new_figure(
    path: Path, columns: int, size: tuple[float, float], rows: int = 1
) -> tuple[Any, Sequence[Any]]:
    """Return a figure and its axes, row by row. Raises ValueError for an unknown suffix."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"{path} has the suffix {path.suffix!r}: give a .png, .svg or .pdf file")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def bound(axes: Any, values: Sequence[float]) -> None:
    """Set the y limits from ``values``, with a margin; a fit may exceed them."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low or 1.0)
    axes.set_ylim(low - margin, high + margin)
