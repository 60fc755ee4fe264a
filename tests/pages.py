"""README and docs/ as blocks: what test files run of them.

Blocks are read by their first line: ``python`` is run as it stands, ``python file=NAME`` is also a file beside the page's
commands, ``python trl`` is run where TRL is; ``console`` holds commands (``$ ...``), each with what it prints where that is
shown (``...`` stands for anything); ``console deep`` holds those that take minutes, which `make deep` runs.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@dataclass(frozen=True)
class Block:
    """A fenced block: its kind (``python``), the words after it (``file=praise.py``), and its text."""

    kind: str
    options: str
    text: str


@functools.cache
def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = (ROOT / page).read_text("utf-8")
    return [
        Block(*found)
        for found in re.findall(r"^```(\w+) ?([^\n]*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]
