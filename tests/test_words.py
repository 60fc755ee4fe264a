"""Plain words: no file of the project holds a word that a reader would not know as a term, in names of the code either."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BANNED = frozenset(
    """lane lanes paid ledger ledgers labeller labellers nought cheat cheats lesson lessons whoever heed heeds
    mend mended mends nobody""".split()
)
BANNED_PHRASES = ("price of a nat",)
# They hold names of the first edition, to say what became of them.
OLD_NAMES = {"agents/api/moved.py", "tests/agents/api/test_door.py", "tests/same_figures.py"}
FOLDERS = ("envs", "agents", "scripts", "src", "tests", "docs")
PAGES = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md")
SUFFIXES = {".md", ".py"}
# A word of a name: an abbreviation before a capitalized word, a capitalized or small word, an abbreviation.
WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")


def words(text: str) -> list[str]:
    """Return the words of a text in small letters; ``_`` and a capital inside a name begin a new one."""
    return [word.lower() for word in WORD.findall(text)]


def banned_in(text: str) -> list[str]:
    """Return the banned words and phrases of a text."""
    found = words(text)
    joined = f" {' '.join(found)} "
    return [word for word in found if word in BANNED] + [
        phrase for phrase in BANNED_PHRASES for _ in range(joined.count(f" {phrase} "))
    ]


def files() -> Iterator[Path]:
    """Yield the files to read, each once: a linked folder is read where it lies."""
    yield from (ROOT / page for page in PAGES)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            linked = any(parent.is_symlink() for parent in path.parents if ROOT in parent.parents)
            excepted = path == Path(__file__).resolve() or str(path.relative_to(ROOT)) in OLD_NAMES
            if path.suffix in SUFFIXES and not excepted and not linked:
                yield path


def violations(paths: Iterable[Path]) -> list[str]:
    """Return ``file:line: word`` for each banned word of the files, and for those of the files' own names."""
    found = []
    for path in paths:
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(path.name)
        found += [f"{name}: {word}" for word in banned_in(str(name))]
        text = path.read_text("utf-8")
        for number, line in enumerate(text.splitlines(), start=1):
            found += [f"{name}:{number}: {word}" for word in banned_in(line)]
    return found


def test_no_file_holds_a_banned_word() -> None:
    assert violations(files()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("each lane is reset", ["lane"]),
        ("lane_seeds = n_lanes", ["lane", "lanes"]),
        ("class LaneSeeds(HTTPLesson): ...", ["lane", "lesson"]),
        ("def whatWasPaid(): ...", ["paid"]),
        ("MOST_CHEATS = 3", ["cheats"]),
        ("nobody heeds it", ["nobody", "heeds"]),
        ("the price of a nat", ["price of a nat"]),
        ("the_price_of_a_nat", ["price of a nat"]),
        ("unpaid planes recommend amends, mending, lessons2learn", ["lessons"]),
        ("price of a natural gas; an explained label", []),
    ],
)
def test_a_banned_word_is_found_in_names_and_sentences(text: str, expected: list[str]) -> None:
    assert banned_in(text) == expected


def test_planted_words_are_found_with_their_lines(tmp_path: Path) -> None:
    planted = tmp_path / "lane_of.py"
    planted.write_text('"""What is paid."""\n\nseed = 0  # of each lane\nLedgerEntry = "mends"\n', "utf-8")
    assert violations([planted]) == [
        "lane_of.py: lane",
        "lane_of.py:1: paid",
        "lane_of.py:3: lane",
        "lane_of.py:4: ledger",
        "lane_of.py:4: mends",
    ]


def test_the_files_are_those_of_every_folder_and_none_twice() -> None:
    listed = list(files())
    names = {path.relative_to(ROOT).as_posix() for path in listed}
    assert {"envs/counter_walk.py", "src/tokenwalk/__init__.py", "docs/metrics.md", "README.md"} <= names
    assert len({path.resolve() for path in listed}) == len(listed)


@pytest.fixture
def codespell() -> str:
    """Return the path of codespell; the test skips, with the reason, where it is not installed."""
    beside = Path(sys.executable).with_name("codespell")
    found = str(beside) if beside.exists() else shutil.which("codespell")
    if found is None:
        pytest.skip("codespell is not installed: pip install -c constraints.txt codespell")
    return found


def test_codespell_finds_no_misspelling(codespell: str) -> None:
    done = subprocess.run([codespell], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == ""
    assert done.returncode == 0, done.stderr


def test_codespell_finds_a_planted_misspelling(codespell: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("the rew" + "ard is rec" + "ieved\n", "utf-8")
    done = subprocess.run([codespell, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert "received" in done.stdout
    assert done.returncode != 0
