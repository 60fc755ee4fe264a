"""Run folders: numbered, never overwritten, refused with one clear sentence."""

import json
from pathlib import Path

import pytest

from tokenwalk.agents.runs.checkpoint import DamagedFileError
from tokenwalk.agents.runs.folder import FORMAT, RunFolder, RunFolderError, versions

CONFIG = {"agent": "q-learning", "env": "tokenwalk/CounterWalk-v0", "config": {}, "seed": 0}


def test_numbered_folders_count_on_from_the_highest_and_are_safe_to_type(tmp_path: Path) -> None:
    (tmp_path / "0041-ppo-x").mkdir()
    (tmp_path / "notes").mkdir()
    first = RunFolder.create(None, "q-learning-tokenwalk/CounterWalk v0", root=tmp_path)
    second = RunFolder.create(None, "ppo", root=tmp_path)
    assert [first.path.name, second.path.name] == ["0042-q-learning-tokenwalk-CounterWalk-v0", "0043-ppo"]


def test_a_config_comes_back_with_versions_and_format(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", "").write_config(CONFIG)
    config = RunFolder.open(tmp_path / "run").config
    assert config == {**CONFIG, "versions": versions(), "format": FORMAT}
    assert config["versions"]["numpy"] is not None


def test_an_existing_folder_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    with pytest.raises(RunFolderError, match=r"run exists: name a new folder, or go on with --resume"):
        RunFolder.create(tmp_path / "run", "")
    assert (tmp_path / "run" / "mine.txt").read_text() == "keep"


def test_a_folder_that_cannot_be_created_is_named_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot be written .*--run-dir"):
        RunFolder.create(tmp_path / "file" / "run", "")
    with pytest.raises(RunFolderError, match=r"cannot be written .*--run-dir"):
        RunFolder.create(None, "x", root=tmp_path / "file" / "runs")


def test_opening_something_else_than_a_run_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is no folder"):
        RunFolder.open(tmp_path / "nothing")
    with pytest.raises(RunFolderError, match=r"holds no run .*config\.json"):
        RunFolder.open(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DamagedFileError, match=r"config\.json is not readable"):
        RunFolder.open(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(DamagedFileError, match="lacks agent, env or config"):
        RunFolder.open(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "format": FORMAT + 1}))
    with pytest.raises(
        DamagedFileError, match=rf"has format {FORMAT + 1}, this version reads 1 and {FORMAT}"
    ):
        RunFolder.open(tmp_path)


def test_a_run_of_the_first_format_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "format": 1}))
    assert RunFolder.open(tmp_path).config["agent"] == CONFIG["agent"]
