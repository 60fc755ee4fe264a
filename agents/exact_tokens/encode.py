"""Completions that are written by hand or changed by hand: closed, checked against the mask, drawn again from a place."""

import numpy as np

from tokenwalk.agents.exact_tokens.completions import Completions, draw
from tokenwalk.envs.arrays import BoolArray, IntArray
from tokenwalk.envs.rewards.machine import TokenArray
from tokenwalk.envs.tasks import Task


def draft(task: Task, prompt: IntArray, tokens: TokenArray) -> tuple[Completions, BoolArray]:
    """Return ``tokens`` as whole completions, and which of them the task's mask allows, bool [B].

    A row ends at its first ``<eos>``; one that stops before the horizon is closed by ``<eos>``. Both log-probabilities
    are the reference policy's.

    Args:
        prompt: int64 [B], the number of each row's prompt.
        tokens: integers [B, H], padded on the right with V; what follows ``<eos>`` is not read.
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
    """Return each completion with its first ``keep`` [B] tokens, and the rest drawn from the reference policy again.

    ``without_eos`` never draws ``<eos>`` where anything else may follow. A completion of ``keep`` tokens or fewer stays.
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
            tokens[fresh, time] = draw(probability, rng)
        going &= tokens[:, time] < eos
        rows = np.flatnonzero(going)
        context[rows] = reference.next_context[context[rows], tokens[rows, time].astype(np.int64)]
    return draft(task, completions.prompt, tokens)[0]


def blank(task: Task, prompt: IntArray) -> Completions:
    """Return the completion that is ``<eos>`` at once after each of ``prompt`` [B]."""
    shape = len(prompt), task.horizon
    return draft(task, prompt, np.full(shape, task.vocabulary.pad, dtype=task.vocabulary.dtype))[0]


def reference_samples(task: Task, prompts: IntArray, count: int, rng: np.random.Generator) -> Completions:
    """Return ``count`` completions of the reference policy after each of ``prompts`` [N], prompt by prompt."""
    empty = blank(task, np.repeat(prompts, count))
    return resampled(task, empty, np.zeros(len(empty), dtype=np.int64), rng)
