"""The charts of the studies in docs/."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenwalk.agents.study.report.charts import BLUE, GRAY, GREEN, ORANGE, PURPLE, bound, new_figure


def plot_policies(panels: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot trained policies on the exact gold-against-KL path of their training reward, one panel per reward.

    Args:
        panels: from ``policies.measure``.
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another suffix. OSError: the file cannot be written.
    """
    rows = -(-len(panels) // 2)
    figure, every = new_figure(path, 2, (11, 4.2 * rows), rows)
    for axes, panel in zip(every, panels, strict=False):
        report, runs = panel["report"], panel["runs"]
        kl = [run["kl"] for run in runs]
        axes.axhline(0, color=GRAY, linewidth=0.8)
        axes.plot(
            report["kl"], report["proxy"], color=ORANGE, linestyle="--", label="training reward, exact path"
        )
        axes.plot(report["kl"], report["gold"], color=BLUE, linewidth=2, label="gold, exact path")
        axes.plot(
            report["kl"], report["best_gold"], color=GREEN, linestyle="-.", label="best gold at equal KL"
        )
        if best := report["best_of_n"]:
            axes.plot(best["kl"], best["gold"], color=PURPLE, linestyle=":", label="gold, best of n")
        axes.plot(
            kl,
            [run["proxy"] for run in runs],
            "s",
            color=ORANGE,
            fillstyle="none",
            label="training reward, trained by RLOO",
        )
        axes.plot(
            kl, [run["gold"] for run in runs], "o", color=BLUE, markersize=7, label="gold, trained by RLOO"
        )
        axes.set_xlim(0, 1.15 * max(kl))
        seen = [place for place, far in enumerate(report["kl"]) if far <= 1.15 * max(kl)]
        curves = (report[name][place] for name in ("proxy", "gold", "best_gold") for place in seen)
        bound(axes, [*curves, *(run[name] for run in runs for name in ("proxy", "gold"))])
        axes.set_xlabel("KL from the reference policy (nats)")
        axes.set_ylabel("return (reward per completion)")
        axes.set_title(f"{panel['task']}, trained on {panel['reward']}")
    every[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def plot_sizes(sizes: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot the held-out loss of language models of several sizes, minus the entropy rate of their dataset.

    Args:
        sizes: the fields of ``language_studies.Size``.
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another suffix. OSError: the file cannot be written.
    """
    figure, (axes,) = new_figure(path, 1, (8, 4.5))
    for one, color, style in zip(sizes, (GREEN, ORANGE, BLUE), (":", "--", "-"), strict=False):
        label = f"{one['parameters']:,} parameters: {100 * one['excess']:.2f} % above the entropy rate"
        above = [loss - one["floor"] for loss in one["losses"]]
        axes.plot(one["updates"], above, color=color, linestyle=style, marker="o", markersize=3, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("updates (of 128 completions)")
    axes.set_ylabel("held-out loss minus entropy rate (nats per token)")
    axes.set_title(
        f"Pre-training on Lexicon's reference policy (entropy rate {sizes[0]['floor']:.4f} nats per token)"
    )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def plot_placements(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot the exact regret of runs that differ in the placement of the KL penalty.

    Args:
        runs: the fields of ``language_studies.PlacementRun``.
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another suffix. OSError: the file cannot be written.
    """
    figure, (axes,) = new_figure(path, 1, (8, 4.5))
    formats = zip((BLUE, GREEN, PURPLE, ORANGE), ("-", "--", "-.", ":"), strict=True)
    styles = dict(zip(dict.fromkeys(run["placement"] for run in runs), formats, strict=False))
    for run in runs:
        color, style = styles[run["placement"]]
        label = run["placement"] if run["seed"] == 0 else None
        axes.plot(run["steps"], run["regret"], color=color, linestyle=style, label=label)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("tokens generated")
    axes.set_ylabel("exact regret (reward minus kl_coef KL, per completion)")
    axes.set_title("Flattery, RLOO: Regret by placement of the KL penalty")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def plot_password(conditions: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot the share of runs that have solved Password against episodes, one step per run.

    Args:
        conditions: from ``password.as_json``.
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another suffix. OSError: the file cannot be written.
    """
    figure, (axes,) = new_figure(path, 1, (8, 4.5))
    styles = zip((GRAY, BLUE, GREEN, PURPLE, ORANGE), ("-", "-", "-.", ":", "--"), strict=True)
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
    axes.set_ylabel("share of runs that solve Password")
    axes.set_title("Password: episodes until solved")
    axes.legend(frameon=False, loc="center", fontsize=9)
    figure.savefig(path, dpi=150)


def plot_overoptimization(annotators: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot the gold of PPO's sampled policy during training on each annotator's reward, and the effect of two guards.

    Args:
        annotators: from ``overoptimization.as_json``.
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another suffix. OSError: the file cannot be written.
    """
    figure, (left, right) = new_figure(path, 2, (11, 4.5))
    colors, styles = (GREEN, BLUE, PURPLE, ORANGE), ("-", "--", "-.", ":")
    for one, color, style in zip(annotators, colors, styles, strict=False):
        ppo = one["ppo"]
        for run in ppo["gold_of_each_seed"]:
            left.plot(ppo["steps"], run, color=color, linewidth=0.6, alpha=0.5)
        left.plot(
            ppo["steps"],
            ppo["gold"],
            color=color,
            linestyle=style,
            linewidth=2,
            label=f"bias {one['liked']:g} per word of praise",
        )
    left.axhline(2.5, color="black", linewidth=0.9, linestyle=(0, (1, 2)))
    left.text(0, 2.55, "optimal gold", fontsize=8)
    left.set_xlabel("steps of PPO on the reward model")
    left.set_ylabel("gold of the sampled policy (exact)")
    left.legend(frameon=False)
    left.set_title("PPO on the reward of a biased annotator")
    kinds = (
        ("alone", "reward model", ORANGE, ""),
        ("ensemble", "minimum of five", BLUE, "//"),
        ("guarded", "with the autoencoder's penalty", GREEN, ".."),
    )
    for number, (key, label, color, hatch) in enumerate(kinds):
        places = [place + 0.27 * (number - 1) for place in range(len(annotators))]
        heights = [one[key]["gold"] for one in annotators]
        right.bar(places, heights, 0.25, color=color, hatch=hatch, edgecolor="white", label=label)
    right.axhline(0, color=GRAY, linewidth=0.8)
    right.set_xticks(range(len(annotators)), [f"{one['liked']:g}" for one in annotators])
    right.set_xlabel("annotator bias per word of praise (gold)")
    right.set_ylabel("gold of the reward-optimal policy (exact)")
    right.legend(frameon=False, loc="lower left")
    right.set_title("two guards against overoptimization")
    figure.savefig(path, dpi=150)
