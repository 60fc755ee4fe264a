"""Record the figures of one short run of every agent and command, and compare two such records.

    python tests/same_figures.py record CHECKOUT OUT     # runs the commands with the code of CHECKOUT
    python tests/same_figures.py compare OLD NEW         # prints what differs; exit code 1 if anything does

A change of structure keeps every figure: run it before and after. Times, paths and versions are left out.
"""

import csv
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# One line for each command. Later lines read the run folders of earlier ones.
COMMANDS = """
envs
solve CounterWalk --discount 0.9 --kl-coef 0.5
solve FrozenLake
solve Flattery --source proxy --kl-coef 0.35
solve LengthBias
solve Arithmetic
goodhart Flattery
goodhart LengthBias
audit reward proxy --task LengthBias
audit reward proxy --task Flattery
audit reward mine.py:brevity --task Keyword --budget 2000
audit reward mine.py:brevity --horizon 8 --budget 2000
audit kl --updates 10
examples --run-dir examples
train q-learning CounterWalk --steps 2000 --run-dir q
train q-learning CounterWalk --steps 2000 --resume q
train sarsa FrozenLake --steps 2000 --run-dir sarsa
train expected-sarsa CliffWalking --steps 2000 --run-dir expected-sarsa
train double-q Taxi --steps 2000 --run-dir double-q
train soft-q CounterWalk --steps 2000 --run-dir soft-q
train q-learning Blackjack --steps 2000 --run-dir blackjack
train ppo CounterWalk --steps 512 --run-dir ppo
train a2c CounterWalk --steps 512 --run-dir a2c
train dqn CounterWalk --steps 512 --run-dir dqn
train maskable-ppo CounterWalk --steps 512 --run-dir maskable-ppo
train exact CounterWalk --run-dir exact
train random CounterWalk --run-dir random
train random Blackjack --run-dir random-blackjack
train q-learning Flattery --steps 2000 --run-dir tokens
train q-learning Arithmetic --observation tokens --steps 2000 --run-dir raw
train ppo Flattery --steps 1024 --run-dir ppo-tokens
train ppo Flattery --steps 1024 --kl-coef 0.1 --run-dir ppo-kl
train reward-model Flattery --updates 100 --run-dir reward-model
train reward-model LengthBias --scorer transformer --updates 20 --run-dir transformer-reward-model
train autoencoder Flattery --updates 100 --run-dir autoencoder
solve Flattery --shaping reward-model --bonus autoencoder=-1
train q-learning Flattery --reward reward-model --shaping autoencoder --steps 2000 --run-dir learned
train q-learning Flattery --reward mine.py:brevity=1..0 --reward gold --shaping value --steps 2000 --run-dir annealed
evaluate reward-model
train lm Flattery --updates 20 --run-dir lm
train lm --text bundled --updates 5 --run-dir lm-text
evaluate lm
train reinforce Flattery --steps 2000 --run-dir reinforce
train rloo Flattery --model lm --steps 2000 --run-dir rloo
train rloo Flattery --kl-to model --model rloo --reward reward-model --steps 2000 --run-dir rloo-learned
train grpo Keyword --steps 5000 --run-dir grpo
train ppo-lm Arithmetic --steps 2000 --run-dir ppo-lm
train sft LengthBias --steps 5000 --run-dir sft
evaluate rloo --best-of 4
evaluate learned --reward gold --reward autoencoder
evaluate tokens --trajectories tokens.jsonl
evaluate q
evaluate blackjack --episodes 50
evaluate ppo --episodes 2 --trajectories ppo.jsonl
compare CounterWalk --agents q-learning sarsa --seeds 2 --run-dir compare
compare Flattery --agents q-learning sarsa --rewards gold proxy --budget 0.04 --seeds 3 --run-dir compare-tokens
"""
FILES = {"mine.py": "def brevity(text):\n    return 1.0 - len(text) / 60\n"}
# Keys that a change of words renamed: old -> new.
RENAMED = {"cheats": "candidates", "drawn": "sampled"}
LEFT_OUT = {"seconds", "seconds_to_95", "tokens_per_second", "run_dir", "versions"}
TOLERANCE = 1e-12  # relative; the code that learns is the same, so its figures are too


def record(checkout: Path, out: Path) -> None:
    """Write the JSON of each command into ``out/figures.json``, with the metrics of every run folder."""
    out.mkdir(parents=True)
    for name, content in FILES.items():
        (out / name).write_text(content, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "TOKENWALK_QUIET": "1"}
    figures: dict[str, Any] = {}
    for line in filter(None, COMMANDS.splitlines()):
        command = [sys.executable, "-m", "tokenwalk.scripts.main", *shlex.split(line), "--json"]
        done = subprocess.run(
            command,
            cwd=out,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        try:
            figures[line] = {
                "exit": done.returncode,
                "out": json.loads(done.stdout) if done.stdout else done.stderr,
            }
        except json.JSONDecodeError:
            figures[line] = {"exit": done.returncode, "out": done.stdout + done.stderr}
        print(f"{done.returncode} {line}", flush=True)
    for path in sorted(out.rglob("metrics.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            figures[f"metrics of {path.parent.relative_to(out)}"] = {
                f"{row['step']} {row['tag']}": float(row["value"]) for row in csv.DictReader(file)
            }
    (out / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Yield what differs between two records, each with its place."""
    if isinstance(old, dict) and isinstance(new, dict):
        if where.startswith(".metrics of"):  # some models report by the clock: what both reported is compared
            old = {key: value for key, value in old.items() if key in new and " time/" not in key}
            new = {key: new[key] for key in old}
        old = {RENAMED.get(key, key): value for key, value in old.items() if key not in LEFT_OUT}
        for key, value in old.items():
            if key not in new:
                yield f"{where}.{key}: gone (was {str(value)[:80]})"
            else:
                yield from differences(value, new[key], f"{where}.{key}")
        yield from (f"{where}.{key}: new" for key in new if key not in old and key not in LEFT_OUT)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{where}: {len(old)} entries, now {len(new)}"
        for number, pair in enumerate(zip(old, new, strict=False)):
            yield from differences(*pair, f"{where}[{number}]")
    elif isinstance(old, float | int) and isinstance(new, float | int):
        if not math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            yield f"{where}: {old!r}, now {new!r}"
    elif old != new:
        yield f"{where}: {str(old)[:150]!r}, now {str(new)[:150]!r}"


def main(argv: list[str]) -> int:
    """Run ``record`` or ``compare``."""
    if argv[0] == "record":
        record(Path(argv[1]).resolve(), Path(argv[2]).resolve())
        return 0
    old, new = (json.loads((Path(folder) / "figures.json").read_text("utf-8")) for folder in argv[1:3])
    found = list(differences(old, new))
    print("\n".join(found) or "no figure differs")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
