"""Markov chain Monte Carlo over the completions of highest reward: samples of the reward's optimum, with its ties.

Source: Metropolis et al. 1953, "Equation of State Calculations by Fast Computing Machines".
"""

import numpy as np

from tokenwalk.agents.exact.bellman import TIE_TOLERANCE
from tokenwalk.agents.exact_tokens.completions import Completions, concatenate
from tokenwalk.agents.exact_tokens.encode import encode_completions, resampled
from tokenwalk.agents.study.audit.search import BUDGET, Search, beam, cross_entropy
from tokenwalk.envs.arrays import BoolArray
from tokenwalk.envs.rewards.machine import TokenArray

MAX_CHAINS, MIN_CHAINS = 128, 8  # for each prompt
MIN_STEPS = 400  # of each chain; a small budget reduces the chains first
JUMP_TARGETS = 4_096  # completions of each prompt that a chain may jump to


def find_best(search: Search, budget: int = BUDGET) -> Completions:
    """Run all searches with about ``budget`` completions; return samples of the optimum, see ``mcmc``.

    The completions already scored by ``search`` are starting points.
    """
    beam(search, budget // 2)
    cross_entropy(search, budget // 4)
    return mcmc(search, budget // 4)


def mcmc(search: Search, budget: int) -> Completions:
    """Return samples of the reference policy restricted to the highest reward found, [N * D], grouped by prompt.

    The samples are the second half of Metropolis chains. A move resamples the rest of a completion from the reference
    policy, changes one token, rotates a span of tokens, or jumps to a completion known at the start. A move with a
    higher reward restarts all chains from there.
    """
    share = budget // len(search.prompts)
    chains = min(MAX_CHAINS, max(MIN_CHAINS, share // MIN_STEPS))
    steps = left = max(50, share // chains)
    known, best, kept = _JumpTargets(search), search.best.copy(), list[Completions]()
    now = known.starts(chains)
    for _ in range(3 * steps):
        if not left:
            break
        moved, allowed, symmetric = _proposal(search, known, now)
        reward = search.score(moved, "MCMC", allowed)
        if (search.best > best + TIE_TOLERANCE * np.abs(best)).any():
            known, best, kept = _JumpTargets(search), search.best.copy(), []
            now, left = known.starts(chains), max(left, steps // 2)
            continue
        with np.errstate(invalid="ignore"):  # -inf - -inf: both have probability 0 under the reference policy
            gain = np.nan_to_num(moved.log_reference - now.log_reference, nan=0.0)
        likely = ~symmetric | (np.log(search.rng.random(len(gain))) < gain)
        accepted = np.flatnonzero(allowed & likely & search.is_best(moved, reward))
        now.tokens[accepted], now.length[accepted] = moved.tokens[accepted], moved.length[accepted]
        now.log_reference[accepted] = moved.log_reference[accepted]
        kept.append(now[np.arange(len(now))])
        left -= 1
    every = concatenate(kept[len(kept) // 2 :] or [now])
    return every[np.argsort(every.prompt, kind="stable")]


class _JumpTargets:
    """Some completions of highest reward, sampled by the reference policy: where chains start and jump to."""

    def __init__(self, search: Search) -> None:
        self.rng, self.texts = search.rng, [search.ties(w, JUMP_TARGETS) for w in range(len(search.prompts))]
        self.rows = [{row.tobytes() for row in texts.tokens} for texts in self.texts]
        self.cumulative = []
        for texts in self.texts:
            with np.errstate(invalid="ignore"):
                share = np.exp(texts.log_reference - texts.log_reference.max())
            self.cumulative.append(np.cumsum(share if np.isfinite(share).all() else np.ones(len(texts))))

    def _sample(self, where: int, count: int) -> Completions:
        cumulative = self.cumulative[where]
        rows = np.searchsorted(cumulative, self.rng.random(count) * cumulative[-1], side="right")
        return self.texts[where][np.minimum(rows, len(cumulative) - 1)]

    def starts(self, chains: int) -> Completions:
        """Return ``chains`` of them for each prompt, grouped by prompt."""
        return concatenate([self._sample(where, chains) for where in range(len(self.texts))])

    def jumps(self, now: Completions) -> TokenArray:
        """Return the tokens of ``now``, [B, H], with each row that is a target replaced by a sampled target."""
        tokens = np.array(now.tokens)
        chains = len(now) // len(self.texts)
        for where, known in enumerate(self.rows):
            rows = np.arange(where * chains, (where + 1) * chains)
            rows = rows[[row.tobytes() in known for row in now.tokens[rows]]]
            tokens[rows] = self._sample(where, len(rows)).tokens
        return tokens


def _proposal(
    search: Search, known: _JumpTargets, now: Completions
) -> tuple[Completions, BoolArray, BoolArray]:
    """Return a proposal for each chain, whether the mask allows it, and whether the move is symmetric, bool [B]."""
    task, rng = search.task, search.rng
    count, horizon, eos = len(now), task.horizon, task.vocabulary.eos
    kind = rng.integers(4, size=count)
    # A resampled rest and a jump are samples of the reference policy, so they need no acceptance ratio.
    keep = np.where(kind == 0, rng.integers(horizon, size=count), horizon)
    tokens = resampled(task, now, keep, rng).tokens
    tokens = np.where((kind == 3)[:, None], known.jumps(now), tokens)
    place = np.arange(horizon)
    at, token = rng.integers(horizon, size=count), rng.integers(eos, size=count)
    changed = ((kind == 1)[:, None] & (place == at[:, None])) & (tokens < eos)
    tokens = np.where(changed, token[:, None], tokens)
    rotated = _rotated(tokens, eos, rng)
    tokens = np.where((kind == 2)[:, None], rotated, tokens).astype(task.vocabulary.dtype)
    moved, allowed = encode_completions(task, now.prompt, tokens)
    return moved, allowed, (kind == 1) | (kind == 2)


def _rotated(tokens: TokenArray, eos: int, rng: np.random.Generator) -> TokenArray:
    """Return ``tokens`` [B, H], each row with one span rotated by a random shift: the move is symmetric."""
    count, horizon = tokens.shape
    ends = np.sort(rng.integers(horizon, size=(count, 2)), axis=1)
    first, size = ends[:, :1], ends[:, 1:] - ends[:, :1] + 1
    by = (rng.random((count, 1)) * size).astype(np.int64)
    place = np.arange(horizon)
    inside = (place >= first) & (place < first + size)
    # A span that reaches beyond the end of the completion is not rotated.
    inside &= ((tokens < eos) | ~inside).all(axis=1, keepdims=True)
    origin = np.where(inside, first + (place - first + by) % size, place)
    return np.take_along_axis(tokens, origin, axis=1)
