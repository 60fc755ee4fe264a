"""What the README says is so: its tree is true, its ids are the registered ones (test_docs.py runs its blocks)."""

import re
import subprocess
from pathlib import Path

from tokenwalk.envs.registration import TABLE

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TREE = README.split("## The tree")[1].split("```")[1]


def test_the_tree_names_every_file_of_the_house_and_no_other() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "envs", "agents", "scripts"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    files = sorted(Path(path).name for path in tracked if path.endswith(".py") and "__init__" not in path)
    named = sorted(re.findall(r"\b(\w+\.py)\b", TREE))
    assert named == files


def test_the_table_of_environments_is_the_registered_one() -> None:
    named = re.findall(r"\| `(tokenwalk/\w+-v\d+)` \|", README)
    assert sorted(named) == sorted(row.id for row in TABLE)
