"""``tokenwalk benchmark``: our speed and a peer's, interleaved in one run, as medians and their ratio.

Absolute figures drift with the machine; only the ratios are claims. A contest gives two callables that each do a
stated amount of work; they take turns, so that whatever else the machine does meets both alike.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Work = Callable[[], int]  # does the work, returns how many units it was


@dataclass(frozen=True)
class Contest:
    """Ours against a peer, or against a rate that is asked for. ``target`` is the least ratio that we promise, or None
    where there is no promise."""

    name: str
    ours: Work
    peer: Work | float  # a number: units per second
    target: float | None
    unit: str = "steps/s"


@dataclass(frozen=True)
class Row:
    """A result: units per second of both (medians), and their ratio."""

    name: str
    ours: float
    peer: float
    ratio: float
    target: float | None
    unit: str

    def as_json(self) -> dict[str, Any]:
        """Return the row with the keys name, ours, peer, ratio, target, unit."""
        return asdict(self)


def run(
    contests: Sequence[Contest], rounds: int = 7, on_progress: Callable[[str], None] | None = None
) -> Iterator[Row]:
    """Run each contest ``rounds`` times in turns, after one warm-up each, and yield its row.

    The ratio is the median of the rounds' ratios, so that a disturbance of one round does not move it.
    """
    for contest in contests:
        if on_progress:
            on_progress(contest.name)
        contest.ours()
        if not isinstance(contest.peer, float):
            contest.peer()
        pairs = [(_rate(contest.ours), _rate(contest.peer)) for _ in range(rounds)]
        yield Row(
            contest.name,
            statistics.median(ours for ours, _ in pairs),
            statistics.median(peer for _, peer in pairs),
            statistics.median(ours / peer for ours, peer in pairs),
            contest.target,
            contest.unit,
        )


def _rate(work: Work | float) -> float:
    if isinstance(work, float):
        return work
    started = time.perf_counter()
    units = work()
    return units / (time.perf_counter() - started)
