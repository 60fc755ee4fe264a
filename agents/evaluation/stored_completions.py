"""Completions that a run stores, so that they can be scored again by other sources without being generated again."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.exact.intervals import mean_and_interval
from tokenwalk.agents.exact_tokens.completions import Completions, sample_completions
from tokenwalk.agents.exact_tokens.token_policy import Policy
from tokenwalk.agents.runs.checkpoint import DamagedFileError, write_atomically
from tokenwalk.envs.rewards.source import Source
from tokenwalk.envs.tasks import Task

FILE = "completions.jsonl"
SHOWN = 8  # of which a person reads a sample
COUNT = 200  # completions that a training run stores


def sample_texts(task: Task, policy: Policy, seed: int, count: int = SHOWN) -> str:
    """Return ``count`` completions of ``policy``, each after its prompt, as a Markdown list."""
    found = sample_completions(task, policy, count, np.random.default_rng(seed))
    texts = zip(found.prompt.tolist(), found.texts(task), strict=True)
    return "\n".join(f"- `{task.prompts[prompt]}{text}`" for prompt, text in texts)


def write_completions(run: Path, task: Task, policy: Policy, seed: int, count: int = COUNT) -> None:
    """Draw ``count`` completions from ``policy`` and write each as one JSON line.

    A line holds prompt and completion as text, the completion's token ids (``<eos>`` included) and log_prob, the
    natural logarithm of its probability under the policy that wrote it.
    """
    found = sample_completions(task, policy, count, np.random.default_rng(seed))
    lines = [
        {
            "prompt": task.prompts[prompt],
            "completion": text,
            "tokens": tokens[:length].tolist(),
            "log_prob": log_prob,
        }
        for prompt, text, tokens, length, log_prob in zip(
            found.prompt.tolist(),
            found.texts(task),
            found.tokens,
            found.length,
            found.log_prob.tolist(),
            strict=True,
        )
    ]
    write_atomically(run / FILE, "".join(json.dumps(line) + "\n" for line in lines).encode())


def read_completions(run: Path, task: Task) -> Completions:
    """Return the completions that a run stored; their log-probability under the reference policy is not looked up.

    Raises:
        ValueError: the run stored none. DamagedFileError: a line that is torn, or of another task.
    """
    path = run / FILE
    if not path.is_file():
        raise ValueError(f"{run} has stored no completions: train a token task, or train again")
    lines: list[dict[str, Any]] = []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        prompt = np.array([task.prompts.index(line["prompt"]) for line in lines])
        length = np.array([len(line["tokens"]) for line in lines])
        tokens = np.full((len(lines), task.horizon), task.vocabulary.pad, dtype=task.vocabulary.dtype)
        for row, line in enumerate(lines):
            tokens[row, : length[row]] = line["tokens"]
        log_prob = np.array([line["log_prob"] for line in lines], dtype=np.float64)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{path} is torn, or of another task ({error}): train again") from None
    return Completions(prompt, tokens, length, log_prob, np.full(len(lines), np.nan))


def score_stored(completions: Completions, task: Task, sources: Iterable[Source]) -> dict[str, Any]:
    """Return, for each source by name, the mean score of the stored completions, its 95 % interval, least and greatest.

    Raises:
        SourceContractError: a source that returned what it must not.
    """
    scores = completions.scores(task, sources)
    found = {}
    for name, values in scores.items():
        mean, interval = mean_and_interval(values)
        finite = list(interval) if len(values) > 1 else None
        found[name] = {
            "mean": mean,
            "interval": finite,
            "low": float(values.min()),
            "high": float(values.max()),
        }
    return found
