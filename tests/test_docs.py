"""Every Python block of docs/ runs as it stands, and links between files lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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
    linked = set(re.findall(r"([\w-]+\.md)\)", "".join(page.read_text("utf-8") for page in PAGES)))
    assert {page.name for page in PAGES[1:]} <= linked
