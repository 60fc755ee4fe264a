"""What others receive: the wheel, the source distribution, and a clone without symbolic links."""

import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def normalized(name: str) -> str:
    """Return a distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    """Return the versions of constraints.txt."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return {normalized(name): pin for name, _, pin in (line.partition("==") for line in lines if line)}


def requirements(name: str) -> set[str]:
    """Return the installed distributions that ``name`` asks for; for ours with its extras."""
    listed = distribution(name).requires or []
    wanted = [line for line in listed if "extra ==" not in line or name == "tokenwalk"]
    names = {normalized(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in wanted}
    # torch itself pins the libraries of its build for GPUs, which a build for CPUs does not bring.
    return {one for one in names if is_installed(one) and not one.startswith(("nvidia-", "cuda-", "triton"))}


def is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def test_everything_that_an_install_brings_is_pinned_and_installed_as_pinned() -> None:
    found, waiting = set(), {"tokenwalk"}
    while waiting:
        found |= waiting
        waiting = {needed for name in waiting for needed in requirements(name)} - found
    # torch takes whichever setuptools there is, and its local label (+cpu) is the index's choice.
    installed = {name: version(name).partition("+")[0] for name in found - {"tokenwalk", "setuptools"}}
    assert installed == {name: pins().get(name) for name in installed}
    assert {"torch", "gymnasium", "numpy", "scipy", "mypy", "werkzeug"} <= set(installed)


def test_the_lowest_versions_of_ci_are_those_that_pyproject_allows() -> None:
    project, ci = ((ROOT / name).read_text("utf-8") for name in ("pyproject.toml", ".ci/versions"))
    allowed = {normalized(name): low for name, low in re.findall(r'"([\w.-]+)>=([\d.]+),<\d+"', project)}
    lowest = {normalized(name): pin for name, pin in re.findall(r"\b(\w+)==?(\d[\d.]+)", ci)[::-1]}
    for name in ("gymnasium", "numpy", "stable-baselines3", "sb3-contrib"):
        assert f"{lowest[name]}.".startswith(f"{allowed[name]}."), name


def test_pre_commit_runs_what_make_lint_runs() -> None:
    makefile, hooks = ((ROOT / name).read_text("utf-8") for name in ("Makefile", ".pre-commit-config.yaml"))
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    commands = recipe[1].replace("$(BIN)", ".venv/bin").split("\n\t")
    entries = re.findall(r"entry: (.+)", hooks)
    assert entries == [command.strip() for command in commands]
    assert len(entries) == 5


def test_the_workflow_runs_every_python_that_the_project_names() -> None:
    project, workflow = (
        (ROOT / name).read_text("utf-8") for name in ("pyproject.toml", ".github/workflows/ci.yml")
    )
    named = re.findall(r"Python :: (3\.\d+)", project)
    matrix = re.search(r"python: \[(.+)\]", workflow)
    assert matrix is not None
    assert re.findall(r"[\d.]+", matrix[1]) == named


def tracked(checkout: Path, *folders: str) -> set[str]:
    return set(subprocess.check_output(["git", "ls-files", *folders], cwd=checkout, text=True).splitlines())


def built(checkout: Path, folder: Path, *options: str) -> list[str]:
    """Build ``checkout`` into ``folder`` and return the wheel's file names without its metadata."""
    subprocess.run(
        [sys.executable, "-m", "build", *options, "--outdir", str(folder), str(checkout)], check=True
    )
    return wheel_files(next(folder.glob("*.whl")))


def wheel_files(wheel: Path) -> list[str]:
    return sorted(name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name)


@pytest.mark.slow
def test_the_wheel_holds_exactly_the_tracked_files_of_the_three_folders(checkout: Path, wheel: Path) -> None:
    folders = tracked(checkout, "envs", "agents", "scripts", ":!scripts/studies")
    door = {"src/tokenwalk/__init__.py", "src/tokenwalk/py.typed"}
    expected = {f"tokenwalk/{name}" for name in folders} | {name.removeprefix("src/") for name in door}
    assert wheel_files(wheel) == sorted(expected)
    assert "tokenwalk/envs/registration.py" in expected
    metadata = {
        name.split(".dist-info/")[1] for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" in name
    }
    assert metadata == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


@pytest.mark.slow
def test_the_source_distribution_builds_the_same_wheel_and_carries_the_tests(
    checkout: Path, wheel: Path, tmp_path: Path
) -> None:
    assert built(checkout, tmp_path) == wheel_files(
        wheel
    )  # without options: first the sdist, then from it the wheel
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    expected = tracked(checkout, "envs", "agents", "scripts", "tests", "docs") | {
        ".ci/run",
        ".ci/smoke",
        ".ci/versions",
        "README.zh-CN.md",
        "pyproject.toml",
        "constraints.txt",
        "Makefile",
    }
    assert expected - held == set()
    assert not any(name.startswith((".venv", "runs", "dist")) for name in held)


@pytest.mark.slow
def test_a_clone_without_symbolic_links_is_the_same_package(checkout: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "-c", "core.symlinks=false", checkout, clone], check=True)
    assert not (clone / "src/tokenwalk/envs").is_symlink()
    code = (
        f"import sys; sys.path.insert(0, {str(clone / 'src')!r}); import tokenwalk, gymnasium\n"
        "env = gymnasium.make('tokenwalk/CounterWalk-v0'); env.reset(seed=0); print(env.step(0)[0])\n"
        "print(tokenwalk.__file__); print(sys.modules['tokenwalk.envs.counter_walk'].__file__)"
    )
    observation, door, module = subprocess.check_output(
        [sys.executable, "-c", code], text=True, cwd=tmp_path
    ).split()
    assert observation == "1"
    assert Path(door) == clone / "src/tokenwalk/__init__.py"
    assert Path(module) == clone / "envs/counter_walk.py"
    assert built(clone, tmp_path / "dist", "--wheel") == built(checkout, tmp_path / "linked", "--wheel")
