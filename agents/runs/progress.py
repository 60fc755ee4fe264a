"""What a training reports while it goes on, for every kind of learner. Loads nothing heavy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

EPISODE_WINDOW = 100  # finished episodes that a rollout figure is the mean of, as many as for SB3's own


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Attributes:
        step: steps (or updates) taken. steps: that were asked for.
        metrics: the newest, by tag.
        optimal_return: the exact optimum by the training reward; None where it is not known.
    """

    step: int
    steps: int
    metrics: Mapping[str, float]
    optimal_return: float | None


OnProgress = Callable[[Progress], None]  # of a whole training: what a person watches
OnMetrics = Callable[[int, Mapping[str, float]], Any]  # of a learner: (steps or updates so far, tag -> value)


def completed(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the summary of a run that something else is built on. Re-raises KeyboardInterrupt if it was interrupted."""
    if summary["interrupted"]:
        raise KeyboardInterrupt
    return summary
