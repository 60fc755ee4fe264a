"""``tokenwalk benchmark``: our speed and that of a peer, interleaved in one run, as medians and their ratio.

Absolute figures depend on the machine; only the ratios are claims. A contest has two callables that each do a stated
amount of work. They take turns, so other load on the machine affects both.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Work = Callable[[], int]  # does the work and returns its number of units


@dataclass(frozen=True)
class Contest:
    """Our work against that of a peer, or against a required rate.

    Attributes:
        name: as it is printed: "ours / peer".
        ours: our work. peer: the peer's work, or a rate in units per second.
        target: the minimum ratio that we claim; None: no claim.
        unit: of the rates.
    """

    name: str
    ours: Work
    peer: Work | float
    target: float | None
    unit: str = "steps/s"


@dataclass(frozen=True)
class Row:
    """A result: units per second of both (medians), and the median ratio."""

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
    """Run each contest for ``rounds`` rounds, after one warm-up each, and yield its row.

    The ratio is the median of the ratios of the rounds, so that a disturbance of one round does not change it.
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
