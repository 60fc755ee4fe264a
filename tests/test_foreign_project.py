"""Somebody else's project, with its own envs/ and agents/, beside the wheel and its base dependencies."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

FOREIGN = Path(__file__).resolve().parent / "foreign"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the foreign project in a folder of its own, far from our checkout."""
    return shutil.copytree(FOREIGN, tmp_path_factory.mktemp("foreign") / "project")


@pytest.fixture(scope="module")
def findings(base_python: Path, project: Path) -> dict[str, Any]:
    """Return what the foreign project's own script saw, with every warning an error."""
    command = [base_python, "-W", "error", "check.py"]
    seen: dict[str, Any] = json.loads(subprocess.check_output(command, cwd=project, text=True))
    return seen


def test_the_prefix_alone_registers_the_ids(findings: dict[str, Any]) -> None:
    assert not findings["imported_before"]
    assert findings["prefixed"] == 0


def test_gym_make_and_every_vectorization_walk_alike(findings: dict[str, Any]) -> None:
    assert findings["plain"] == 0
    assert findings["vectors"] == {"None": 0, "sync": 0, "async": 0, "vector_entry_point": 0}
    assert findings["spawned"] == 0


def test_the_projects_own_packages_are_still_its_own(findings: dict[str, Any], project: Path) -> None:
    assert findings["own"] == [str(project / "envs/__init__.py"), str(project / "agents/__init__.py")]
    assert findings["lamp_is_ours"]
    assert findings["lamp"] == 50
    assert "site-packages" in findings["tokenwalk"]


def test_the_exact_tools_work_without_torch(findings: dict[str, Any]) -> None:
    assert findings["installed"] == []
    assert findings["exact_value"] == pytest.approx(10 / 19, abs=1e-12)


def test_the_base_install_is_gymnasium_and_numpy_alone(base_python: Path) -> None:
    listed = json.loads(
        subprocess.check_output([base_python, "-m", "pip", "list", "--format", "json"], text=True)
    )
    names = {package["name"].lower() for package in listed} - {"pip", "setuptools"}
    assert names == {
        "tokenwalk",
        "gymnasium",
        "numpy",
        "cloudpickle",
        "farama-notifications",
        "typing_extensions",
    }


def test_without_its_extra_the_command_line_says_in_one_line_what_to_install(
    base_python: Path, tmp_path: Path
) -> None:
    command = base_python.parent / "tokenwalk"
    for arguments in (["train", "q-learning", "CounterWalk"], ["envs"]):
        result = subprocess.run(
            [command, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert result.returncode == 2, result.stderr
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert "pip install 'tokenwalk[train]'" in result.stderr
    assert list(tmp_path.iterdir()) == []
