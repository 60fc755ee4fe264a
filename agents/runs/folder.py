"""One folder a run: config, versions, metrics, TensorBoard events, model, summary and the oracle's values."""

import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tokenwalk.agents.runs.checkpoint import DamagedFileError, read_json, write_json

FORMAT = 2  # of config.json; raised when a reader of the old form would misread the new
READABLE = (1, 2)  # formats that are read; 2 added custom agents (algorithm, digest)
_PACKAGES = (
    "tokenwalk",
    "gymnasium",
    "numpy",
    "torch",
    "stable-baselines3",
    "sb3-contrib",
    "numba",
    "tensorboard",
)


class RunFolderError(ValueError):
    """A run folder that cannot be created, or a folder that holds no run."""


def versions() -> dict[str, str | None]:
    """Return the version of Python and of each package that matters; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


@dataclass(frozen=True)
class RunFolder:
    """A run on disk. Make one with ``create``, read one with ``open``."""

    path: Path

    @classmethod
    def create(cls, run_dir: Path | str | None, label: str, root: Path = Path("runs")) -> "RunFolder":
        """Make the folder ``run_dir``, or a numbered one under ``root``: ``runs/0003-q-learning-CounterWalk-v0``.

        Raises:
            RunFolderError: ``run_dir`` exists, or the folder cannot be created.
        """
        try:
            if run_dir is not None:
                path = Path(run_dir)
                path.mkdir(parents=True)
                return cls(path)
            root.mkdir(parents=True, exist_ok=True)
            number = 1 + max(_numbers(path.name for path in root.iterdir()), default=0)
            while True:  # another process may have taken the number in between
                try:
                    path = root / f"{number:04d}-{re.sub(r'[^A-Za-z0-9.-]+', '-', label)}"
                    path.mkdir()
                    return cls(path)
                except FileExistsError:
                    number += 1
        except FileExistsError:
            raise RunFolderError(
                f"{run_dir} exists: name a new folder, or go on with --resume {run_dir}"
            ) from None
        except OSError as error:
            raise RunFolderError(
                f"{run_dir or root} cannot be written ({error.strerror}): name another folder with --run-dir"
            ) from None

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Return the run in ``path``.

        Raises:
            RunFolderError: no folder, or one without a run's config.json.
            DamagedFileError: its config is not readable or of another format.
        """
        folder = cls(path)
        if not path.is_dir():
            raise RunFolderError(f"{path} is no folder: give a run folder, such as one under runs/")
        if not (path / "config.json").is_file():
            raise RunFolderError(
                f"{path} holds no run (it has no config.json): give the folder that 'tokenwalk train' named"
            )
        config = folder.config
        if not isinstance(config, dict) or not {"agent", "env", "config"} <= set(config):
            raise DamagedFileError(
                f"{path / 'config.json'} lacks agent, env or config: restore it or train again"
            )
        if config.get("format") not in READABLE:
            raise DamagedFileError(
                f"{path / 'config.json'} has format {config.get('format')!r}, this version reads "
                f"{' and '.join(map(str, READABLE))}: train again"
            )
        return folder

    @property
    def config(self) -> dict[str, Any]:
        """Return config.json: agent, env, env_args, seed, runs, steps, config, versions, format."""
        config: dict[str, Any] = read_json(self.path / "config.json")
        return config

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.json, with the versions and the format added."""
        write_json(self.path / "config.json", {**config, "versions": versions(), "format": FORMAT})

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        write_json(self.path / "summary.json", dict(summary))

    @property
    def is_complete(self) -> bool:
        """Return whether the run is complete; a killed one has no summary."""
        return (self.path / "summary.json").is_file()

    @property
    def summary(self) -> dict[str, Any]:
        """Return summary.json."""
        summary: dict[str, Any] = read_json(self.path / "summary.json")
        return summary


def _numbers(names: Iterable[str]) -> list[int]:
    """Return the leading numbers of run names such as ``0012-ppo-CounterWalk-v0``."""
    return [int(found.group()) for name in names if (found := re.match(r"\d+(?=-)", name))]
