"""Search for the completions of highest reward where they cannot be enumerated: beam search and cross-entropy method.

Every result is a lower bound: the rewards found are correct, and a completion of higher reward may exist.

Sources: Rubinstein 1999 (the cross-entropy method); Kool, van Hoof and Welling 2019, "Stochastic Beams and Where to
Find Them" (samples without replacement by Gumbel noise).
"""

from collections.abc import Callable, Sequence

import numpy as np

from tokenwalk.agents.exact.bellman import TIE_TOLERANCE
from tokenwalk.agents.exact_tokens.completions import Completions, sample_tokens
from tokenwalk.agents.exact_tokens.encode import encode_completions
from tokenwalk.envs.arrays import BoolArray, FloatArray
from tokenwalk.envs.rewards.source import Source, score_strictly
from tokenwalk.envs.tasks import Task

BUDGET = 200_000  # completions to score, approximately
BATCH_SIZE = 1_024  # completions in one call of the reward
MAX_WIDTH, MIN_WIDTH = 512, 8  # prefixes that a beam keeps
ROUNDS = 24  # of the cross-entropy method
ELITE = 0.1  # share of the samples that the next round is fitted to
STEP_SIZE = 0.7  # of the policy towards its fit
EXPLORATION = 0.01  # share of the policy that stays uniform

OnStage = Callable[[str], None]


def ignore_stage(stage: str) -> None:
    """Ignore ``stage``: the callback where no progress is reported."""
    del stage


def score_completions(task: Task, source: Source, completions: Completions) -> FloatArray:
    """Return the reward of each whole completion, float64 [B]. Raises SourceContractError."""
    if source.timing == "end":
        return score_strictly(source, completions.batch(task), task.vocabulary)
    return completions.scores(task, [source])[source.name]


class Search:
    """All scored completions by prompt, and the best of them; no completion is scored twice.

    Attributes:
        task, source, rng: as given.
        prompts: int64 [N], the indices of the prompts of positive weight.
        best: float64 [N], the highest reward found for each prompt.
        origin: list of N names: the method that found it.
        on_stage: callback for each stage.
    """

    def __init__(
        self, task: Task, source: Source, rng: np.random.Generator, on_stage: OnStage = ignore_stage
    ) -> None:
        self.task, self.source, self.rng, self.on_stage = task, source, rng, on_stage
        self.prompts = np.flatnonzero(task.prompt_weights > 0)
        self.best = np.full(len(self.prompts), -np.inf)
        self.origin = [""] * len(self.prompts)
        self.scored = 0
        self._place = np.zeros(len(task.prompts), dtype=np.int64)
        self._place[self.prompts] = np.arange(len(self.prompts))
        self._known: list[dict[bytes, float]] = [{} for _ in self.prompts]
        self._ties: list[list[bytes]] = [[] for _ in self.prompts]

    def score(self, completions: Completions, origin: str, allowed: BoolArray | None = None) -> FloatArray:
        """Return the reward of each completion, float64 [B].

        The ``allowed`` ones (all, if None) are recorded with ``origin``; the others are scored and not recorded.

        Raises:
            SourceContractError: a reward that breaks its contract.
        """
        place = self._place[completions.prompt].tolist()
        keys = [(where, row.tobytes()) for where, row in zip(place, completions.tokens, strict=True)]
        new = {key: row for row, key in enumerate(keys) if key[1] not in self._known[key[0]]}
        rows = np.array(list(new.values()), dtype=np.int64)
        fresh = dict(zip(new, self._score_new(completions[rows], origin).tolist(), strict=True))
        for (where, text), row in new.items():
            if allowed is None or allowed[row]:
                self._record(where, text, fresh[where, text], origin)
        return np.array([fresh[key] if key in fresh else self._known[key[0]][key[1]] for key in keys])

    def _record(self, where: int, text: bytes, reward: float, origin: str) -> None:
        """Record the ``reward`` of ``text``; completions of lower reward leave the ties."""
        self._known[where][text] = reward
        slack = self._slack(where)
        if not reward <= self.best[where] + slack:
            self._ties[where], self.origin[where] = [], origin
        if reward >= self.best[where] - slack:
            self._ties[where].append(text)
        self.best[where] = max(self.best[where], reward)

    def _score_new(self, completions: Completions, origin: str) -> FloatArray:
        reward = np.empty(len(completions))
        for first in range(0, len(reward), BATCH_SIZE):
            self.on_stage(f"{origin}: {self.scored:,} completions scored")
            rows = slice(first, first + BATCH_SIZE)
            reward[rows] = score_completions(self.task, self.source, completions[rows])
            self.scored += len(reward[rows])
        return reward

    def _slack(self, where: int) -> float:
        best = self.best[where]
        return TIE_TOLERANCE * abs(float(best)) if np.isfinite(best) else 0.0

    def is_best(self, completions: Completions, reward: FloatArray) -> BoolArray:
        """Return which ``reward`` [B] equals the highest one found for its prompt, bool [B]."""
        best = self.best[self._place[completions.prompt]]
        return np.asarray(reward >= best - TIE_TOLERANCE * np.abs(best))

    def span(self) -> tuple[float, float]:
        """Return the minimum and the maximum reward found."""
        every = [value for known in self._known for value in known.values()]
        return min(every), max(every)

    def mean_best(self) -> float:
        """Return the highest reward found, averaged over prompts by their weights."""
        return float(self.task.prompt_weights[self.prompts] @ self.best)

    def top(self, where: int, count: int) -> Completions:
        """Return the ``count`` completions of highest reward for prompt ``prompts[where]``, not sorted."""
        reward = np.array(list(self._known[where].values()))
        rows = np.argsort(-reward, kind="stable")[:count]
        texts = list(self._known[where])
        return self._decoded(where, [texts[row] for row in rows])

    def ties(self, where: int, limit: int | None = None) -> Completions:
        """Return the completions of the highest reward found for prompt ``prompts[where]``, the most likely first.

        Only the first ``limit`` found, where that is given.
        """
        found = self._decoded(where, self._ties[where][:limit])
        return found[np.argsort(-np.round(found.log_reference, 9), kind="stable")]

    def _decoded(self, where: int, texts: Sequence[bytes]) -> Completions:
        tokens = np.frombuffer(b"".join(texts), dtype=self.task.vocabulary.dtype)
        tokens = tokens.reshape(-1, self.task.horizon)
        return encode_completions(self.task, np.full(len(tokens), self.prompts[where]), tokens)[0]


def beam(search: Search, budget: int) -> None:
    """Extend prefixes token by token; the rank is the reward of the prefix with ``<eos>``.

    Prefixes of equal reward are sampled by the reference policy.
    """
    task, vocabulary, reference = search.task, search.task.vocabulary, search.task.reference
    letters = vocabulary.size - 1
    width = budget // (len(search.prompts) * task.horizon * letters)
    width = min(MAX_WIDTH, max(MIN_WIDTH, width))
    for prompt in search.prompts:
        prefixes = np.full((1, task.horizon), vocabulary.pad, dtype=vocabulary.dtype)
        context = np.broadcast_to(reference.start, len(task.prompts))[[prompt]]
        log_prob = np.zeros(1)  # of each prefix under the reference policy
        for time in range(task.horizon):
            token = np.tile(np.arange(letters), len(prefixes))
            row = np.repeat(np.arange(len(prefixes)), letters)
            if reference.available is not None:
                kept = reference.available[context[row], token]
                row, token = row[kept], token[kept]
            if not row.size:
                break
            children = prefixes[row]
            children[:, time] = token
            closed, allowed = encode_completions(task, np.full(len(row), prompt), children)
            reward = search.score(closed, "beam search", allowed)
            log_prob = log_prob[row] + reference.log_probability[context[row], token]
            perturbed = log_prob + search.rng.gumbel(size=len(row))
            chosen = np.lexsort((-perturbed, -reward))[:width]
            prefixes, log_prob = children[chosen], log_prob[chosen]
            context = reference.next_context[context[row[chosen]], token[chosen]]


def cross_entropy(search: Search, budget: int) -> None:
    """Search policies with independent positions: sample, fit to the elite samples, repeat.

    Starts once from all scored completions and once from the best 64.
    """
    samples = max(32, budget // (2 * ROUNDS * len(search.prompts)))
    for count in (100_000, 64):
        starts = [search.top(where, count) for where in range(len(search.prompts))]
        policy = np.stack([_fitted(search.task, one, None) for one in starts])
        for _ in range(ROUNDS):
            texts, allowed = _sampled(search, policy, samples)
            reward = search.score(texts, "cross-entropy method", allowed).reshape(-1, samples)
            reward[~allowed.reshape(-1, samples)] = -np.inf
            tie_break = search.rng.random(reward.shape)
            for where, order in enumerate(
                np.lexsort((tie_break, -reward))[:, : max(2, int(ELITE * samples))]
            ):
                elite = texts[where * samples + order]
                target = _fitted(search.task, elite, policy[where])
                policy[where] += STEP_SIZE * (target - policy[where])


def _fitted(task: Task, texts: Completions, default: FloatArray | None) -> FloatArray:
    """Return the token frequencies at each position of ``texts``, float64 [H, V]; ``default`` where there are none."""
    size = task.vocabulary.size
    if default is None:
        default = np.full((task.horizon, size), 1 / size)
    place, row = np.meshgrid(np.arange(task.horizon), np.arange(len(texts)))
    inside = place < texts.length[row]
    code = place[inside] * size + texts.tokens[inside]
    count = np.bincount(code, minlength=task.horizon * size).reshape(-1, size)
    total = count.sum(axis=1, keepdims=True)
    share = np.where(total > 0, count / np.maximum(total, 1), default)
    return np.asarray((1 - EXPLORATION) * share + EXPLORATION / size)


def _sampled(search: Search, policy: FloatArray, samples: int) -> tuple[Completions, BoolArray]:
    """Return ``samples`` completions per prompt from ``policy`` [N, H, V], grouped by prompt, and which are allowed."""
    task, reference = search.task, search.task.reference
    which = np.repeat(np.arange(len(search.prompts)), samples)
    prompt = search.prompts[which]
    tokens = np.full((len(which), task.horizon), task.vocabulary.pad, dtype=task.vocabulary.dtype)
    context = np.broadcast_to(reference.start, len(task.prompts))[prompt]
    for time in range(task.horizon):
        probability = policy[which, time]
        if reference.available is not None:
            probability = probability * reference.available[context]  # EXPLORATION keeps each above 0
        tokens[:, time] = sample_tokens(probability, search.rng)
        context = reference.next_context[context, tokens[:, time].astype(np.int64)]
    return encode_completions(task, prompt, tokens)


def mean_by_prompt(task: Task, completions: Completions, values: FloatArray) -> float:
    """Return the mean of ``values`` [B] over the completions of each prompt, then over prompts by their weights."""
    prompts = np.unique(completions.prompt)
    means = [float(values[completions.prompt == prompt].mean()) for prompt in prompts]
    return float(task.prompt_weights[prompts] @ np.array(means))
