"""Completions from text, files or token ids: encoded, closed by ``<eos>``, checked against the mask, sampled again."""

from pathlib import Path

import numpy as np

from tokenwalk.agents.exact_tokens.completions import Completions, prefixes_of, sample_tokens
from tokenwalk.envs.arrays import BoolArray, IntArray
from tokenwalk.envs.rewards.machine import TokenArray
from tokenwalk.envs.tasks import Task


def encode_completion(task: Task, prompt: int, text: str) -> Completions:
    """Return ``text`` as one completion, ended by ``<eos>`` unless it fills the horizon.

    Raises:
        ValueError: an unknown token, or more tokens than the horizon.
    """
    size = len(task.vocabulary.encode(text))
    if size > task.horizon:
        raise ValueError(f"{text!r} has {size} tokens: {task.name} has a horizon of {task.horizon}")
    return prefixes_of(task, np.array([prompt]), [task.vocabulary.encode_completion(text, task.horizon)])


def read_rows(path: Path, task: Task) -> tuple[Completions, int]:
    """Return the lines of ``path`` in rows of at most H tokens, and how many words or characters are no tokens.

    Raises:
        ValueError: there are no rows.
    """
    known = {token: number for number, token in enumerate(task.vocabulary.tokens[:-1])}
    rows: list[list[int]] = []
    dropped = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        pieces = line.split() if task.vocabulary.separator else list(line.strip())
        ids = [known[piece] for piece in pieces if piece in known]
        dropped += len(pieces) - len(ids)
        if ids:
            ids.append(task.vocabulary.eos)
            rows += [ids[first : first + task.horizon] for first in range(0, len(ids), task.horizon)]
    if not rows:
        raise ValueError(f"{path} holds no token of the vocabulary: give a text with at least one line")
    return prefixes_of(task, np.zeros(len(rows), dtype=np.int64), rows), dropped


def encode_completions(task: Task, prompt: IntArray, tokens: TokenArray) -> tuple[Completions, BoolArray]:
    """Return ``tokens`` as whole completions, and which of them the task's mask allows, bool [B].

    A row ends at its first ``<eos>``; one that stops before the horizon is closed by ``<eos>``. Both log-probabilities
    are the reference policy's.

    Args:
        prompt: int64 [B], the number of each row's prompt.
        tokens: integers [B, H], padded on the right with V; tokens after ``<eos>`` are ignored.
    """
    vocabulary, reference = task.vocabulary, task.reference
    stops = np.asarray(tokens) >= vocabulary.eos
    last = np.where(stops.any(axis=1), stops.argmax(axis=1), task.horizon)
    length = np.minimum(last + 1, task.horizon)
    place = np.arange(task.horizon)
    whole = np.where(place < last[:, None], tokens, vocabulary.pad).astype(vocabulary.dtype)
    whole[place == last[:, None]] = vocabulary.eos
    log_probability, available = reference.log_probability, reference.available
    context = np.broadcast_to(reference.start, len(task.prompts))[prompt]
    total, allowed = np.zeros(len(whole)), np.ones(len(whole), dtype=np.bool_)
    for time in range(int(length.max(initial=0))):
        rows = np.flatnonzero(length > time)
        now, token = context[rows], whole[rows, time].astype(np.int64)
        total[rows] += log_probability[now, token]
        if available is not None:
            allowed[rows] &= available[now, token]
        context[rows] = reference.next_context[now, token]
    return Completions(prompt, whole, length, total, total), allowed


def resampled(
    task: Task,
    completions: Completions,
    keep: IntArray,
    rng: np.random.Generator,
    *,
    without_eos: bool = False,
) -> Completions:
    """Return each completion with its first ``keep`` [B] tokens, and the rest sampled from the reference policy again.

    ``without_eos`` samples ``<eos>`` only where no other token is possible. A completion of ``keep`` tokens or fewer stays.
    """
    reference, eos = task.reference, task.vocabulary.eos
    tokens = np.array(completions.tokens)
    context = np.broadcast_to(reference.start, len(task.prompts))[completions.prompt]
    going = np.ones(len(tokens), dtype=np.bool_)
    for time in range(task.horizon):
        fresh = np.flatnonzero(going & (keep <= time))
        if fresh.size:
            probability = reference.probability[context[fresh]]
            if without_eos:
                other = probability * (np.arange(eos + 1) != eos)
                probability = np.where(other.any(axis=1, keepdims=True), other, probability)
            tokens[fresh, time] = sample_tokens(probability, rng)
        going &= tokens[:, time] < eos
        rows = np.flatnonzero(going)
        context[rows] = reference.next_context[context[rows], tokens[rows, time].astype(np.int64)]
    return encode_completions(task, completions.prompt, tokens)[0]


def blank(task: Task, prompt: IntArray) -> Completions:
    """Return the completion of ``<eos>`` alone after each of ``prompt`` [B]."""
    shape = len(prompt), task.horizon
    return encode_completions(task, prompt, np.full(shape, task.vocabulary.pad, dtype=task.vocabulary.dtype))[
        0
    ]


def reference_samples(task: Task, prompts: IntArray, count: int, rng: np.random.Generator) -> Completions:
    """Return ``count`` completions of the reference policy after each of ``prompts`` [N], prompt by prompt."""
    empty = blank(task, np.repeat(prompts, count))
    return resampled(task, empty, np.zeros(len(empty), dtype=np.int64), rng)
