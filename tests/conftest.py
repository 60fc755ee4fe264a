"""What several test files need: repeatable Hypothesis, the checkout as others get it, empty environments."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# The same examples each time, and no test judged by the speed of the machine.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone of the working tree as it stands now: every file that git tracks or would take."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so nothing says which files belong to it")
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.check_output(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, text=True
    )
    for name in filter(None, listed.split("\0")):
        if os.path.lexists(ROOT / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    git_settings = (
        "user.name=tests",
        "user.email=tests@tokenwalk.invalid",
        "commit.gpgsign=false",
        "core.hooksPath=",
    )
    options = [option for setting in git_settings for option in ("-c", setting)]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "the working tree"]):
        subprocess.run(["git", *options, *command], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="session")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel that is built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(checkout)], check=True
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that installs requirements into an empty environment and returns its Python."""

    def into_empty_environment(*wanted: str | Path, constraints: Path = ROOT / "constraints.txt") -> Path:
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, with_pip=True)
        python = folder / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-qq", "-c", constraints, *wanted], check=True)
        return python

    return into_empty_environment


@pytest.fixture(scope="session")
def install_beside(wheel: Path, install: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function that installs the wheel and a foreign package, with the pins of tests/NAME_constraints.txt first."""

    def names(requirements: str) -> set[str]:
        pins = (line.partition("==")[0] for line in requirements.splitlines() if "==" in line)
        return {name.lower().replace("_", "-") for name in pins}

    def beside(name: str, *wanted: str) -> Path:
        theirs = (ROOT / "tests" / f"{name}_constraints.txt").read_text()
        ours = (ROOT / "constraints.txt").read_text().splitlines()
        constraints = wheel.parent / f"{name}_constraints.txt"
        kept = [line for line in ours if not names(line) & names(theirs)]
        constraints.write_text("\n".join([theirs, *kept]))
        return install(wheel, *wanted, constraints=constraints)

    return beside


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a real browser; the test skips, with the reason, where there is none."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: apt install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        launched = driver.chromium.launch(executable_path=chromium, args=arguments)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def base_python(wheel: Path, install: Callable[..., Path]) -> Path:
    """Return the Python of an environment that holds the wheel and its base dependencies, nothing else."""
    return install(wheel)
