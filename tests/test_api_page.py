"""docs/api.md names every public name once, under a heading, and no other."""

import re
from pathlib import Path

import tokenwalk

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text(encoding="utf-8")


def test_the_page_has_a_heading_for_every_public_name_and_for_no_other() -> None:
    headings = re.findall(r"^### (.+)$", PAGE, flags=re.MULTILINE)
    named = [name for heading in headings for name in heading.split(", ")]
    assert sorted(named) == sorted(tokenwalk.__all__)


def test_every_public_name_says_what_it_is() -> None:
    assert [name for name in tokenwalk.__all__ if not (getattr(tokenwalk, name).__doc__ or "").strip()] == []
