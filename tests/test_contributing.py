"""CONTRIBUTING.md names files to imitate: they are there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_path_that_contributing_names_exists() -> None:
    paths = re.findall(r"`([\w./]+(?:\.py|\.txt|/))`", (ROOT / "CONTRIBUTING.md").read_text())
    assert "envs/counter_walk.py" in paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
