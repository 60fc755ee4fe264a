"""Every Python block of docs/ runs as it stands, and links between files lead somewhere."""

import contextlib
import functools
import io
import re
from pathlib import Path

import pytest

from tokenwalk.scripts.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    (page.name, number, block)
    for page in PAGES[1:]
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
    )
]


@pytest.mark.parametrize(
    ("page", "number", "block"), BLOCKS, ids=[f"{page}-{number}" for page, number, _ in BLOCKS]
)
def test_every_python_block_runs_as_it_stands(
    page: str,
    number: int,
    block: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, f"{page}, block {number}", "exec"), {})
    printed = iter(capsys.readouterr().out.splitlines())
    for promised in re.findall(r"print\(.*\)  # (.+)", block):
        assert next(printed).startswith(promised.rstrip("."))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text("utf-8"))
    local = [link for link in links if not link.startswith(("http://", "https://"))]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_every_page_of_docs_is_linked_from_the_readme_or_from_a_page_that_is() -> None:
    linked = set(re.findall(r"([\w.-]+\.md)\)", "".join(page.read_text("utf-8") for page in PAGES)))
    assert {page.name for page in PAGES[1:]} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_is_one_and_takes_its_options(page: Path) -> None:
    text = page.read_text("utf-8")
    shown = re.findall(r"^\$ tokenwalk (.+)$", text, flags=re.MULTILINE) + re.findall(
        r"`tokenwalk ([^`]+)`", text
    )
    for line in shown:
        words = line.split("#")[0].replace("\\|", "|").split()
        name, kinds = words[0], words[1].split("|") if len(words) > 1 else []
        assert name in COMMANDS, line
        second = kinds[0].replace("AGENT", "q-learning") if name in ("train", "audit") and kinds else None
        options = {word.split("=")[0].strip("[]") for word in words if word.strip("[").startswith("--")}
        assert options <= options_of(name, second), line


@functools.cache
def options_of(name: str, second: str | None) -> set[str]:
    """Return the options in the help of a subcommand, of ``train ppo`` say with those of its agent."""
    words = [name, *([second] if second else []), "--help"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main(words)
    return {"--help", "--quiet", "--version", *re.findall(r"--[a-z][a-z0-9-]*", said.getvalue())}
