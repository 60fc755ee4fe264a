"""The best-paid completions where they cannot be enumerated: what is known of them, beam search and policy search.

All of it is an estimate from below: what is found is paid what it is paid, and something better may exist.

Sources: Rubinstein 1999 (the cross-entropy method); Kool, van Hoof and Welling 2019, "Stochastic Beams and Where to
Find Them" (draws without replacement by Gumbel noise).
"""

from collections.abc import Callable, Sequence

import numpy as np

from tokenwalk.agents.exact_tokens.completions import Completions, draw
from tokenwalk.agents.exact_tokens.encode import draft
from tokenwalk.agents.exact_tokens.proxy_agreement import TIE_TOLERANCE
from tokenwalk.envs.arrays import BoolArray, FloatArray
from tokenwalk.envs.rewards.source import Source, score_strictly
from tokenwalk.envs.tasks import Task

BUDGET = 200_000  # texts that are scored, about
AT_ONCE = 1_024  # texts that the reward is shown in one call
WIDEST, NARROWEST = 512, 8  # prefixes that a beam keeps
ROUNDS = 24  # of the policy search
ELITE = 0.1  # of its draws, which the next round imitates
LEARNED = 0.7  # how far the next round goes towards them
EXPLORED = 0.01  # what stays uniform

OnStage = Callable[[str], None]


def quiet(stage: str) -> None:
    """Tell nobody about ``stage``."""
    del stage


def score_completions(task: Task, source: Source, completions: Completions) -> FloatArray:
    """Return what ``source`` pays for each whole completion, float64 [B]. Raises SourceContractError."""
    if source.paid == "end":
        return score_strictly(source, completions.batch(task), task.vocabulary)
    return completions.scores(task, [source])[source.name]


class Search:
    """Every text that was scored, by prompt, and the best of them; no text is scored twice.

    Attributes:
        task, source, rng: as given.
        prompts: int64 [N], the numbers of the prompts that the task gives.
        best: float64 [N], the largest pay found after each of them.
        origin: N texts: what found it.
        told: hears of each stage.
    """

    def __init__(self, task: Task, source: Source, rng: np.random.Generator, told: OnStage = quiet) -> None:
        self.task, self.source, self.rng, self.told = task, source, rng, told
        self.prompts = np.flatnonzero(task.prompt_weights > 0)
        self.best = np.full(len(self.prompts), -np.inf)
        self.origin = [""] * len(self.prompts)
        self.scored = 0
        self._place = np.zeros(len(task.prompts), dtype=np.int64)
        self._place[self.prompts] = np.arange(len(self.prompts))
        self._known: list[dict[bytes, float]] = [{} for _ in self.prompts]
        self._ties: list[list[bytes]] = [[] for _ in self.prompts]

    def pay(self, completions: Completions, origin: str, allowed: BoolArray | None = None) -> FloatArray:
        """Return what each completion is paid, float64 [B].

        Those that are ``allowed`` (all, if None) count as found by ``origin``; the others are scored and forgotten.

        Raises:
            SourceContractError: a reward that returned what it must not.
        """
        place = self._place[completions.prompt].tolist()
        keys = [(where, row.tobytes()) for where, row in zip(place, completions.tokens, strict=True)]
        asked = {key: row for row, key in enumerate(keys) if key[1] not in self._known[key[0]]}
        rows = np.array(list(asked.values()), dtype=np.int64)
        fresh = dict(zip(asked, self._score(completions[rows], origin).tolist(), strict=True))
        for (where, text), row in asked.items():
            if allowed is None or allowed[row]:
                self._keep(where, text, fresh[where, text], origin)
        return np.array([fresh[key] if key in fresh else self._known[key[0]][key[1]] for key in keys])

    def _keep(self, where: int, text: bytes, pay: float, origin: str) -> None:
        """Note that ``text`` is paid ``pay`` after a prompt; what it surpasses is no longer among the best."""
        self._known[where][text] = pay
        slack = self._slack(where)
        if not pay <= self.best[where] + slack:
            self._ties[where], self.origin[where] = [], origin
        if pay >= self.best[where] - slack:
            self._ties[where].append(text)
        self.best[where] = max(self.best[where], pay)

    def _score(self, completions: Completions, origin: str) -> FloatArray:
        reward = np.empty(len(completions))
        for first in range(0, len(reward), AT_ONCE):
            self.told(f"{origin}: {self.scored:,} texts scored")
            rows = slice(first, first + AT_ONCE)
            reward[rows] = score_completions(self.task, self.source, completions[rows])
            self.scored += len(reward[rows])
        return reward

    def _slack(self, where: int) -> float:
        best = self.best[where]
        return TIE_TOLERANCE * abs(float(best)) if np.isfinite(best) else 0.0

    def is_best(self, completions: Completions, reward: FloatArray) -> BoolArray:
        """Return which are paid as much as the best that was found after their prompt, bool [B]."""
        best = self.best[self._place[completions.prompt]]
        return np.asarray(reward >= best - TIE_TOLERANCE * np.abs(best))

    def span(self) -> tuple[float, float]:
        """Return the least and the largest pay seen."""
        every = [value for known in self._known for value in known.values()]
        return min(every), max(every)

    def mean_best(self) -> float:
        """Return the best pay found, over prompts by their weights."""
        return float(self.task.prompt_weights[self.prompts] @ self.best)

    def top(self, where: int, count: int) -> Completions:
        """Return the ``count`` best-paid completions found after prompt ``prompts[where]``, in no order."""
        pay = np.array(list(self._known[where].values()))
        rows = np.argsort(-pay, kind="stable")[:count]
        texts = list(self._known[where])
        return self._written(where, [texts[row] for row in rows])

    def ties(self, where: int, most: int | None = None) -> Completions:
        """Return the completions found that are paid the best after prompt ``prompts[where]``, the likeliest first.

        Of the ``most`` found first, where that is given.
        """
        found = self._written(where, self._ties[where][:most])
        return found[np.argsort(-np.round(found.log_reference, 9), kind="stable")]

    def _written(self, where: int, texts: Sequence[bytes]) -> Completions:
        tokens = np.frombuffer(b"".join(texts), dtype=self.task.vocabulary.dtype)
        tokens = tokens.reshape(-1, self.task.horizon)
        return draft(self.task, np.full(len(tokens), self.prompts[where]), tokens)[0]


def beam(search: Search, budget: int) -> None:
    """Grow texts token by token, each closed by ``<eos>`` to be ranked; equals are drawn by the reference policy."""
    task, vocabulary, reference = search.task, search.task.vocabulary, search.task.reference
    letters = vocabulary.size - 1
    width = budget // (len(search.prompts) * task.horizon * letters)
    width = min(WIDEST, max(NARROWEST, width))
    for prompt in search.prompts:
        prefixes = np.full((1, task.horizon), vocabulary.pad, dtype=vocabulary.dtype)
        context = np.broadcast_to(reference.start, len(task.prompts))[[prompt]]
        chance = np.zeros(1)  # log-probability of each prefix under the reference policy
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
            closed, allowed = draft(task, np.full(len(row), prompt), children)
            pay = search.pay(closed, "beam search", allowed)
            chance = chance[row] + reference.log_probability[context[row], token]
            drawn = chance + search.rng.gumbel(size=len(row))
            chosen = np.lexsort((-drawn, -pay))[:width]
            prefixes, chance = children[chosen], chance[chosen]
            context = reference.next_context[context[row[chosen]], token[chosen]]


def imitate(search: Search, budget: int) -> None:
    """Search policies of independent positions: draw texts, imitate the best-paid tenth, draw again.

    Begins once at what is known as a whole and once at the best of it.
    """
    draws = max(32, budget // (2 * ROUNDS * len(search.prompts)))
    for count in (100_000, 64):
        starts = [search.top(where, count) for where in range(len(search.prompts))]
        policy = np.stack([_imitated(search.task, one, None) for one in starts])
        for _ in range(ROUNDS):
            texts, allowed = _drawn(search, policy, draws)
            pay = search.pay(texts, "policy search", allowed).reshape(-1, draws)
            pay[~allowed.reshape(-1, draws)] = -np.inf
            chance = search.rng.random(pay.shape)
            for where, order in enumerate(np.lexsort((chance, -pay))[:, : max(2, int(ELITE * draws))]):
                elite = texts[where * draws + order]
                aim = _imitated(search.task, elite, policy[where])
                policy[where] += LEARNED * (aim - policy[where])


def _imitated(task: Task, texts: Completions, otherwise: FloatArray | None) -> FloatArray:
    """Return how often each token stands at each place of ``texts``, float64 [H, V]; ``otherwise`` where none stands."""
    size = task.vocabulary.size
    if otherwise is None:
        otherwise = np.full((task.horizon, size), 1 / size)
    place, row = np.meshgrid(np.arange(task.horizon), np.arange(len(texts)))
    written = place < texts.length[row]
    code = place[written] * size + texts.tokens[written]
    count = np.bincount(code, minlength=task.horizon * size).reshape(-1, size)
    total = count.sum(axis=1, keepdims=True)
    share = np.where(total > 0, count / np.maximum(total, 1), otherwise)
    return np.asarray((1 - EXPLORED) * share + EXPLORED / size)


def _drawn(search: Search, policy: FloatArray, draws: int) -> tuple[Completions, BoolArray]:
    """Return ``draws`` texts for each prompt from ``policy`` [N, H, V], prompt by prompt, and which are allowed."""
    task, reference = search.task, search.task.reference
    which = np.repeat(np.arange(len(search.prompts)), draws)
    prompt = search.prompts[which]
    tokens = np.full((len(which), task.horizon), task.vocabulary.pad, dtype=task.vocabulary.dtype)
    context = np.broadcast_to(reference.start, len(task.prompts))[prompt]
    for time in range(task.horizon):
        probability = policy[which, time]
        if reference.available is not None:
            probability = probability * reference.available[context]  # EXPLORED leaves something to each
        tokens[:, time] = draw(probability, search.rng)
        context = reference.next_context[context, tokens[:, time].astype(np.int64)]
    return draft(task, prompt, tokens)


def mean_by_prompt(task: Task, draws: Completions, values: FloatArray) -> float:
    """Return the mean of ``values`` [B] over ``draws``, of each prompt, then by the prompts' weights."""
    prompts = np.unique(draws.prompt)
    means = [float(values[draws.prompt == prompt].mean()) for prompt in prompts]
    return float(task.prompt_weights[prompts] @ np.array(means))
