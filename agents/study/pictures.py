"""Pictures of what was measured. Colours are Okabe and Ito's, which colour-blind readers tell apart; styles differ too."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"


def draw_goodhart(report: Mapping[str, Any], path: Path) -> None:
    """Draw gold and proxy against KL: the proxy's exact path, the best gold at equal KL, best-of-n and the fit.

    Args:
        report: of ``goodhart_report``.
        path: a .png, .svg or .pdf file.

    Raises:
        ValueError: another ending. OSError: a place that cannot be written.
    """
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"{path} ends in {path.suffix!r}: name a .png, .svg or .pdf file")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    kl, peak = report["kl"], report["peak"]
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.plot(kl, report["proxy"], color=ORANGE, linestyle="--", label="proxy: what is paid")
    axes.plot(kl, report["gold"], color=BLUE, linewidth=2.2, label="gold: what it is worth")
    axes.plot(kl, report["best_gold"], color=GREEN, linestyle="-.", label="best gold at equal KL")
    best = report["best_of_n"]
    dots: dict[str, Any] = {"color": PURPLE, "marker": "o", "markersize": 4, "linestyle": ":"}
    axes.plot(best["kl"], best["gold"], label="best of n by the proxy", **dots)
    thin: dict[str, Any] = {"color": "black", "linewidth": 0.9, "linestyle": (0, (1, 2))}
    axes.plot(report["fit"]["kl"], report["fit"]["gold"], label="gold, fitted: d (a - b log d)", **thin)
    axes.plot([peak["kl"]], [peak["gold"]], color=BLUE, marker="v", markersize=9)
    words, where = f"gold peaks at KL {peak['kl']:.2f}", (peak["kl"], peak["gold"])
    axes.annotate(words, where, xytext=(-4, -26), textcoords="offset points", color=BLUE)
    axes.set_xlabel("KL from the reference policy (nats)")
    axes.set_ylabel("return (reward per completion)")
    axes.set_title(
        f"{report['env'].rsplit('/', 1)[-1]}: the truth while the proxy is optimised ever harder (exact)"
    )
    _bound(axes, [*report["proxy"], *report["gold"], *report["best_gold"]])
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def _bound(axes: Any, values: Sequence[float]) -> None:
    """Bound the picture by what was measured: a fit may leave it."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low or 1.0)
    axes.set_ylim(low - margin, high + margin)
