"""What the README says is so: its Python runs, its tree is true, its ids are the registered ones."""

import re
import subprocess
from pathlib import Path

import pytest

from tokenwalk.envs.registration import TABLE

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
TREE = README.split("## The tree")[1].split("```")[1]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_python_block_runs_as_it_stands(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), {})
    printed = iter(capsys.readouterr().out.splitlines())
    for promised in re.findall(r"print\(.*\)  # (-?\d+\.\d+)", BLOCKS[number]):
        assert next(printed).startswith(promised)


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
