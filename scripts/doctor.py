"""``tokenwalk doctor``: checks the installation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenwalk.scripts.console import parse, print_json, print_table
from tokenwalk.scripts.main import run_command


@dataclass(frozen=True)
class DoctorArguments:
    """Check this installation: versions, device, threads, writable folders, known conflicts; each fault with its fix."""

    runs: Path = Path("runs")
    """the folder of the runs"""
    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run ``tokenwalk doctor``; the exit code is 1 if there is a fault."""
    arguments = parse(DoctorArguments, "doctor", argv)
    from tokenwalk.agents.study.commands.doctor import as_rows, diagnose

    checks = diagnose(arguments.runs)
    healthy = all(check.ok for check in checks)
    if arguments.json:
        print_json({"healthy": healthy, "checks": as_rows(checks)})
    else:
        print_table(
            ("check", "found", "", "fix"),
            [(c.name, c.found, "ok" if c.ok else "FAULT", c.fix) for c in checks],
        )
        print("no faults" if healthy else "fix each row that is marked FAULT")
    return 0 if healthy else 1


if __name__ == "__main__":
    raise SystemExit(run_command("doctor"))
