"""What the README says is so: its paths exist, its ids are the registered ones (test_docs.py runs its blocks)."""

import re
from pathlib import Path

from tokenwalk.envs.registration import TABLE

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_path_of_where_things_are_exists() -> None:
    table = README.split("## Where things are")[1]
    paths = re.findall(r"`((?:envs|agents|scripts)/[\w/]*(?:\.py)?)`", table)
    assert "agents/tabular/textbook.py" in paths
    assert [path for path in paths if not (ROOT / path).exists() and "NAME" not in path] == []


def test_the_table_of_environments_is_the_registered_one() -> None:
    named = re.findall(r"\| `(tokenwalk/\w+-v\d+)` \|", README)
    assert sorted(named) == sorted(row.id for row in TABLE)
