"""A run folder as an object: what was asked for, what came of it, its curves, and its policy."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenwalk.agents.evaluation.policies import AnyPolicy
from tokenwalk.agents.learners.registry import load_learner
from tokenwalk.agents.problem.reopen import reopen_problem
from tokenwalk.agents.problem.saved_models import MODELS, load_model
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.runs.tracking import read_metrics


@dataclass(frozen=True)
class Run:
    """A run on disk.

    Attributes:
        path: its folder. config: config.json, what was asked for.
    """

    path: Path
    config: dict[str, Any]

    @property
    def summary(self) -> dict[str, Any]:
        """Return summary.json. Raises FileNotFoundError where the run was killed before its end."""
        return RunFolder(self.path).summary

    @property
    def metrics(self) -> list[tuple[int, float, str, float]]:
        """Return the logged rows: step, seconds, tag, value."""
        return read_metrics(self.path)

    @cached_property
    def policy(self) -> AnyPolicy:
        """Return the agent's policy: ``TablePolicies``, ``TokenPolicy`` or ``PlayedPolicy``.

        Raises:
            ValueError: a run of a model that is no agent; ``model`` has it.
        """
        if self.config["agent"] in MODELS:
            raise ValueError(
                f"{self.path} is a run of {self.config['agent']}, which has no policy: see model"
            )
        problem = reopen_problem(self.path, self.config)
        return load_learner(self.path, self.config, problem).policy()

    @cached_property
    def model(self) -> Any:
        """Return the learned reward of a run of reward-model, autoencoder or lm. Raises ValueError for an agent's."""
        return load_model(self.path)


def load_run(path: Path | str) -> Run:
    """Return the run in a folder that ``train`` or ``tokenwalk train`` wrote.

    Raises:
        RunFolderError: no run. DamagedFileError: a config that cannot be read.
    """
    folder = RunFolder.open(Path(path))
    return Run(folder.path, folder.config)
