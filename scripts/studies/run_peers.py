"""The language model's speed against TRL and transformers, measured in a separate environment."""

import importlib.util
import subprocess
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenwalk.scripts.benchmark import show
from tokenwalk.scripts.console import note, parse
from tokenwalk.scripts.main import run_command

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".peers"
PINS = ROOT / "tests" / "trl_constraints.txt"


@dataclass(frozen=True)
class PeersArguments:
    """Measure our language model and those of TRL and transformers of the same shapes in turns, and print medians and their
    ratio. The first call installs TRL into a separate environment, .peers."""

    rounds: int = 5
    """number of rounds; medians are reported"""
    json: bool = False
    """print one JSON object"""


def main(argv: Sequence[str]) -> int:
    """Run ``scripts/studies/run_peers.py``, in the environment of the peers."""
    arguments = parse(PeersArguments, "peers", argv)
    if importlib.util.find_spec("trl") is None:
        return subprocess.call([_python_with_peers(), str(Path(__file__).resolve()), *argv])
    from tokenwalk.agents.study.benchmark.harness import run
    from tokenwalk.scripts.studies.peers import peer_contests

    rows = list(run(peer_contests(), arguments.rounds, lambda name: note(f"measuring {name} ...")))
    show(rows, arguments.json)
    return 0


def _python_with_peers() -> str:
    """Return the Python of .peers; create the environment if it does not exist."""
    python = FOLDER / "bin" / "python"
    if (FOLDER / "complete").exists():
        return str(python)
    note(f"setting up {FOLDER} with TRL: some minutes ...")
    venv.create(FOLDER, with_pip=True, clear=True)
    theirs = PINS.read_text(encoding="utf-8")
    known = {line.partition("==")[0].lower() for line in theirs.splitlines()}
    ours = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in ours if line.partition("==")[0].lower() not in known]
    pins = FOLDER / "constraints.txt"
    pins.write_text("\n".join([theirs, *kept]), encoding="utf-8")
    wanted = ["-e", f"{ROOT}[train]", "trl"]
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "-qq",
        "--disable-pip-version-check",
        "-c",
        str(pins),
        *wanted,
    ]
    subprocess.run(command, check=True)
    (FOLDER / "complete").touch()
    return str(python)


if __name__ == "__main__":
    raise SystemExit(run_command("studies.run_peers"))
