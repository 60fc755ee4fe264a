"""Best of n: of n completions that a policy writes, mostly the reference, the one that is paid best; exact law and KL.

Per prompt, with ties at random: pi_n(y) = pi_ref(y) / pi_ref(tie set of y) * (F(r)^n - F(r-)^n), where F is the
distribution function of the pay r(y) under pi_ref. Within a tie set pi_n / pi_ref is constant, so the levels of pay
decide the KL, and with the expected gold of each level the gold: completions need not be listed.

Source: Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment policy" (the bound and why it is one).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokenwalk.agents.exact.evaluation import reference_policy
from tokenwalk.agents.exact_tokens.completions import MAX_PREFIXES, enumerate_completions
from tokenwalk.agents.exact_tokens.exact_tables import exact_tables, train_weights
from tokenwalk.agents.exact_tokens.proxy_agreement import tied_levels
from tokenwalk.agents.exact_tokens.token_policy import Policy
from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.tabular import TabularMDP
from tokenwalk.envs.token_model import TokenModel

MAX_ROWS = 50_000


class TooManyLevelsError(ValueError):
    """The pay takes too many values to be followed.

    Attributes:
        rows: combinations of starting state, state and pay so far after the same number of tokens.
        levels: values of the pay among them.
        limit: as given, of rows.
    """

    def __init__(self, name: str, rows: int, levels: int, limit: int) -> None:
        super().__init__(
            f"after the same number of tokens the pay of {name} takes {levels:,} values, {rows:,} combinations with "
            f"the states, more than the limit of {limit:,}: round the rewards, shorten the horizon or raise the limit"
        )
        self.rows, self.levels, self.limit = rows, levels, limit


@dataclass(frozen=True, eq=False)
class ReturnLaw:
    """The distribution of the pay under the policy that writes after one prompt, in L levels.

    Attributes:
        weight: of this prompt, or of all the prompts whose law this is.
        probability: float64 [L], of the levels in ascending order of pay; above 0, sums to 1.
        paid: float64 [L], the expected pay of each level (the pay itself, up to rounding).
        returns: of each source by name, its expectation given the level, float64 [L].
    """

    weight: float
    probability: FloatArray
    paid: FloatArray
    returns: Mapping[str, FloatArray]


@dataclass(frozen=True)
class BestOfN:
    """What the best of ``n`` earns, over prompts by their weights.

    Attributes:
        n: completions that are drawn.
        kl: to the policy that they are drawn from, in nats.
        bound: log n - (n - 1) / n, which the KL never exceeds; it reaches it where there are no ties.
        paid: expected pay of the chosen completion.
        returns: its expected return by each source, by name.
    """

    n: int
    kl: float
    bound: float
    paid: float
    returns: Mapping[str, float]


def best_of_n(laws: Sequence[ReturnLaw], n: int) -> BestOfN:
    """Return what the best of ``n`` earns; the KL is that of each prompt, averaged.

    Raises:
        ValueError: an n below 1.
    """
    check_n(n)
    kl, paid, returns = 0.0, 0.0, dict.fromkeys(laws[0].returns, 0.0)
    for law in laws:
        chosen = _chosen(law.probability, n)
        drawn = chosen > 0
        ratio = np.log(chosen[drawn] / law.probability[drawn])
        kl += law.weight * max(0.0, float(chosen[drawn] @ ratio))  # for n = 1 rounding leaves -1e-17
        paid += law.weight * float(chosen @ law.paid)
        for name, table in law.returns.items():
            returns[name] += law.weight * float(chosen @ table)
    return BestOfN(n, kl, float(np.log(n) - (n - 1) / n), paid, returns)


def best_of_n_probability(probability: FloatArray, paid: FloatArray, n: int) -> FloatArray:
    """Return the probability that each of B completions of one prompt is the chosen one, float64 [B].

    Args:
        probability: float64 [B], under the reference policy; sums to 1.
        paid: float64 [B]; values within 1e-9 of each other, relative to the largest, are ties.
        n: completions that are drawn.

    Raises:
        ValueError: an n below 1, shapes that disagree, or probabilities that do not sum to 1.
    """
    check_n(n)
    if probability.shape != paid.shape or (probability < 0).any() or not abs(probability.sum() - 1) <= 1e-9:
        raise ValueError(
            f"probability {probability.shape} sums to {probability.sum()} and paid has shape {paid.shape}: give one of "
            "each for every completion, and probabilities that sum to 1"
        )
    possible, chosen = probability > 0, np.zeros(probability.shape)
    level = tied_levels(paid[possible])
    mass = np.bincount(level, probability[possible]).astype(np.float64)
    chosen[possible] = probability[possible] * (_chosen(mass, n) / mass)[level]
    return chosen


def check_n(n: int) -> None:
    """Raise ValueError unless ``n`` is an integer of 1 or more."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n is {n!r}: give an integer of 1 or more")


def _chosen(mass: FloatArray, n: int) -> FloatArray:
    """Return F^n - F-^n for each level of that ``mass`` [L] > 0 in ascending order, float64 [L].

    Written as F^n (1 - (1 - mass / F)^n), with log F from the mass above where F is near 1: the difference of two
    powers would lose the digits of a rare level.
    """
    if n == 1:  # the law itself: the rounding below would give it a KL to itself
        return mass
    upto = np.cumsum(mass)
    above = np.append(np.cumsum(mass[:0:-1])[::-1], 0.0)
    with np.errstate(divide="ignore"):  # the lowest level: nothing is below it
        log_below = np.log1p(-np.minimum(mass / upto, 1.0))
        log_upto = np.where(above < 0.5, np.log1p(-np.minimum(above, 0.5)), np.log(upto))
    return np.asarray(np.exp(n * log_upto) * -np.expm1(n * log_below))


def return_laws(model: TokenModel, *, limit: int = MAX_ROWS, prefixes: int = MAX_PREFIXES) -> list[ReturnLaw]:
    """Return the law of what ``model`` pays under the reference policy, one for each starting state.

    A forward pass over the exact tables follows the mass of each (starting state, state, pay so far) and the
    expectation of every source there, merged where the pay agrees to 1e-9. Prompts that start alike share a law.

    Args:
        model: the task and what it pays.
        limit: combinations after the same number of tokens.
        prefixes: of the tree, where a source is no machine.

    Raises:
        TooManyLevelsError: more combinations than ``limit``.
        TreeTooLargeError: more prefixes than that.
    """
    mdp = exact_tables(model, limit=prefixes).mdp
    assert mdp.horizon is not None  # every token task has one
    weights = train_weights(model.composition)
    step = np.stack([table[:, :, 0] for table in mdp.rewards.values()], axis=2)
    final = step + np.stack(
        [mdp.last_rewards.get(name, np.zeros(step.shape[:2])) for name in mdp.rewards], axis=2
    )
    pay = np.array([weights.get(name, 0.0) for name in mdp.rewards])
    front, ended = _Drawn.before(mdp, len(pay)), []
    for time in range(mdp.horizon):
        at_horizon = time == mdp.horizon - 1
        grown, over = front.grown(mdp, final if at_horizon else step, pay)
        ended.append(grown[over | at_horizon].without_state().merged())
        front = grown[~(over | at_horizon)].merged()
        if (rows := len(front.mass)) > limit:
            raise TooManyLevelsError(model.task.name, rows, int(tied_levels(front.paid).max()) + 1, limit)
    every = _concatenate(ended).merged()
    return [_law(mdp, every[every.start == start], int(start), pay) for start in np.unique(every.start)]


def policy_laws(model: TokenModel, policy: Policy, *, limit: int = MAX_PREFIXES) -> list[ReturnLaw]:
    """Return the law of the pay after each prompt under any policy, from all the completions that it writes.

    Raises:
        TreeTooLargeError: they have more than ``limit`` prefixes.
    """
    every = enumerate_completions(model.task, policy, limit=limit)
    scores = every.scores(model.task, model.composition.sources)
    weights = train_weights(model.composition)
    paid = sum((weight * scores[name] for name, weight in weights.items()), np.zeros(len(every)))
    laws = []
    for prompt in np.unique(every.prompt):
        rows = np.flatnonzero((every.prompt == prompt) & (every.log_prob > -np.inf))
        probability, level = np.exp(every.log_prob[rows]), tied_levels(paid[rows])
        mass = np.bincount(level, probability)
        returns = {
            name: np.bincount(level, probability * table[rows]) / mass for name, table in scores.items()
        }
        means = np.bincount(level, probability * paid[rows]) / mass
        laws.append(ReturnLaw(float(model.task.prompt_weights[prompt]), mass / mass.sum(), means, returns))
    return laws


@dataclass(frozen=True, eq=False)
class _Drawn:
    """B sets of prefixes that started alike, have led to the same state and were paid the same."""

    start: IntArray  # [B]
    state: IntArray  # [B]
    paid: FloatArray  # [B], so far
    mass: FloatArray  # [B], given the start
    earned: FloatArray  # [B, K]: the mass times the expectation of each source so far

    @classmethod
    def before(cls, mdp: TabularMDP, n_sources: int) -> "_Drawn":
        start = np.flatnonzero(mdp.start)
        zeros = np.zeros((len(start), n_sources))
        return cls(start, start, np.zeros(len(start)), np.ones(len(start)), zeros)

    def __getitem__(self, rows: BoolArray) -> "_Drawn":
        return _Drawn(self.start[rows], self.state[rows], self.paid[rows], self.mass[rows], self.earned[rows])

    def without_state(self) -> "_Drawn":
        return _Drawn(self.start, np.zeros_like(self.state), self.paid, self.mass, self.earned)

    def grown(self, mdp: TabularMDP, reward: FloatArray, pay: FloatArray) -> tuple["_Drawn", BoolArray]:
        """Return them with one more token of every kind, and which ended; ``reward`` is [S, A, K], ``pay`` [K]."""
        probability = reference_policy(mdp)[0][self.state]
        row, action = np.nonzero(probability)
        share, state = probability[row, action], self.state[row]
        mass, gained = self.mass[row] * share, reward[state, action]
        earned = self.earned[row] * share[:, None] + mass[:, None] * gained
        following, over = mdp.next_state[state, action, 0], mdp.terminated[state, action, 0]
        return _Drawn(self.start[row], following, self.paid[row] + gained @ pay, mass, earned), over

    def merged(self) -> "_Drawn":
        """Return them with those of the same start, state and level of pay made one."""
        if not len(self.mass):
            return self
        keys = np.stack([self.start, self.state, tied_levels(self.paid)], axis=1)
        sizes = keys.max(axis=0) + 1
        code = np.ravel_multi_index(tuple(keys.T), tuple(sizes))
        _, first, group = np.unique(code, return_index=True, return_inverse=True)
        mass = np.bincount(group, self.mass).astype(np.float64)
        earned = np.stack([np.bincount(group, column).astype(np.float64) for column in self.earned.T], axis=1)
        return _Drawn(self.start[first], self.state[first], self.paid[first], mass, earned)


def _concatenate(parts: Sequence[_Drawn]) -> _Drawn:
    names = ("start", "state", "paid", "mass", "earned")
    return _Drawn(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _law(mdp: TabularMDP, drawn: _Drawn, start: int, pay: FloatArray) -> ReturnLaw:
    """Return the law of the completions ``drawn`` from ``start``, which are all of them."""
    drawn = drawn[drawn.mass > 0]
    order = np.argsort(drawn.paid)
    mass, means = drawn.mass[order], (drawn.earned / drawn.mass[:, None])[order]
    returns = dict(zip(mdp.rewards, means.T, strict=True))
    return ReturnLaw(float(mdp.start[start]), mass / mass.sum(), means @ pay, returns)
