"""A walk among the best-paid completions, which also climbs: how the optimum of a reward splits its ties, estimated.

Source: Metropolis et al. 1953, "Equation of State Calculations by Fast Computing Machines".
"""

import numpy as np

from tokenwalk.agents.exact_tokens.completions import Completions, concatenate
from tokenwalk.agents.exact_tokens.encode import draft, resampled
from tokenwalk.agents.exact_tokens.proxy_agreement import TIE_TOLERANCE
from tokenwalk.agents.study.audit.search import BUDGET, Search, beam, imitate
from tokenwalk.envs.arrays import BoolArray
from tokenwalk.envs.rewards.machine import TokenArray

CHAINS, FEWEST = 128, 8  # for each prompt
STEPS = 400  # of each chain; rather fewer chains than fewer steps
LEAPT = 4_096  # texts of each prompt that the chains leap among


def find_best(search: Search, budget: int = BUDGET) -> Completions:
    """Search by all means with about ``budget`` texts; return draws of the reference policy among the best found.

    What ``search`` knows already serves as starting points. The draws are those of ``walk``.
    """
    beam(search, budget // 2)
    imitate(search, budget // 4)
    return walk(search, budget // 4)


def walk(search: Search, budget: int) -> Completions:
    """Return draws from the reference policy restricted to the best-paid completions, estimated; moves the best on.

    Metropolis chains among completions that are paid the best: draw the rest of a text again from the reference
    policy, change one token, turn a stretch of tokens around, or leap to another text that was known at the start.
    Whenever a move is paid better, the chains begin there. Each prompt has the same number of draws, the chains'
    second half, prompt by prompt.
    """
    share = budget // len(search.prompts)
    chains = min(CHAINS, max(FEWEST, share // STEPS))
    steps = left = max(50, share // chains)
    known, best, kept = _Known(search), search.best.copy(), list[Completions]()
    now = known.starts(chains)
    for _ in range(3 * steps):
        if not left:
            break
        moved, allowed, symmetric = _moved(search, known, now)
        pay = search.pay(moved, "walk", allowed)
        if (search.best > best + TIE_TOLERANCE * np.abs(best)).any():
            known, best, kept = _Known(search), search.best.copy(), []
            now, left = known.starts(chains), max(left, steps // 2)
            continue
        with np.errstate(invalid="ignore"):  # -inf - -inf: neither is ever written by the reference policy
            gain = np.nan_to_num(moved.log_reference - now.log_reference, nan=0.0)
        likely = ~symmetric | (np.log(search.rng.random(len(gain))) < gain)
        accepted = np.flatnonzero(allowed & likely & search.is_best(moved, pay))
        now.tokens[accepted], now.length[accepted] = moved.tokens[accepted], moved.length[accepted]
        now.log_reference[accepted] = moved.log_reference[accepted]
        kept.append(now[np.arange(len(now))])
        left -= 1
    every = concatenate(kept[len(kept) // 2 :] or [now])
    return every[np.argsort(every.prompt, kind="stable")]


class _Known:
    """Some of the best-paid completions, to begin at and to leap among: draws of the reference policy among them."""

    def __init__(self, search: Search) -> None:
        self.rng, self.texts = search.rng, [search.ties(w, LEAPT) for w in range(len(search.prompts))]
        self.rows = [{row.tobytes() for row in texts.tokens} for texts in self.texts]
        self.upto = []
        for texts in self.texts:
            with np.errstate(invalid="ignore"):
                share = np.exp(texts.log_reference - texts.log_reference.max())
            self.upto.append(np.cumsum(share if np.isfinite(share).all() else np.ones(len(texts))))

    def _draw(self, where: int, count: int) -> Completions:
        upto = self.upto[where]
        rows = np.searchsorted(upto, self.rng.random(count) * upto[-1], side="right")
        return self.texts[where][np.minimum(rows, len(upto) - 1)]

    def starts(self, chains: int) -> Completions:
        """Return ``chains`` of them for each prompt, prompt by prompt."""
        return concatenate([self._draw(where, chains) for where in range(len(self.texts))])

    def leaps(self, now: Completions) -> TokenArray:
        """Return another of them for each that is one of them, and the others as they are; ``now`` is as ``starts``."""
        tokens = np.array(now.tokens)
        chains = len(now) // len(self.texts)
        for where, known in enumerate(self.rows):
            rows = np.arange(where * chains, (where + 1) * chains)
            rows = rows[[row.tobytes() in known for row in now.tokens[rows]]]
            tokens[rows] = self._draw(where, len(rows)).tokens
        return tokens


def _moved(search: Search, known: _Known, now: Completions) -> tuple[Completions, BoolArray, BoolArray]:
    """Return a proposal for each chain, which are allowed, and which are symmetric moves: those weigh the reference."""
    task, rng = search.task, search.rng
    count, horizon, eos = len(now), task.horizon, task.vocabulary.eos
    kind = rng.integers(4, size=count)
    # A rest drawn again, and a leap, are reversible by themselves: they are draws of the reference policy.
    keep = np.where(kind == 0, rng.integers(horizon, size=count), horizon)
    tokens = resampled(task, now, keep, rng).tokens
    tokens = np.where((kind == 3)[:, None], known.leaps(now), tokens)
    place = np.arange(horizon)
    at, token = rng.integers(horizon, size=count), rng.integers(eos, size=count)
    changed = ((kind == 1)[:, None] & (place == at[:, None])) & (tokens < eos)
    tokens = np.where(changed, token[:, None], tokens)
    turned = _turned(tokens, eos, rng)
    tokens = np.where((kind == 2)[:, None], turned, tokens).astype(task.vocabulary.dtype)
    moved, allowed = draft(task, now.prompt, tokens)
    return moved, allowed, (kind == 1) | (kind == 2)


def _turned(tokens: TokenArray, eos: int, rng: np.random.Generator) -> TokenArray:
    """Return ``tokens`` [B, H], each row with a stretch turned around by a step: back is as likely as forth."""
    count, horizon = tokens.shape
    ends = np.sort(rng.integers(horizon, size=(count, 2)), axis=1)
    first, size = ends[:, :1], ends[:, 1:] - ends[:, :1] + 1
    by = (rng.random((count, 1)) * size).astype(np.int64)
    place = np.arange(horizon)
    inside = (place >= first) & (place < first + size)
    inside &= ((tokens < eos) | ~inside).all(
        axis=1, keepdims=True
    )  # a stretch that reaches past the text stays
    source = np.where(inside, first + (place - first + by) % size, place)
    return np.take_along_axis(tokens, source, axis=1)
