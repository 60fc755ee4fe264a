"""``tokenwalk train lm TASK|--text FILE``: a language model, from a request to a run folder."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenwalk.agents.backprop.configs import LMConfig, TrainingConfig, default_training
from tokenwalk.agents.backprop.fit import Training
from tokenwalk.agents.backprop.lm import KIND, TokenLM, entropy_rate, pretrain
from tokenwalk.agents.exact_tokens.completions import (
    Completions,
    TreeTooLargeError,
    enumerate_completions,
    log_prob_of,
)
from tokenwalk.agents.exact_tokens.encode import read_rows
from tokenwalk.agents.exact_tokens.token_evaluation import evaluate_tokens
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.runs.progress import OnProgress
from tokenwalk.agents.runs.tracking import Tracker
from tokenwalk.agents.training.model_run import ModelRequest, ModelRun
from tokenwalk.envs.tasks import TEXT, Task, find_task
from tokenwalk.envs.text_task import Tokens, text_task
from tokenwalk.envs.token_model import TokenModel, compose

SHOWN = 8  # texts of each sample on the text tab
BUNDLED = "bundled"  # the name of the text that ships


@dataclass(frozen=True)
class TextSource:
    """What a language model reads.

    Attributes:
        task: whose vocabulary, prompts and horizon it has.
        texts: what is learned; None: samples of the task's reference policy.
        floor: the least loss that there is, in nats per token; None where the source is not known.
        note: what of a text was left out.
    """

    task: Task
    texts: Completions | None
    floor: float | None
    note: str | None = None


def read_source(task: str | None, text: str | None, tokens: Tokens, horizon: int | None) -> TextSource:
    """Return what a person named: a task, whose reference policy is sampled, or a text file (or the bundled text).

    A line of a text that is longer than the horizon goes on in the next row; its last row ends with ``<eos>``.

    Raises:
        ValueError: neither or both, an unknown task, or a text that is empty or cannot be read.
    """
    if (task is None) == (text is None):
        raise ValueError(
            "name a task to learn its reference policy's texts, or a text with --text FILE (--text bundled: the one that "
            "ships): one of the two"
        )
    if task is not None:
        found = find_task(task, horizon)
        return TextSource(found, None, entropy_rate(found))
    path = TEXT if text == BUNDLED else Path(str(text))
    found = text_task(path, tokens, 64 if horizon is None else horizon)
    rows, dropped = read_rows(path, found)
    share = dropped / (dropped + int((rows.tokens < found.vocabulary.eos).sum()))
    note = f"{dropped:,} {tokens} ({share:.1%}) are rarer than the {found.vocabulary.size - 1} kept, and were left out"
    return TextSource(found, rows, None, note if dropped else None)


def train_lm_run(
    model_request: ModelRequest,
    source: TextSource,
    config: LMConfig,
    training: TrainingConfig | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Pre-train a language model into a run folder and return its summary.

    Returns:
        agent, env, loss (of held-out texts, nats per token; exact where the task's texts can be listed), perplexity,
        floor (the source's entropy rate; None for a text), excess (loss / floor - 1), kl (of the source to the model per
        token, where it is exact), exact, parameters, texts, tokens_per_second, sample, updates, held_out_loss, seconds,
        interrupted, note, run_dir.

    Raises:
        ValueError, NonFiniteLossError: as ``pretrain``.
    """
    training = default_training(config) if training is None else training
    task = source.task
    lines = {} if source.floor is None else {"optimum": {"eval/loss": source.floor}}

    def learn(
        report: Callable[..., None], folder: RunFolder, tracker: Tracker
    ) -> tuple[TokenLM, list[Training]]:
        def evaluated(number: int, lm: TokenLM) -> None:
            lm.save(folder.path / "model.safetensors")
            tracker.log_text(number * training.evaluate_every, "samples", as_markdown(sample_texts(lm, task)))

        lm, trained = pretrain(
            task, config, training, texts=source.texts, on_progress=report, on_evaluation=evaluated
        )
        return lm, [trained]

    request = {
        "config": {**asdict(config), "training": asdict(training)},
        "steps": training.updates,
        "source": "task" if source.texts is None else "text",
    }
    run = ModelRun(KIND, model_request, training, request, lines, on_progress)
    lm, trained, seconds, folder = run.carry_out(learn)
    figures = lm_figures(lm, task, source.floor, trained[0].held_out)
    texts = config.texts if source.texts is None else len(source.texts)
    read = trained[0].updates * min(training.batch_size, texts) * (task.horizon + task.prompt_length)
    return run.finish(
        folder,
        {
            **figures,
            "note": source.note or figures["note"],
            "parameters": lm.network.describe()["total"],
            "texts": texts,
            "tokens_per_second": read / seconds,
            "sample": sample_texts(lm, task)[0],
        },
        trained,
        seconds,
    )


def lm_figures(lm: TokenLM, task: Task, floor: float | None, held_out: float | None) -> dict[str, Any]:
    """Return loss, perplexity, floor, excess, kl, exact and note; exact over all texts where the source can be listed."""
    loss, kl, exact, note = held_out, None, False, None
    if floor is not None:
        try:
            surprise, length = expected_surprise(lm, task)
            loss, kl, exact = surprise / length, surprise / length - floor, True
        except TreeTooLargeError:
            note = f"loss is of held-out texts: {task.name} has too many to be listed"
    return {
        "loss": loss,
        "perplexity": None if loss is None else float(np.exp(loss)),
        "floor": floor,
        "excess": None if floor is None or loss is None else loss / floor - 1,
        "kl": kl,
        "exact": exact,
        "note": note,
    }


def expected_surprise(lm: TokenLM, task: Task) -> tuple[float, float]:
    """Return the expectation over the reference policy's texts of -log p under ``lm``, and of their tokens, exactly.

    Raises:
        TreeTooLargeError: too many texts.
    """
    every = enumerate_completions(task)
    weight = every.weights(task)
    return float(-weight @ log_prob_of(task, lm, every)), float(weight @ every.length)


def sample_texts(lm: TokenLM, task: Task, count: int = SHOWN, seed: int = 0) -> list[str]:
    """Return ``count`` texts that the model generates, each with its prompt before it."""
    rng = np.random.default_rng(seed)
    prompt = rng.choice(len(task.prompts), size=count, p=task.prompt_weights)
    generator = torch.Generator(lm.device).manual_seed(seed)
    written = lm.generate(task.prompt_ids[prompt], generator, lm.mask(prompt))
    texts = [task.vocabulary.decode(row) for row in written.tokens.cpu().numpy()]
    return [f"{task.prompts[number]}{text}" for number, text in zip(prompt, texts, strict=True)]


def as_markdown(texts: list[str]) -> str:
    """Return texts as a Markdown list, for TensorBoard's text tab."""
    return "\n".join(f"- `{text or '(nothing)'}`" for text in texts)


def evaluate_lm(run: Path) -> dict[str, Any]:
    """Return the figures of a run's language model, worked out again.

    Raises:
        ValueError: no run, or a damaged one.
    """
    folder, started = RunFolder.open(run), time.perf_counter()
    request = folder.config
    task = find_task(request["env"]) if request.get("source") == "task" else None
    lm = TokenLM.load(run / "model.safetensors", task)
    held_out = folder.summary["held_out_loss"] if folder.is_complete else None
    if task is None:
        figures = {"loss": held_out, "perplexity": None if held_out is None else float(np.exp(held_out))}
    else:
        figures = lm_figures(lm, task, entropy_rate(task), held_out)
        judged = evaluate_tokens(TokenModel(task, compose(task, "gold")), lm)
        figures |= {"gold": judged.gold, "entropy": judged.entropy}
    return {"agent": KIND, "env": request["env"], **figures, "seconds": time.perf_counter() - started}
