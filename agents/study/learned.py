"""Models that were trained into run folders, as sources of reward and as potentials."""

from pathlib import Path
from typing import Any

from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.envs.rewards.learned import LearnedSource
from tokenwalk.envs.tasks import Task

MODELS = ("reward-model", "autoencoder")  # what 'train' makes beside agents
MODEL_FILE = "model.safetensors"


def load_model(run: Path, name: str | None = None) -> LearnedSource:
    """Return the reward model or the autoencoder of a run folder, called as its folder is unless ``name`` says.

    Raises:
        ValueError: no run, or a run of an agent. DamagedFileError: a model file that is torn, foreign or missing.
    """
    folder = RunFolder.open(run)
    kind = folder.config["agent"]
    if kind not in MODELS:
        raise ValueError(
            f"{run} is a run of {kind}, which says nothing of a text: give a run of {' or '.join(MODELS)}"
        )
    loader: Any
    if kind == "reward-model":
        from tokenwalk.agents.backprop.reward_model import RewardModel as loader
    else:
        from tokenwalk.agents.backprop.autoencoder import Reconstruction as loader
    from tokenwalk.agents.runs.checkpoint import DamagedFileError

    try:
        model: LearnedSource = loader.load(run / MODEL_FILE, name or run.resolve().name)
    except FileNotFoundError as error:
        raise DamagedFileError(f"{error.filename} is missing: restore it or train again") from None
    return model


def load_learned(run: Path, task: Task) -> LearnedSource:
    """Return the model of a run folder as a source of ``task``.

    Raises:
        ForeignTextError: it was trained for another vocabulary or another length. ValueError: as ``load_model``.
    """
    model = load_model(run)
    shape_of(model).check_task(task)
    return model


def shape_of(model: LearnedSource) -> Any:
    """Return the ``TextShape`` that a model reads."""
    scorer: Any = model.scorer
    return scorer.shape if hasattr(scorer, "shape") else scorer.network.shape
