"""Completions of a task: all of them, those of a policy, samples of it, and its most probable ones."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenwalk.agents.exact_tokens.token_policy import (
    AutomatonPolicy,
    FastSampler,
    Policy,
    ask,
    reference_on_tokens,
)
from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.rewards.machine import TokenArray
from tokenwalk.envs.rewards.source import Source, TokenBatch, score_tokens
from tokenwalk.envs.tasks import Task

MAX_PREFIXES = 250_000  # the largest enumerable task of the catalog, Arithmetic, has 204,200
PREFIXES_AT_ONCE = 4_096  # whose next tokens are tried at once


class TreeTooLargeError(ValueError):
    """A prefix tree beyond its limit.

    Attributes:
        prefixes: its size, or, if ``at_least``, the number found before the limit.
        at_least: whether there are more.
        limit: as given.
    """

    def __init__(self, name: str, prefixes: float, limit: int, at_least: bool) -> None:
        size = f"{prefixes:,.0f}" if prefixes < 1e12 else f"{prefixes:.1e}"
        super().__init__(
            f"the prefix tree of {name} has {'at least ' if at_least else ''}{size} prefixes, more than the limit of "
            f"{limit:,}: shorten the horizon, raise the limit, or take evaluate_tokens, which then samples"
        )
        self.prefixes, self.at_least, self.limit = prefixes, at_least, limit


@dataclass(frozen=True, eq=False)
class Completions:
    """B completions or prefixes.

    Attributes:
        prompt: int64 [B], the number of each one's prompt.
        tokens: integers [B, H], padded on the right with V.
        length: int64 [B], ``<eos>`` included.
        log_prob: float64 [B], natural logarithm of the probability, given the prompt, under the policy asked.
        log_reference: float64 [B], the same under the task's reference policy; -inf where its probability is 0.
    """

    prompt: IntArray
    tokens: TokenArray
    length: IntArray
    log_prob: FloatArray
    log_reference: FloatArray

    def __len__(self) -> int:
        return len(self.prompt)

    def __getitem__(self, rows: BoolArray | IntArray | slice) -> "Completions":
        """Return the chosen rows."""
        return Completions(
            self.prompt[rows],
            self.tokens[rows],
            self.length[rows],
            self.log_prob[rows],
            self.log_reference[rows],
        )

    def weights(self, task: Task) -> FloatArray:
        """Return the probability of each prompt and completion together, float64 [B]."""
        return np.asarray(task.prompt_weights[self.prompt] * np.exp(self.log_prob))

    def ended(self, task: Task) -> BoolArray:
        """Return which are complete, bool [B]: the last token is ``<eos>`` or the H-th."""
        final = self.tokens[np.arange(len(self)), np.maximum(self.length, 1) - 1]
        return np.asarray(
            (self.length > 0) & ((final == task.vocabulary.eos) | (self.length == task.horizon))
        )

    def batch(self, task: Task) -> TokenBatch:
        """Return them as the input of a policy or a source."""
        return TokenBatch(task.prompt_ids[self.prompt], self.tokens, self.length, self.ended(task))

    def scores(self, task: Task, sources: Iterable[Source]) -> dict[str, FloatArray]:
        """Return the sum of each source's rewards over each completion, float64 [B] by name."""
        prompt, vocabulary = task.prompt_ids[self.prompt], task.vocabulary
        tables = score_tokens(sources, prompt, self.tokens, self.length, vocabulary)
        return {name: table.sum(axis=1) for name, table in tables.items()}

    def texts(self, task: Task) -> list[str]:
        """Return the completions as text, without their prompts."""
        return [task.vocabulary.decode(tokens) for tokens in self.tokens]

    def extended(
        self, rows: IntArray, token: IntArray, log_prob: FloatArray, log_reference: FloatArray
    ) -> "Completions":
        """Return the prefixes ``rows`` [C], each with one more ``token`` [C] of those log-probabilities [C]."""
        tokens = self.tokens[rows]
        tokens[np.arange(len(rows)), self.length[rows]] = token
        log_prob, log_reference = self.log_prob[rows] + log_prob, self.log_reference[rows] + log_reference
        return Completions(self.prompt[rows], tokens, self.length[rows] + 1, log_prob, log_reference)


def blank_prefixes(task: Task, prompt: IntArray) -> Completions:
    """Return the empty prefix for each of ``prompt`` [B]."""
    tokens = np.full((len(prompt), task.horizon), task.vocabulary.pad, dtype=task.vocabulary.dtype)
    zeros = np.zeros(len(prompt))
    return Completions(prompt, tokens, np.zeros(len(prompt), dtype=np.int64), zeros, zeros)


def prefixes_of(task: Task, prompt: IntArray, rows: Sequence[Sequence[int]]) -> Completions:
    """Return ``rows`` of token ids as prefixes of ``prompt`` [B], with log-probabilities 0: they are not known yet."""
    tokens, length = task.vocabulary.pad_rows(rows, task.horizon)
    return Completions(prompt, tokens, length, np.zeros(len(prompt)), np.zeros(len(prompt)))


def concatenate(parts: Sequence[Completions]) -> Completions:
    """Return all of ``parts``, at least one, in their order."""
    names = ("prompt", "tokens", "length", "log_prob", "log_reference")
    return Completions(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class _NextToken:
    """The next token's probabilities by a policy and by the reference policy, and the mask."""

    def __init__(self, task: Task, policy: Policy | None) -> None:
        self.task, self.policy, self.reference = task, policy, reference_on_tokens(task)

    def after(self, prefixes: Completions) -> tuple[BoolArray, FloatArray, FloatArray]:
        """Return which tokens may follow and their log-probabilities by both, each [B, V].

        Without a policy these are all allowed tokens, and the reference policy's probability twice.
        """
        batch, reference = prefixes.batch(self.task), self.task.reference
        context = self.reference.states(batch)
        with np.errstate(divide="ignore"):
            log_reference = np.log(reference.probability[context])
            allowed = np.ones(log_reference.shape, dtype=np.bool_)
            if reference.available is not None:
                allowed = reference.available[context]
            if self.policy is None:
                return allowed, log_reference, log_reference
            log_prob = np.log(ask(self.policy, batch, allowed))
        return log_prob > -np.inf, log_prob, log_reference


def count_prefixes(task: Task) -> float:
    """Return the number of prefixes of ``task``, complete ones included, that the mask allows; above 2^53 rounded."""
    reference = task.reference
    allowed = (
        np.ones(reference.next_context.shape) if reference.available is None else reference.available * 1.0
    )
    starts = np.broadcast_to(reference.start, len(task.prompts))[task.prompt_weights > 0]
    unfinished = np.bincount(starts, minlength=len(allowed)).astype(np.float64)
    total = unfinished.sum()
    with np.errstate(over="ignore"):
        for _ in range(task.horizon):
            edges = unfinished[:, None] * allowed
            total += edges.sum()
            following = reference.next_context[:, :-1].ravel()
            unfinished = np.bincount(following, edges[:, :-1].ravel(), len(allowed)).astype(np.float64)
    return float(total)


def enumerate_completions(
    task: Task, policy: Policy | None = None, *, limit: int = MAX_PREFIXES
) -> Completions:
    """Return the completions of ``policy`` with their probabilities; without a policy, all completions.

    The prefix tree is grown layer by layer, without tokens of probability 0: a deterministic policy has one path
    for each prompt. The order is by prompt (those of weight 0 are left out), then by tokens. Without a policy
    ``log_prob`` is the reference's, and its completions of probability 0 are included.

    Raises:
        TreeTooLargeError: more than ``limit`` prefixes, complete ones included.
        ValueError: invalid probabilities, see ``ask``.
    """
    if policy is None and (size := count_prefixes(task)) > limit:
        raise TreeTooLargeError(task.name, size, limit, at_least=False)
    next_token = _NextToken(task, policy)
    front = blank_prefixes(task, np.flatnonzero(task.prompt_weights > 0))
    count, complete = len(front), []
    while len(front):
        grown = []
        for first in range(0, len(front), PREFIXES_AT_ONCE):
            part = front[first : first + PREFIXES_AT_ONCE]
            possible, log_prob, log_reference = next_token.after(part)
            if (count := count + int(possible.sum())) > limit:
                raise TreeTooLargeError(task.name, count, limit, at_least=True)
            rows, token = np.nonzero(possible)
            grown.append(part.extended(rows, token, log_prob[rows, token], log_reference[rows, token]))
        layer = concatenate(grown)
        over = layer.ended(task)
        complete.append(layer[over])
        front = layer[~over]
    found = concatenate(complete)
    return found[np.lexsort((*found.tokens.T[::-1], found.prompt))]


def sample_completions(
    task: Task, policy: Policy, count: int, rng: np.random.Generator, prompt: IntArray | None = None
) -> Completions:
    """Return ``count`` independent completions of ``policy``, each after a prompt sampled by its weight.

    With ``prompt``, int64 [count], row i follows the prompt of that index instead.

    Raises:
        ValueError: a count below 1, or invalid probabilities, see ``ask``.
    """
    if count < 1:
        raise ValueError(f"count is {count}: sample at least one completion")
    next_token = _NextToken(task, policy)
    if prompt is None:
        if isinstance(policy, FastSampler):
            return _with_reference(task, *policy.sample(task, count, rng))
        prompt = rng.choice(len(task.prompts), size=count, p=task.prompt_weights)
    front = blank_prefixes(task, prompt)
    place, places, complete = np.arange(count), [], []
    while len(front):
        _, log_prob, log_reference = next_token.after(front)
        rows, token = np.arange(len(front)), sample_tokens(np.exp(log_prob), rng)
        front = front.extended(rows, token, log_prob[rows, token], log_reference[rows, token])
        over = front.ended(task)
        complete.append(front[over])
        places.append(place[over])
        front, place = front[~over], place[~over]
    return concatenate(complete)[np.argsort(np.concatenate(places))]


def _with_reference(task: Task, prompt: IntArray, tokens: TokenArray, log_prob: FloatArray) -> Completions:
    """Return the samples of a ``FastSampler`` with their probability under the reference policy."""
    length = (tokens < task.vocabulary.size).sum(axis=1)
    found = Completions(prompt, tokens.astype(task.vocabulary.dtype), length, log_prob, np.zeros(len(prompt)))
    return replace(found, log_reference=log_prob_of(task, reference_on_tokens(task), found))


def sample_tokens(probability: FloatArray, rng: np.random.Generator) -> IntArray:
    """Return one sample for each row of ``probability`` [B, V], int64 [B], never of probability 0."""
    cumulative = probability.cumsum(axis=1)
    total = cumulative[:, -1]
    mark = np.minimum(
        rng.random(len(total)) * total, np.nextafter(total, 0)
    )  # rounding must not reach the end
    return np.asarray((cumulative <= mark[:, None]).sum(axis=1))


def log_prob_of(task: Task, policy: Policy, completions: Completions) -> FloatArray:
    """Return the log-probability of each completion, given its prompt, under ``policy``, float64 [B]."""
    next_token = _NextToken(task, policy)
    total = np.zeros(len(completions))
    for time in range(int(completions.length.max(initial=0))):
        rows = np.flatnonzero(completions.length > time)
        prefixes = blank_prefixes(task, completions.prompt[rows])
        prefixes.tokens[:, :time], prefixes.length[:] = completions.tokens[rows, :time], time
        _, log_prob, _ = next_token.after(prefixes)
        total[rows] += log_prob[np.arange(len(rows)), completions.tokens[rows, time]]
    return total


def against(task: Task, reference: Policy | None, completions: Completions) -> Completions:
    """Return ``completions`` with ``log_reference`` under another reference; unchanged if it is None."""
    if reference is None:
        return completions
    return replace(completions, log_reference=log_prob_of(task, reference, completions))


def top_completions(task: Task, policy: AutomatonPolicy, count: int = 10, prompt: int = 0) -> Completions:
    """Return the ``count`` most probable completions of a prompt, the most probable first; fewer if there are fewer.

    Best-first search, in which the largest log-probability still possible after each state and step (a backward
    induction) bounds the probability of each prefix: only prefixes of the answers are expanded. Completions whose
    log-probabilities agree to 1e-12 come in the order of their tokens' ids, ``<eos>`` last.

    Raises:
        ValueError: a count below 1 or no such prompt.
    """
    if count < 1 or not 0 <= prompt < len(task.prompts):
        raise ValueError(
            f"count is {count} and prompt {prompt}: give 1 or more, and a prompt from 0 to {len(task.prompts) - 1}"
        )
    ahead, eos = _log_prob_ahead(task, policy), task.vocabulary.eos
    start = int(policy.start[prompt if policy.start.size > 1 else 0])
    queue: list[tuple[float, tuple[int, ...], float, int]] = [(0.0, (), 0.0, start)]
    found: list[tuple[int, ...]] = []
    while queue and len(found) < count:
        _, tokens, log_prob, state = heapq.heappop(queue)
        if len(tokens) == task.horizon or tokens[-1:] == (eos,):
            found.append(tokens)
            continue
        row = policy.table[min(len(tokens), len(policy.table) - 1), state]
        for token in np.flatnonzero(row).tolist():
            following, so_far = int(policy.next_state[state, token]), log_prob + float(np.log(row[token]))
            rest = 0.0 if token == eos else ahead[len(tokens) + 1, following]
            heapq.heappush(queue, (-round(so_far + rest, 12), (*tokens, token), so_far, following))
    best = prefixes_of(task, np.full(len(found), prompt), found)
    log_probs = (log_prob_of(task, one, best) for one in (policy, reference_on_tokens(task)))
    return Completions(best.prompt, best.tokens, best.length, *log_probs)


def _log_prob_ahead(task: Task, policy: AutomatonPolicy) -> FloatArray:
    """Return the largest log-probability of a continuation of each state after t tokens, float64 [H + 1, S]."""
    ahead = np.zeros((task.horizon + 1, len(policy.next_state)))
    for time in reversed(range(task.horizon)):
        with np.errstate(divide="ignore"):
            log_prob = np.log(policy.table[min(time, len(policy.table) - 1)])
        log_prob[:, :-1] += ahead[time + 1][policy.next_state[:, :-1]]
        ahead[time] = log_prob.max(axis=1)
    return ahead


def best_text(task: Task, policy: AutomatonPolicy, prompt: int = 0) -> str:
    """Return the most probable completion as text; for the policy of a hard optimum it attains the optimum."""
    return top_completions(task, policy, 1, prompt).texts(task)[0]
