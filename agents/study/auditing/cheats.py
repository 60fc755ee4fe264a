"""The canonical cheats: what a policy may write that needs no understanding, and what a reward pays for it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from tokenwalk.agents.exact.completions import Completions
from tokenwalk.agents.study.auditing.drafts import blank, draft, redrawn
from tokenwalk.agents.study.auditing.keywords import Word
from tokenwalk.agents.study.auditing.search import AT_ONCE, score_completions
from tokenwalk.envs.rewards.source import Source
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.transition import FloatArray, IntArray

Pay = Callable[[Completions], FloatArray]

MOST_TEXTS = 20_000  # that are scored to find which pair of tokens is paid most
FOLLOWED = 8  # best-paid pairs to which a third token is added


@dataclass(frozen=True, eq=False)
class Candidates:
    """Cheats of one kind, C of them, each written after each of N prompts.

    Attributes:
        name: of the kind.
        completions: [C * N], cheat by cheat, and in each the prompts in one order.
        count: C.
    """

    name: str
    completions: Completions
    count: int

    def __getitem__(self, cheats: IntArray) -> "Candidates":
        """Return those of the numbers ``cheats`` [D], each from 0 to C - 1."""
        rows = np.arange(len(self.completions)).reshape(self.count, -1)[cheats]
        return Candidates(self.name, self.completions[rows.reshape(-1)], len(cheats))

    def mean(self, task: Task, values: FloatArray) -> FloatArray:
        """Return the mean of ``values`` [C * N] over prompts by their weights, float64 [C]."""
        weight = task.prompt_weights[self.completions.prompt].reshape(self.count, -1)
        return np.asarray((weight * values.reshape(self.count, -1)).sum(axis=1) / weight.sum(axis=1))


@dataclass(frozen=True)
class Cheat:
    """A cheat as it is shown.

    Attributes:
        name: of its kind.
        text: what it writes (after the first prompt).
        reward: what it is paid, over prompts by their weights.
        gold: what it truly earns; None where nothing says.
    """

    name: str
    text: str
    reward: float
    gold: float | None


def candidates(task: Task, pay: Pay, words: Iterable[Word], rng: np.random.Generator) -> list[Candidates]:
    """Return the cheats of ``task`` by kind; a kind that the mask or the horizon rules out is left out.

    ``empty``: ``<eos>`` at once. ``repetition``: one token up to the horizon, each of them. ``echo``: the prompt.
    ``keyword stuffing``: a word of two tokens or more again and again, for the best-paid pairs, the same with a third
    token, and ``words``. ``longest``: a draw of the reference policy that never takes ``<eos>``.

    Args:
        pay: what decides which pairs are followed.
        words: such as ``spelled`` and ``stretches`` find.
        rng: of the draw.
    """
    prompts = np.flatnonzero(task.prompt_weights > 0)
    found = [
        written(task, "empty", [()], prompts),
        written(
            task, "repetition", [(token,) * task.horizon for token in range(task.vocabulary.eos)], prompts
        ),
        _echo(task, prompts),
        _stuffed(task, pay, list(words), prompts),
        _longest(task, prompts, rng),
    ]
    return [one for one in found if one is not None]


def choose(task: Task, one: Candidates, reward: Pay, gold: Pay | None) -> Cheat:
    """Return the best-paid cheat of a kind; among equals the one of the least gold, then the first."""
    paid = one.mean(task, reward(one.completions))
    top = np.flatnonzero(paid >= paid.max() - 1e-9 * abs(paid.max()))
    true = None
    if gold is not None:
        earned = one[top].mean(task, gold(one[top].completions))
        top, true = top[[earned.argmin()]], float(earned.min())
    text = one[top[:1]].completions.texts(task)[0]
    return Cheat(one.name, text, float(paid[top[0]]), true)


def written(task: Task, name: str, rows: Sequence[Word], prompts: IntArray) -> Candidates | None:
    """Return ``rows`` as cheats of ``name``, those that are allowed after every one of ``prompts``; None for none."""
    tokens = np.full((len(rows), task.horizon), task.vocabulary.pad, dtype=task.vocabulary.dtype)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row[: task.horizon]
    every, allowed = draft(task, np.tile(prompts, len(rows)), np.repeat(tokens, len(prompts), axis=0))
    kept = np.flatnonzero(allowed.reshape(len(rows), -1).all(axis=1))
    return Candidates(name, every, len(rows))[kept] if kept.size else None


def _echo(task: Task, prompts: IntArray) -> Candidates | None:
    """Return the prompts as their own answers, where they are texts and fit the horizon."""
    ids = [task.vocabulary.encode(task.prompts[prompt]) for prompt in prompts]
    fits = [row for row, prompt in enumerate(ids) if 0 < len(prompt) <= task.horizon]
    tokens = np.full((len(fits), task.horizon), task.vocabulary.pad, dtype=task.vocabulary.dtype)
    for number, row in enumerate(fits):
        tokens[number, : len(ids[row])] = ids[row]
    every, allowed = draft(task, prompts[fits], tokens)
    return Candidates("echo", every[allowed], 1) if allowed.any() else None


def _longest(task: Task, prompts: IntArray, rng: np.random.Generator) -> Candidates | None:
    """Return a draw of the reference policy after each prompt that takes ``<eos>`` nowhere."""
    empty = blank(task, prompts)
    drawn = redrawn(task, empty, np.zeros(len(prompts), dtype=np.int64), rng, without_eos=True)
    return None if task.vocabulary.eos in drawn.tokens else Candidates("longest", drawn, 1)


def _stuffed(task: Task, pay: Pay, words: list[Word], prompts: IntArray) -> Candidates | None:
    """Return the words that are paid most, repeated; None where nothing of two tokens fits more than once."""
    if task.horizon < 3:
        return None
    letters = _letters(task, pay, prompts)
    pairs = list(product(letters, letters))
    grown = [(*pair, token) for pair in _best_words(task, pay, pairs, prompts) for token in letters]
    every = dict.fromkeys([*words, *pairs, *grown])
    rows = [row for word in every if len(set(word)) > 1 for row in _repeated(word, task.horizon)]
    return written(task, "keyword stuffing", list(dict.fromkeys(rows)), prompts) if rows else None


def _repeated(word: Word, horizon: int) -> list[Word]:
    """Return ``word`` again and again: up to the horizon, and as often as it fits whole; none of that if once."""
    times = horizon // len(word)
    cut = [(word * (times + 1))[:horizon]] if len(word) < horizon else []
    return [*cut, word * times] if times > 1 else cut


def _letters(task: Task, pay: Pay, prompts: IntArray) -> list[int]:
    """Return the tokens whose pairs are tried: all, or the best paid by themselves where there are too many."""
    most = max(2, int((MOST_TEXTS / (2 * len(prompts))) ** 0.5))
    every = list(range(task.vocabulary.eos))
    if len(every) <= most:
        return every
    alone = written(task, "repetition", [(token,) * task.horizon for token in every], prompts)
    if alone is None:  # the mask forbids them: nothing ranks the tokens
        return every[:most]
    order = np.argsort(-alone.mean(task, pay(alone.completions)), kind="stable")[:most]
    return [int(token) for token in np.unique(alone[order].completions.tokens[:, 0])]


def _best_words(task: Task, pay: Pay, words: Sequence[Word], prompts: IntArray) -> list[Word]:
    """Return the ``FOLLOWED`` of ``words`` that are paid most when they are repeated."""
    rows = [(word * task.horizon)[: task.horizon] for word in words]
    found = written(task, "pairs", rows, prompts)
    if found is None:
        return []
    best = np.argsort(-found.mean(task, pay(found.completions)), kind="stable")[:FOLLOWED]
    size = len(words[0])
    first = found[best].completions.tokens.reshape(len(best), -1, task.horizon)[:, 0, :size]
    return [tuple(int(token) for token in word) for word in first]


def payer(task: Task, source: Source) -> Pay:
    """Return what scores whole completions by ``source``, float64 [B], in calls of 1,024 texts."""

    def pay(completions: Completions) -> FloatArray:
        parts = [
            score_completions(task, source, completions[first : first + AT_ONCE])
            for first in range(0, len(completions), AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    return pay
