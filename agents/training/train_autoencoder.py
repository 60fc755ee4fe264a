"""``tokenwalk train autoencoder TASK``: an autoencoder, from a request to a run folder."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tokenwalk.agents.backprop.autoencoder import (
    Reconstruction,
    error_without_code,
    read_texts,
    train_autoencoder,
)
from tokenwalk.agents.backprop.configs import TokenAutoencoderConfig, TrainingConfig, default_training
from tokenwalk.agents.backprop.fit import Training
from tokenwalk.agents.backprop.reward_model import reference_completions
from tokenwalk.agents.exact_tokens.completions import Completions
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.runs.progress import OnProgress
from tokenwalk.agents.runs.tracking import Tracker
from tokenwalk.agents.training.model_run import ModelRequest, ModelRun
from tokenwalk.envs.rewards.learned import LearnedSource
from tokenwalk.envs.tasks import Task, find_task

TELLING = (
    0.01  # share of the error without a code: an error whose standard deviation is below it is mostly noise
)


def train_autoencoder_run(
    model_request: ModelRequest,
    config: TokenAutoencoderConfig,
    training: TrainingConfig | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Train an autoencoder into a run folder and return its summary.

    Returns:
        agent, env, reconstruction_error (of held-out texts, nats per token), reference_error (the same, expected over the
        reference policy's completions), error_without_code (what a code that says nothing would reach on them), exact
        (whether the last two are over all completions, else over 10,000), bottleneck, texts, parameters, updates,
        training_loss, held_out_loss, seconds, interrupted, note, run_dir.

    Raises:
        As ``train_reward_model_run``.
    """
    training = default_training(config) if training is None else training
    task = find_task(model_request.task)
    texts = None if model_request.data is None else read_texts(model_request.data, task)
    completions, weight, exact = reference_completions(task)
    worst = error_without_code(task, completions, weight)

    def learn(
        report: Callable[..., None], folder: RunFolder, _: Tracker
    ) -> tuple[Reconstruction, list[Training]]:
        model, trained = train_autoencoder(
            task, config, training, texts=texts, name=folder.path.name, on_progress=report
        )
        return model, [trained]

    request = {"config": {**asdict(config), "training": asdict(training)}, "steps": training.updates}
    lines = {"optimum": {"eval/loss": 0.0}, "reference": {"eval/loss": worst}}
    run = ModelRun("autoencoder", model_request, training, request, lines, on_progress)
    model, trained, seconds, folder = run.carry_out(learn)
    return run.finish(
        folder,
        {
            "reconstruction_error": trained[0].held_out,
            "reference_error": expected_error(model, task, completions, weight),
            "error_without_code": worst,
            "exact": exact,
            "bottleneck": config.bottleneck,
            "texts": config.texts if texts is None else len(texts),
            "parameters": sum(one.numel() for one in model.network.parameters()),
            "note": _left_to_tell(1.0 / model.scale, worst),
        },
        trained,
        seconds,
    )


def _left_to_tell(spread: float, worst: float) -> str | None:
    """Return a warning where the spread of the error, in nats, is next to nothing beside ``worst``, of no code at all."""
    if spread >= TELLING * worst:
        return None
    return (
        f"the error's spread is {spread:.2g} nats, where a code that says nothing leaves {worst:.3g}: scaled to a "
        "spread of 1, as a bonus is, it is mostly noise; a narrower --bottleneck tells more"
    )


def expected_error(model: Reconstruction, task: Task, completions: Completions, weight: Any) -> float:
    """Return the error per token, in nats, over ``completions`` of those weights [B], float."""
    errors = LearnedSource("error", model.scorer).score(completions.batch(task))
    return float(weight @ (errors * completions.length) / (weight @ completions.length))
