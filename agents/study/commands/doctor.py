"""``tokenwalk doctor``: the state of this installation, its faults, and their fixes."""

import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenwalk.agents.runs.folder import versions


@dataclass(frozen=True)
class Check:
    """One finding. ``fix`` says what to do; it is empty if ``ok``."""

    name: str
    found: str
    ok: bool
    fix: str = ""


def diagnose(run_root: Path) -> list[Check]:
    """Return every check, the failed ones with a fix."""
    return [
        _python(),
        *_packages(),
        _torch(),
        _registered(),
        *(_writable(*place) for place in _places(run_root)),
        *_conflicts(),
    ]


def as_rows(checks: list[Check]) -> list[dict[str, object]]:
    """Return the checks as JSON rows."""
    return [asdict(check) for check in checks]


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("python", sys.version.split()[0], ok, "" if ok else "tokenwalk needs Python 3.11 or newer")


def _packages() -> list[Check]:
    found = versions()
    del found["python"]
    return [
        Check(
            name,
            number or "missing",
            number is not None,
            "" if number else f"pip install 'tokenwalk[train]' brings {name}",
        )
        for name, number in found.items()
    ]


def _torch() -> Check:
    try:
        import torch
    except ImportError as error:
        return Check(
            "torch device",
            f"torch does not load: {error}",
            False,
            "pip install -c constraints.txt -e '.[train]'",
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    device = f"cuda ({torch.cuda.get_device_name()})" if torch.cuda.is_available() else "cpu"
    return Check(
        "torch device",
        f"{device}; {cores} cores, {torch.get_num_threads()} torch threads (training uses 1: --threads)",
        True,
    )


def _registered() -> Check:
    import gymnasium

    from tokenwalk.envs.registration import TABLE

    missing = [row.id for row in TABLE if row.id not in gymnasium.registry]
    return Check(
        "environments",
        f"{len(TABLE) - len(missing)} of {len(TABLE)} registered",
        not missing,
        "import tokenwalk" if missing else "",
    )


def _places(run_root: Path) -> list[tuple[str, Path, str]]:
    return [
        (
            "runs folder",
            run_root,
            "name another folder with --run-dir, or start tokenwalk where you can write",
        ),
        ("temporary folder", Path(tempfile.gettempdir()), "set TMPDIR to a folder that can be written"),
    ]


def _writable(name: str, path: Path, fix: str) -> Check:
    """Write a file where runs would go, or in the nearest existing parent folder, and delete it."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".tokenwalk-"):
            return Check(name, f"{path} can be written", True)
    except OSError as error:
        return Check(name, f"{path} cannot be written ({error.strerror})", False, fix)


def _conflicts() -> list[Check]:
    """Return the packages that are known to conflict with tokenwalk."""
    found = []
    if "gym" in sys.modules or _installed("gym"):
        found.append(
            Check(
                "old gym",
                "the package gym is installed",
                False,
                "pip uninstall gym: its environments and Gymnasium's do not mix",
            )
        )
    if _installed("tensorflow"):
        found.append(Check("tensorflow", "installed; TensorBoard then loads it", True))
    return found or [Check("known conflicts", "none", True)]


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None
