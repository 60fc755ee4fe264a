"""Models that were trained into run folders, as sources of reward and as potentials."""

from pathlib import Path
from typing import Any

from tokenwalk.agents.runs.checkpoint import DamagedFileError
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.envs.rewards.learned import LearnedSource
from tokenwalk.envs.rewards.log_prob import LogProbSource
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.vocabulary import Vocabulary

MODELS = ("reward-model", "autoencoder", "lm")  # what 'train' makes beside agents
MODEL_FILE = "model.safetensors"


def load_model(run: Path, name: str | None = None) -> LearnedSource | LogProbSource:
    """Return the model of a run folder as a source, called as its folder is unless ``name`` says.

    A language model pays the log-probability of each token.

    Raises:
        ValueError: no run, or a run of an agent. DamagedFileError: a model file that is torn, foreign or missing.
    """
    folder, called = RunFolder.open(run), name or run.resolve().name
    kind = folder.config["agent"]
    if kind not in MODELS:
        raise ValueError(
            f"{run} is a run of {kind}, which says nothing of a text: give a run of {' or '.join(MODELS)}"
        )
    try:
        if kind == "reward-model":
            from tokenwalk.agents.backprop.reward_model import RewardModel

            return RewardModel.load(run / MODEL_FILE, called)
        if kind == "autoencoder":
            from tokenwalk.agents.backprop.autoencoder import Reconstruction

            return Reconstruction.load(run / MODEL_FILE, called)
        from tokenwalk.agents.backprop.lm import TokenLM

        lm = TokenLM.load(run / MODEL_FILE)
        return LogProbSource(called, lm.log_probs, Vocabulary(lm.shape.tokens))
    except FileNotFoundError as error:
        raise DamagedFileError(f"{error.filename} is missing: restore it or train again") from None


def load_learned(run: Path, task: Task) -> LearnedSource | LogProbSource:
    """Return the model of a run folder as a source of ``task``.

    Raises:
        ForeignTextError: it was trained for another vocabulary or another length. ValueError: as ``load_model``.
    """
    model = load_model(run)
    shape_of(model).check_task(task)
    return model


def load_potential(run: Path, task: Task) -> LearnedSource:
    """Return the model of a run folder as a potential. Raises ValueError for a language model, which is none."""
    model = load_learned(run, task)
    if not isinstance(model, LearnedSource):
        raise ValueError(
            f"{run} is a language model, which is a reward and no potential: give another model's run"
        )
    return model


def shape_of(model: LearnedSource | LogProbSource) -> Any:
    """Return the ``TextShape`` that a model reads."""
    if isinstance(model, LogProbSource):
        lm: Any = model.log_probs
        return lm.__self__.shape
    scorer: Any = model.scorer
    return scorer.shape if hasattr(scorer, "shape") else scorer.network.shape
