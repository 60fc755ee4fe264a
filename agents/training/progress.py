"""What a training reports while it goes on. Loads nothing heavy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


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


OnProgress = Callable[[Progress], None]


def completed(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the summary of a run that something else is built on. Re-raises KeyboardInterrupt if it was interrupted."""
    if summary["interrupted"]:
        raise KeyboardInterrupt
    return summary
