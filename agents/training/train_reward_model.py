"""``tokenwalk train reward-model TASK``: a reward model, from a request to a run folder."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.backprop.autoencoder import (
    Reconstruction,
    error_without_code,
)
from tokenwalk.agents.backprop.configs import (
    RewardModelConfig,
    TrainingConfig,
    default_training,
)
from tokenwalk.agents.backprop.datasets import RewardDataset
from tokenwalk.agents.backprop.fit import Training
from tokenwalk.agents.backprop.preferences import Split, read_preferences
from tokenwalk.agents.backprop.reward_model import (
    RewardModel,
    calibrated,
    reference_completions,
    train_reward_model,
)
from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.evaluation import reference_policy
from tokenwalk.agents.exact_tokens.proxy_agreement import (
    correlation,
    gold_of_argmax,
    pair_accuracy,
    worst_exploit,
)
from tokenwalk.agents.exact_tokens.token_policy import AutomatonPolicy, table_policy
from tokenwalk.agents.problem.saved_models import MODEL_FILE, load_learned
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.runs.progress import OnProgress
from tokenwalk.agents.runs.tracking import Tracker
from tokenwalk.agents.training.model_run import ModelRequest, ModelRun
from tokenwalk.agents.training.train_autoencoder import expected_error
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import TokenModel, compose


def mixed_policy(task: Task) -> AutomatonPolicy:
    """Return the policy that writes each token by the exact optimum of gold or by the reference policy, half and half."""
    model = TokenModel(task, compose(task, "gold"))
    mdp = model.tabular_mdp()
    best = solve(mdp, {"gold": 1.0}, discount=1.0).policy
    return table_policy(model, 0.5 * best + 0.5 * reference_policy(mdp))


def train_reward_model_run(
    model_request: ModelRequest,
    config: RewardModelConfig,
    training: TrainingConfig | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Train a reward model into a run folder and return its summary.

    Returns:
        agent, env, objective, floor (of the loss: the labels' own entropy, or 0; None where it is not known), scorer,
        pairs, temperature, accuracy, correlation, worst_exploit (text, proxy, gold), gold_of_argmax, exact (whether
        these are over all completions, else over 10,000 of the reference policy), parameters, updates, training_loss,
        held_out_loss, seconds, interrupted, note, run_dir. A figure that does not exist is None. ``accuracy`` is the
        share of untied held-out pairs of the reference policy that are ordered as gold orders them.

    Raises:
        ValueError: an unknown task or a number out of range. PreferenceDataError: too little data, or bad data.
        NonFiniteLossError: the loss overflowed; the run then holds the last good parameters.
    """
    training = default_training(config) if training is None else training
    task = find_task(model_request.task)
    policy = mixed_policy(task) if model_request.writer == "mixed" else None
    preferences = None if model_request.data is None else read_preferences(model_request.data, task)
    if preferences is not None:
        config = replace(config, pairs=len(preferences))
    dataset = RewardDataset(task, config, training.seed, policy, preferences)
    floor = dataset.irreducible_loss()
    lines = {} if floor is None else {"optimum": {"eval/loss": floor}}

    def learn(
        report: Callable[..., None], folder: RunFolder, _: Tracker
    ) -> tuple[RewardModel, list[Training]]:
        saved = _Saver(folder)
        return train_reward_model(
            dataset, training, name=folder.path.name, on_progress=report, on_checkpoint=saved.save
        )

    request = {
        "config": {**asdict(config), "training": asdict(training)},
        "steps": training.updates * config.members,
    }
    run = ModelRun("reward-model", model_request, training, request, lines, on_progress)
    model, trained, seconds, folder = run.carry_out(learn)
    return run.finish(
        folder,
        {
            "objective": config.objective,
            "floor": floor,
            "scorer": config.scorer,
            "pairs": config.pairs,
            "temperature": config.temperature if config.objective == "preferences" else None,
            **reward_model_figures(model, task),
            "parameters": sum(
                one.numel() for member in model.ensemble.members for one in member.parameters()
            ),
        },
        trained,
        seconds,
    )


def reward_model_figures(model: RewardModel, task: Task) -> dict[str, Any]:
    """Return how the model agrees with gold: accuracy, correlation, worst_exploit, gold_of_argmax, exact, note."""
    completions, weight, exact = reference_completions(task)
    gold = completions.scores(task, [task.sources["gold"]])["gold"]
    proxy = model.score(completions.batch(task))
    config = RewardModelConfig(**model.about["config"])
    out = Split(task, config.held_out, int(model.about["seed"])).held_out(completions)
    worst = worst_exploit(gold, proxy)
    accuracy = (
        pair_accuracy(completions.prompt[out], weight[out], gold[out], proxy[out]) if out.any() else None
    )
    return {
        "accuracy": accuracy,
        "correlation": correlation(weight, gold, proxy),
        "worst_exploit": {
            "text": completions[np.array([worst.row])].texts(task)[0],
            "proxy": worst.proxy,
            "gold": worst.gold,
        },
        "gold_of_argmax": gold_of_argmax(completions.prompt, weight, gold, proxy),
        "exact": exact,
        "note": None if accuracy is not None else "accuracy: gold ties all the held-out pairs",
    }


class _Saver:
    """Saves a model that is still in training into its run."""

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / MODEL_FILE

    def save(self, model: RewardModel) -> None:
        """Write the model as it stands."""
        model.save(self._path)


def evaluate_model(run: Path) -> dict[str, Any]:
    """Return the figures of a run's reward model or autoencoder, worked out again.

    Raises:
        ValueError: no run, or a damaged one.
    """
    folder = RunFolder.open(run)
    request, started = folder.config, time.perf_counter()
    task = find_task(request["env"])
    model = load_learned(run, task)
    if isinstance(model, RewardModel):
        model = (
            calibrated(model, task) if not folder.is_complete else model
        )  # a killed run saved it as it stood
        figures = reward_model_figures(model, task)
    else:
        assert isinstance(model, Reconstruction)
        completions, weight, exact = reference_completions(task)
        figures = {
            "reference_error": expected_error(model, task, completions, weight),
            "error_without_code": error_without_code(task, completions, weight),
            "exact": exact,
        }
    return {
        "agent": request["agent"],
        "env": request["env"],
        **figures,
        "seconds": time.perf_counter() - started,
    }
