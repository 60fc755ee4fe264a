"""``make claims``: measures the learning claims of the README again and writes CLAIMS.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenwalk.scripts.console import note, parse, print_json, print_table
from tokenwalk.scripts.main import run_command


@dataclass(frozen=True)
class ClaimsArguments:
    """Measure the learning claims of the README again; the exit code is 1 where one does not hold."""

    out: Path = Path("CLAIMS.md")
    """the file of the table"""
    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run ``make claims``."""
    arguments = parse(ClaimsArguments, "claims", argv)
    from tokenwalk.scripts.studies.claims import markdown, measure_claims

    claims = []
    for claim in measure_claims():
        note(
            f"{claim.agent} on {claim.env}: {claim.measured:.4f} (at least {claim.bound}), {claim.seconds:.1f} s"
        )
        claims.append(claim)
    arguments.out.write_text(markdown(claims), encoding="utf-8")
    if arguments.json:
        print_json({"claims": [{**vars(claim), "holds": claim.holds} for claim in claims]})
    else:
        columns = ("agent", "env", "what", "measured", "bound", "holds")
        print_table(columns, [[getattr(claim, column) for column in columns] for claim in claims])
        print(f"written to {arguments.out}")
    return 0 if all(claim.holds for claim in claims) else 1


if __name__ == "__main__":
    raise SystemExit(run_command("studies.run_claims"))
