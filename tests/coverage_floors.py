"""Compares the share of tested lines per room with its minimum: ``make coverage`` writes the report and runs this file.

Compiled kernels (numba) are not traced while they run compiled, so their lines count as missed.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "build" / "coverage.json"
DEFAULT_FLOOR = 90.0  # percent of lines of a room that FLOORS does not name
FLOORS = {
    "agents/study/audit": 85.0,
    "agents/study/benchmark": 85.0,
    "agents/study/commands": 85.0,
    "agents/study/compare": 85.0,
    "agents/study/report": 85.0,
    "scripts": 65.0,  # the slow tests and the smallest runs of .ci/run call the rest
    "src/tokenwalk": 60.0,  # a checkout without links and one without metadata are slow tests in processes of their own
}
NOT_MEASURED = {
    "agents",  # one line that refuses a bare import, tested in a process of its own
    "scripts/studies",  # the project's own measurements of minutes to hours: `make deep` and `make studies`
}


def shares(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the percentage of executed lines of each folder, from the JSON report of coverage."""
    covered: dict[str, int] = {}
    lines: dict[str, int] = {}
    for name, file in report["files"].items():
        room = Path(name).parent.as_posix()
        covered[room] = covered.get(room, 0) + file["summary"]["covered_lines"]
        lines[room] = lines.get(room, 0) + file["summary"]["num_statements"]
    return {room: 100.0 * covered[room] / lines[room] for room in sorted(lines) if lines[room]}


def below(measured: Mapping[str, float], floors: Mapping[str, float] = FLOORS) -> list[str]:
    """Return the rooms under their minimum; a name in ``floors`` that was not measured is one of them."""
    low = [room for room, share in measured.items() if share < floors.get(room, DEFAULT_FLOOR)]
    return sorted(set(low) - NOT_MEASURED | (set(floors) - set(measured)))


def main(argv: Sequence[str]) -> int:
    """Print each room's share beside its minimum and return 1 where a room is below it."""
    report = Path(argv[0]) if argv else REPORT
    measured = shares(json.loads(report.read_text("utf-8")))
    low = below(measured)
    print(f"{'room':<28} {'lines':>7} {'minimum':>8}")
    for room in sorted({*measured, *low} - NOT_MEASURED):
        share = f"{measured[room]:.1f} %" if room in measured else "none"
        mark = "  below" if room in low else ""
        print(f"{room:<28} {share:>7} {FLOORS.get(room, DEFAULT_FLOOR):>6.0f} %{mark}")
    if low:
        print(f"tests reach too few lines of {', '.join(low)}", file=sys.stderr)
    return 1 if low else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
