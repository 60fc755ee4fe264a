"""Pictures of what was measured. Colours are Okabe and Ito's, which colour-blind readers tell apart; styles differ too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
COLORS, STYLES, MARKS = (BLUE, ORANGE, GREEN, PURPLE, GREY), ("-", "--", "-.", ":"), "osD^vPX*<>"


@dataclass(frozen=True)
class Curves:
    """A panel of learning curves.

    Attributes:
        groups: name -> steps, mean, low, high.
        lines: name -> height: the optimum, the reference policy.
    """

    groups: Mapping[str, Mapping[str, Sequence[float]]]
    lines: Mapping[str, float]


def _unit_of(metric: str) -> str:
    """Return what a metric is measured in."""
    name = metric.rpartition("/")[2]
    if name in ("kl", "entropy"):
        return "nats"
    rewards = ("return", "gold", "proxy", "regret", "regularized", "ep_rew")
    if name.startswith(rewards) or metric.startswith("reward/"):
        return "reward per episode"
    return {"normalized_score": "1: the optimum", "ep_len_mean": "steps"}.get(name, "no unit")


def plot_curves(panels: Mapping[str, Curves], metric: str, path: Path) -> None:
    """Draw learning curves: of each group its mean, and between its least and its largest run a band.

    Args:
        panels: title -> what stands in it; a group has one colour and one style in all of them.
        metric: what they show.
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another ending. OSError: a place that cannot be written.
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
            mark = "o" if len(curve["steps"]) == 1 else None  # else nobody would see it
            axes.plot(curve["steps"], curve["mean"], color=color, linestyle=style, marker=mark, label=label)
        for name, height in curves.lines.items():
            axes.axhline(height, color="black", linewidth=0.9, linestyle=(0, (1, 2)))
            axes.annotate(
                name, (1, height), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
            )
        ends = [curve["steps"][-1] for curve in curves.groups.values() if curve["steps"]]
        if min(ends) > 0 and max(ends) > 5 * min(ends):  # else the short ones are seen as a wall
            first = min(step for curve in curves.groups.values() for step in curve["steps"] if step > 0)
            axes.set_xscale("symlog", linthresh=first)  # a logarithm has no place for step 0
            axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("environment steps (tokens, where they are written)")
        axes.set_ylabel(f"{metric} ({_unit_of(metric)})")
        axes.set_title(title, fontsize=9)
        axes.legend(edgecolor="none", fontsize=8)  # a white ground, where it lies on a line
    figure.savefig(path)


def plot_sources(panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], path: Path) -> None:
    """Draw what each source gave per completion while a run learned, a panel for each run.

    Args:
        panels: run -> source -> (step, value).
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another ending. OSError: a place that cannot be written.
    """
    figure, every = _panels(path, len(panels), (9, 4.8))
    for axes, (label, sources) in zip(every, panels.items(), strict=True):
        for number, (name, curve) in enumerate(sources.items()):
            steps, values = zip(*curve, strict=True)
            axes.plot(steps, values, color=COLORS[number % 5], linestyle=STYLES[number % 4], label=name)
        axes.axhline(0, color=GREY, linewidth=0.6)
        axes.set_title(label, fontsize=9)
        axes.set_xlabel("environment steps")
        axes.set_ylabel("reward per completion")
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def plot_values(values: Any, policy: Any, label: str, path: Path) -> None:
    """Draw a table of action values, [S, A], with the greedy policy's actions, [S, A], marked.

    Args:
        values: of each action in each state. policy: its probability.
        label: whose they are.
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another ending. OSError: a place that cannot be written.
    """
    states, actions = values.shape
    figure, (axes,) = _figure(path, 1, (9, 1.6 + 0.35 * actions))
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
    """Draw gold and proxy against KL: the proxy's exact path, the best gold at equal KL, best-of-n and the fit.

    Args:
        report: of ``goodhart_report``.
        path: a .png, .svg or .pdf file.
        trained: policies that are drawn on it, a panel for each title: name, KL and gold; one panel without any if None.

    Raises:
        ValueError: another ending. OSError: a place that cannot be written.
    """
    panels = trained or {"": ()}
    figure, every = _panels(path, len(panels), (8, 5))
    names = list(dict.fromkeys(name for points in panels.values() for name, _, _ in points))
    for axes, (title, points) in zip(every, panels.items(), strict=True):
        _plot_path(axes, report)
        path_lines: list[Any] = axes.get_legend_handles_labels()[0]
        told = list(path_lines) if len(panels) == 1 else []
        for name in dict.fromkeys(name for name, _, _ in points):
            mark = MARKS[names.index(name) % len(MARKS)]
            far, gold = zip(*((kl, gold) for one, kl, gold in points if one == name), strict=True)
            told += axes.plot(far, gold, mark, color="black", fillstyle="none", markersize=8, label=name)
        axes.legend(handles=told, frameon=False)
        axes.set_title(title, fontsize=9)
    if len(panels) > 1:
        figure.legend(handles=path_lines, loc="outside lower center", ncols=3, frameon=False)
    heading = (
        f"{report['env'].rsplit('/', 1)[-1]}: the truth while the proxy is optimised ever harder (exact)"
    )
    figure.suptitle(heading, fontsize=12)
    figure.savefig(path, dpi=150)


def _plot_path(axes: Any, report: Mapping[str, Any]) -> None:
    """Draw the proxy's exact path, and what is beside it."""
    kl, peak = report["kl"], report["peak"]
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.plot(kl, report["proxy"], color=ORANGE, linestyle="--", label="proxy: what is paid")
    axes.plot(kl, report["gold"], color=BLUE, linewidth=2.2, label="gold: what it is worth")
    axes.plot(kl, report["best_gold"], color=GREEN, linestyle="-.", label="best gold at equal KL")
    if best := report["best_of_n"]:
        dots: dict[str, Any] = {"color": PURPLE, "marker": "o", "markersize": 4, "linestyle": ":"}
        axes.plot(best["kl"], best["gold"], label="best of n by the proxy", **dots)
    thin: dict[str, Any] = {"color": "black", "linewidth": 0.9, "linestyle": (0, (1, 2))}
    axes.plot(report["fit"]["kl"], report["fit"]["gold"], label="gold, fitted: d (a - b log d)", **thin)
    axes.plot([peak["kl"]], [peak["gold"]], color=BLUE, marker="v", markersize=9)
    words, where = f"gold peaks at KL {peak['kl']:.2f}", (peak["kl"], peak["gold"])
    axes.annotate(words, where, xytext=(-4, -26), textcoords="offset points", color=BLUE)
    axes.set_xlabel("KL from the reference policy (nats)")
    axes.set_ylabel("return (reward per completion)")
    _bound(axes, [*report["proxy"], *report["gold"], *report["best_gold"]])


def plot_policies(panels: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw trained policies on the exact gold-against-KL pictures of what they were paid by, a panel for each.

    Args:
        panels: of ``policies.measure``.
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another ending. OSError: a place that cannot be written.
    """
    rows = -(-len(panels) // 2)
    figure, every = _figure(path, 2, (11, 4.2 * rows), rows)
    for axes, panel in zip(every, panels, strict=False):
        report, runs = panel["report"], panel["runs"]
        kl = [run["kl"] for run in runs]
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.plot(report["kl"], report["proxy"], color=ORANGE, linestyle="--", label="paid, exact path")
        axes.plot(report["kl"], report["gold"], color=BLUE, linewidth=2, label="gold, exact path")
        axes.plot(
            report["kl"], report["best_gold"], color=GREEN, linestyle="-.", label="best gold at equal KL"
        )
        if best := report["best_of_n"]:
            axes.plot(best["kl"], best["gold"], color=PURPLE, linestyle=":", label="gold, best of n")
        axes.plot(
            kl, [run["proxy"] for run in runs], "s", color=ORANGE, fillstyle="none", label="paid, trained"
        )
        axes.plot(
            kl, [run["gold"] for run in runs], "o", color=BLUE, markersize=7, label="gold, trained by RLOO"
        )
        axes.set_xlim(0, 1.15 * max(kl))
        seen = [place for place, far in enumerate(report["kl"]) if far <= 1.15 * max(kl)]
        curves = (report[name][place] for name in ("proxy", "gold", "best_gold") for place in seen)
        _bound(axes, [*curves, *(run[name] for run in runs for name in ("proxy", "gold"))])
        axes.set_xlabel("KL from the reference policy (nats)")
        axes.set_ylabel("return (reward per completion)")
        axes.set_title(f"{panel['task']}, paid by {panel['reward']}")
    every[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def plot_sizes(sizes: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the held-out loss of language models of several sizes by update, above the entropy rate of what they read.

    Args:
        sizes: of ``language_studies.Size``, as mappings.
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another ending. OSError: a place that cannot be written.
    """
    figure, (axes,) = _figure(path, 1, (8, 4.5))
    for one, color, style in zip(sizes, (GREEN, ORANGE, BLUE), (":", "--", "-"), strict=False):
        label = f"{one['parameters']:,} parameters: {100 * one['excess']:.2f} % above the floor"
        above = [loss - one["floor"] for loss in one["losses"]]
        axes.plot(one["updates"], above, color=color, linestyle=style, marker="o", markersize=3, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("updates (of 128 texts)")
    axes.set_ylabel("held-out loss above the entropy rate (nats per token)")
    axes.set_title(
        f"Lexicon's reference policy, whose entropy rate is {sizes[0]['floor']:.4f} nats per token"
    )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def plot_placements(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the exact regret of runs whose KL is charged in different places.

    Args:
        runs: of ``language_studies.Charged``, as mappings.
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another ending. OSError: a place that cannot be written.
    """
    figure, (axes,) = _figure(path, 1, (8, 4.5))
    looks = zip((BLUE, GREEN, PURPLE, ORANGE), ("-", "--", "-.", ":"), strict=True)
    styles = dict(zip(dict.fromkeys(run["placement"] for run in runs), looks, strict=False))
    for run in runs:
        color, style = styles[run["placement"]]
        label = run["placement"] if run["seed"] == 0 else None
        axes.plot(run["steps"], run["regret"], color=color, linestyle=style, label=label)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("tokens written")
    axes.set_ylabel("exact regret (reward less kl_coef KL, per completion)")
    axes.set_title("Flattery, RLOO: what the place of the KL leaves to be had")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def _figure(path: Path, columns: int, size: tuple[float, float], rows: int = 1) -> tuple[Any, Sequence[Any]]:
    """Return a figure and its axes, row by row. Raises ValueError for an ending that is no picture's."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"{path} ends in {path.suffix!r}: name a .png, .svg or .pdf file")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def _panels(path: Path, count: int, size: tuple[float, float]) -> tuple[Any, Sequence[Any]]:
    """Return a figure of one panel of that size, or of two in a row, and as many axes as are asked for."""
    if count == 1:
        return _figure(path, 1, size)
    rows = -(-count // 2)
    figure, every = _figure(path, 2, (11, 3.8 * rows), rows)
    for axes in every[count:]:
        axes.set_axis_off()
    return figure, every[:count]


def plot_password(conditions: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the share of runs that have solved Password against the episodes that they took, one step a run.

    Args:
        conditions: of ``password.as_json``.
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another ending. OSError: a place that cannot be written.
    """
    figure, (axes,) = _figure(path, 1, (8, 4.5))
    styles = zip((GREY, BLUE, GREEN, PURPLE, ORANGE), ("-", "-", "-.", ":", "--"), strict=True)
    for one, (color, style) in zip(conditions, styles, strict=False):
        runs = len(one["episodes"])
        solved = sorted(value for value in one["episodes"] if value is not None)
        label = f"{one['name']}, on {one['observation']}: "
        label += (
            f"median {one['median_episodes']:,.0f}"
            if one["median_episodes"] is not None
            else "not within 200,000 steps"
        )
        if not solved:
            axes.plot([], [], color=color, linestyle=style, label=label)
            continue
        shares = [number / runs for number in range(len(solved) + 1)]
        axes.step([solved[0] * 0.8, *solved], shares, where="post", color=color, linestyle=style, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("episodes (of Q-learning with step size 1)")
    axes.set_ylabel("share of runs that write the password")
    axes.set_title("Password: how soon it is solved")
    axes.legend(frameon=False, loc="center", fontsize=9)
    figure.savefig(path, dpi=150)


def plot_overoptimization(labellers: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw what PPO's sampled policy truly earns while it learns each labeller's reward, and what guards do to the end.

    Args:
        labellers: of ``overoptimization.as_json``.
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another ending. OSError: a place that cannot be written.
    """
    figure, (left, right) = _figure(path, 2, (11, 4.5))
    colors, styles = (GREEN, BLUE, PURPLE, ORANGE), ("-", "--", "-.", ":")
    for one, color, style in zip(labellers, colors, styles, strict=False):
        ppo = one["ppo"]
        for run in ppo["gold_of_each_seed"]:
            left.plot(ppo["steps"], run, color=color, linewidth=0.6, alpha=0.5)
        left.plot(
            ppo["steps"],
            ppo["gold"],
            color=color,
            linestyle=style,
            linewidth=2,
            label=f"praise liked by {one['liked']:g}",
        )
    left.axhline(2.5, color="black", linewidth=0.9, linestyle=(0, (1, 2)))
    left.text(0, 2.55, "gold's optimum", fontsize=8)
    left.set_xlabel("steps of PPO, paid by the reward model")
    left.set_ylabel("gold of the sampled policy (exact)")
    left.legend(frameon=False)
    left.set_title("what is learned from a labeller who likes praise")
    kinds = (
        ("alone", "reward model", ORANGE, ""),
        ("ensemble", "least of five", BLUE, "//"),
        ("guarded", "with the autoencoder's penalty", GREEN, ".."),
    )
    for number, (key, label, color, hatch) in enumerate(kinds):
        places = [place + 0.27 * (number - 1) for place in range(len(labellers))]
        heights = [one[key]["gold"] for one in labellers]
        right.bar(places, heights, 0.25, color=color, hatch=hatch, edgecolor="white", label=label)
    right.axhline(0, color=GREY, linewidth=0.8)
    right.set_xticks(range(len(labellers)), [f"{one['liked']:g}" for one in labellers])
    right.set_xlabel("what a word of praise is worth to the labeller (gold per word)")
    right.set_ylabel("gold of the reward's optimum (exact)")
    right.legend(frameon=False, loc="lower left")
    right.set_title("what guards against it")
    figure.savefig(path, dpi=150)


def _bound(axes: Any, values: Sequence[float]) -> None:
    """Bound the picture by what was measured: a fit may leave it."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low or 1.0)
    axes.set_ylim(low - margin, high + margin)
