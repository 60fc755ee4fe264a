"""The check of the coverage report: it adds up a room's files and names a room below its minimum."""

import json
from pathlib import Path

import pytest
from coverage_floors import FLOORS, ROOT, below, main, shares


def report_of(**lines: tuple[int, int]) -> dict[str, object]:
    """Return a report with (covered, all) lines of each file, ``__`` in a name standing for a slash."""
    files = {
        name.replace("__", "/") + ".py": {"summary": {"covered_lines": covered, "num_statements": total}}
        for name, (covered, total) in lines.items()
    }
    return {"files": files}


def test_the_files_of_a_room_are_added_up() -> None:
    report = report_of(envs__one=(10, 10), envs__two=(15, 30), envs__empty=(0, 0), agents__empty=(0, 0))
    assert shares(report) == {"envs": 62.5}


def test_a_room_below_its_minimum_and_one_that_was_not_measured_are_named() -> None:
    measured = {"envs": 89.9, "agents/exact": 90.0, "agents/study/audit": 85.0, "scripts/studies": 0.0}
    assert below(measured, {"agents/study/audit": 85.0}) == ["envs"]
    assert below(measured, {"agents/study/audit": 85.1, "agents/gone": 85.0}) == [
        "agents/gone",
        "agents/study/audit",
        "envs",
    ]


def test_the_exit_code_says_whether_a_room_is_below(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rooms = {room.replace("/", "__") + "__file": (9, 10) for room in FLOORS}
    path = tmp_path / "coverage.json"
    path.write_text(json.dumps(report_of(**rooms)))
    assert main([str(path)]) == 0
    path.write_text(json.dumps(report_of(**rooms, envs__file=(8, 10))))
    assert main([str(path)]) == 1
    assert "envs" in capsys.readouterr().err


def test_every_room_with_a_minimum_exists() -> None:
    assert [room for room in FLOORS if not (ROOT / room).is_dir()] == []
