"""Models that were trained into run folders, as sources of reward."""

from pathlib import Path

from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.envs.rewards.learned import LearnedSource
from tokenwalk.envs.tasks import Task


def load_learned(run: Path, task: Task) -> LearnedSource:
    """Return the source"""
    RunFolder.open(run)
    raise NotImplementedError(task.name)
