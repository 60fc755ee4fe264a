"""``tokenwalk doctor``: each fault is found and has a fix."""

import importlib.util
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import gymnasium
import pytest

from tokenwalk.agents.study.commands import doctor
from tokenwalk.envs.registration import TABLE


def found(name: str, run_root: Path) -> doctor.Check:
    """Return the check called ``name``."""
    (check,) = [one for one in doctor.diagnose(run_root) if one.name == name]
    return check


def test_a_sound_installation_has_no_fault_and_no_fix(tmp_path: Path) -> None:
    checks = doctor.diagnose(tmp_path / "runs")
    assert [check.name for check in checks if not check.ok] == []
    assert {check.fix for check in checks} == {""}
    assert found("environments", tmp_path).found == f"{len(TABLE)} of {len(TABLE)} registered"
    assert found("runs folder", tmp_path / "new").found == f"{tmp_path / 'new'} can be written"
    assert not (tmp_path / "new").exists()
    assert list(tmp_path.iterdir()) == []  # the check leaves no file
    assert set(doctor.as_rows(checks)[0]) == {"name", "found", "ok", "fix"}


def test_an_old_python_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    version = namedtuple("version", "major minor micro releaselevel serial")
    monkeypatch.setattr(sys, "version_info", version(3, 10, 9, "final", 0))
    check = doctor._python()
    assert (check.ok, check.fix) == (False, "tokenwalk needs Python 3.11 or newer")


def test_a_missing_package_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "versions", lambda: {"python": "3.11", "numpy": "2.0", "torch": None})
    numpy, torch = doctor._packages()
    assert (numpy.found, numpy.ok, numpy.fix) == ("2.0", True, "")
    assert (torch.found, torch.ok) == ("missing", False)
    assert torch.fix == "pip install 'tokenwalk[train]' brings torch"


def test_torch_that_does_not_load_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # the import raises ImportError
    check = doctor._torch()
    assert not check.ok
    assert check.found.startswith("torch does not load: ")
    assert "pip install" in check.fix


def test_an_environment_that_is_not_registered_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(gymnasium.registry, TABLE[0].id)
    check = doctor._registered()
    assert (check.found, check.ok) == (f"{len(TABLE) - 1} of {len(TABLE)} registered", False)
    assert check.fix == "import tokenwalk"


def test_a_folder_that_cannot_be_written_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    check = found("runs folder", tmp_path / "runs")
    assert not check.ok
    assert check.found == f"{tmp_path / 'runs'} cannot be written (Permission denied)"
    assert "--run-dir" in check.fix


def test_the_old_gym_is_a_conflict_and_tensorflow_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [check.found for check in doctor._conflicts()] == ["none"]
    find = importlib.util.find_spec
    both = ("gym", "tensorflow")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in both else find(name))
    gym, tensorflow = doctor._conflicts()
    assert (gym.name, gym.ok) == ("old gym", False)
    assert gym.fix.startswith("pip uninstall gym")
    assert (tensorflow.name, tensorflow.ok, tensorflow.fix) == ("tensorflow", True, "")
