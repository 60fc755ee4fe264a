"""Best of n: the best by the pay of n completions that the reference policy writes, its law, KL and returns exactly.

Per prompt, with ties at random: pi_n(y) = pi_ref(y) / pi_ref(tie set of y) * (F(r)^n - F(r-)^n), where F is the
distribution function of the pay r(y) under pi_ref. Inside a tie set pi_n / pi_ref is constant, so the levels of pay
alone decide the KL, and with the expected gold of each level the gold: completions need not be listed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokenwalk.agents.exact.completions import MAX_PREFIXES
from tokenwalk.agents.exact.tree import exact_tables, paid_weights
from tokenwalk.envs.tabular import TabularMDP
from tokenwalk.envs.token_model import TokenModel
from tokenwalk.envs.transition import FloatArray, IntArray

TIE_TOLERANCE = 1e-9  # levels of pay within this of each other are one, relative to the largest absolute value
MAX_ROWS = 200_000


class TooManyLevelsError(ValueError):
    """The pay takes too many values to be followed.

    Attributes:
        rows: combinations of prompt, state and level of pay after some tokens.
        levels: levels of pay among them.
        limit: as given, of rows.
    """

    def __init__(self, name: str, rows: int, levels: int, limit: int) -> None:
        super().__init__(
            f"the pay of {name} has {levels:,} levels and, with prompts and states, {rows:,} combinations after the "
            f"same number of tokens, more than the limit of {limit:,}: round the rewards, shorten the horizon or "
            "raise the limit"
        )
        self.rows, self.levels, self.limit = rows, levels, limit


@dataclass(frozen=True, eq=False)
class ReturnLaw:
    """The distribution of the pay under the reference policy, for each prompt: L levels, ascending in each prompt.

    Attributes:
        prompt_weight: float64 [L], the weight of the level's prompt.
        first: int64 [number of prompts], where each prompt's levels begin.
        paid: float64 [L].
        probability: float64 [L], above 0; sums to 1 in each prompt.
        returns: of each source by name, its expectation given the prompt and the level, float64 [L].
    """

    prompt_weight: FloatArray
    first: IntArray
    paid: FloatArray
    probability: FloatArray
    returns: Mapping[str, FloatArray]


@dataclass(frozen=True)
class BestOfN:
    """What the best of ``n`` earns, over prompts by their weights: exact.

    Attributes:
        n: completions that are drawn.
        kl: to the reference policy, in nats.
        bound: log n - (n - 1) / n, which the KL never exceeds and reaches only where there are no ties.
        paid: expected pay of the chosen completion.
        returns: of each source by name.
    """

    n: int
    kl: float
    bound: float
    paid: float
    returns: Mapping[str, float]


def best_of_n_probability(probability: FloatArray, paid: FloatArray, n: int) -> FloatArray:
    """Return the probability with which each of B completions of one prompt is the chosen one, float64 [B].

    Args:
        probability: float64 [B], under the reference policy; sums to 1.
        paid: float64 [B]. Values within 1e-9 of each other, relative to the largest absolute value, are ties.
        n: completions that are drawn, 1 or more.

    Raises:
        ValueError: an n below 1, shapes that disagree, or a distribution that is none.
    """
    _check_n(n)
    if probability.shape != paid.shape or (probability < 0).any() or abs(probability.sum() - 1) > 1e-9:
        raise ValueError(
            f"probability {probability.shape} sums to {probability.sum()} and paid has {paid.shape}: give as many of "
            "both, and probabilities that sum to 1"
        )
    level, _ = _levels(paid)
    mass = np.bincount(level, probability)
    chosen = _chosen(mass, np.zeros(1, dtype=np.int64), n)
    share = np.divide(chosen, mass, out=np.zeros_like(mass), where=mass > 0)
    return np.asarray(probability * share[level])


def return_law(model: TokenModel, *, limit: int = MAX_ROWS, prefixes: int = MAX_PREFIXES) -> ReturnLaw:
    """Return the law of what ``model`` pays under the reference policy.

    One forward pass over the exact tables: the mass of each (prompt, state, pay so far), and the expectation of every
    source there, merged where the pay agrees to 1e-9. On the tree of a source that is no machine that is one step.

    Raises:
        TooManyLevelsError: more than ``limit`` combinations after the same number of tokens.
        TreeTooLargeError: a source is no machine, and the tree has more than ``prefixes``.
    """
    mdp = exact_tables(model, limit=prefixes).mdp
    weights = paid_weights(model.composition)
    per_step = np.stack([table[:, :, 0] for table in mdp.rewards.values()], axis=2)
    at_last = per_step.copy()
    for number, name in enumerate(mdp.rewards):
        at_last[:, :, number] += mdp.last_rewards.get(name, 0.0)
    pay = np.array([weights.get(name, 0.0) for name in mdp.rewards])
    front, over = _Front.starts(mdp, per_step.shape[2]), []
    assert mdp.horizon is not None
    for time in range(mdp.horizon):
        last = time == mdp.horizon - 1
        front, ended = front.step(mdp, at_last if last else per_step, pay, last)
        front, ended = front.merged(), ended.merged()
        if max(len(front.mass), len(ended.mass)) > limit:
            levels = len(np.unique(np.concatenate([front.level, ended.level])))
            raise TooManyLevelsError(model.task.name, max(len(front.mass), len(ended.mass)), levels, limit)
        over.append(ended)
    every = _Front(*(np.concatenate([getattr(one, name) for one in over]) for name in _Front.__slots__))
    return _law(mdp, every.merged())
