"""Best of n: the completion of the largest reward among n samples of a policy; its exact distribution and KL.

Per prompt, with ties at random: pi_n(y) = pi_ref(y) / pi_ref(tie set of y) * (F(r)^n - F(r-)^n), where F is the
distribution function of the training return r(y) under pi_ref. Within a tie set pi_n / pi_ref is constant. The levels
of the return and the expected gold of each level are therefore enough: completions need not be listed.

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
    """The training return takes too many values to be enumerated.

    Attributes:
        rows: combinations of starting state, state and return so far after the same number of tokens.
        levels: values of the return among them.
        limit: as given, of rows.
    """

    def __init__(self, name: str, rows: int, levels: int, limit: int) -> None:
        super().__init__(
            f"after the same number of tokens the training return of {name} takes {levels:,} values, {rows:,} combinations "
            f"with the states, more than the limit of {limit:,}: round the rewards, shorten the horizon or raise the limit"
        )
        self.rows, self.levels, self.limit = rows, levels, limit


@dataclass(frozen=True, eq=False)
class ReturnDistribution:
    """The distribution of the training return of a policy after one prompt, in L levels.

    Attributes:
        weight: of this prompt, or of all the prompts that share this distribution.
        probability: float64 [L], of the levels in ascending order of return; above 0, sums to 1.
        return_: float64 [L], the expected training return of each level (the return itself, up to rounding).
        returns: of each source by name, its expectation given the level, float64 [L].
    """

    weight: float
    probability: FloatArray
    return_: FloatArray
    returns: Mapping[str, FloatArray]


@dataclass(frozen=True)
class BestOfN:
    """KL and expected returns of the best of ``n``, over prompts by their weights.

    Attributes:
        n: completions that are sampled.
        kl: to the policy that they are sampled from, in nats.
        bound: log n - (n - 1) / n, which the KL never exceeds; it reaches it where there are no ties.
        return_: expected training return of the chosen completion.
        returns: its expected return by each source, by name.
    """

    n: int
    kl: float
    bound: float
    return_: float
    returns: Mapping[str, float]


def best_of_n(distributions: Sequence[ReturnDistribution], n: int) -> BestOfN:
    """Return KL and expected returns of the best of ``n``; the KL is the mean over prompts.

    Raises:
        ValueError: an n below 1.
    """
    check_n(n)
    kl, return_, returns = 0.0, 0.0, dict.fromkeys(distributions[0].returns, 0.0)
    for one in distributions:
        chosen = _chosen(one.probability, n)
        positive = chosen > 0
        ratio = np.log(chosen[positive] / one.probability[positive])
        kl += one.weight * max(0.0, float(chosen[positive] @ ratio))  # for n = 1 rounding leaves -1e-17
        return_ += one.weight * float(chosen @ one.return_)
        for name, table in one.returns.items():
            returns[name] += one.weight * float(chosen @ table)
    return BestOfN(n, kl, float(np.log(n) - (n - 1) / n), return_, returns)


def best_of_n_probability(probability: FloatArray, return_: FloatArray, n: int) -> FloatArray:
    """Return the probability that each of B completions of one prompt is the chosen one, float64 [B].

    Args:
        probability: float64 [B], under the reference policy; sums to 1.
        return_: float64 [B]; values within 1e-9 of each other, relative to the largest, are ties.
        n: completions that are sampled.

    Raises:
        ValueError: an n below 1, shapes that disagree, or probabilities that do not sum to 1.
    """
    check_n(n)
    if (
        probability.shape != return_.shape
        or (probability < 0).any()
        or not abs(probability.sum() - 1) <= 1e-9
    ):
        raise ValueError(
            f"probability {probability.shape} sums to {probability.sum()} and return_ has shape {return_.shape}: give one "
            "of each for every completion, and probabilities that sum to 1"
        )
    possible, chosen = probability > 0, np.zeros(probability.shape)
    level = tied_levels(return_[possible])
    mass = np.bincount(level, probability[possible]).astype(np.float64)
    chosen[possible] = probability[possible] * (_chosen(mass, n) / mass)[level]
    return chosen


def check_n(n: int) -> None:
    """Raise ValueError unless ``n`` is an integer of 1 or more."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n is {n!r}: give an integer of 1 or more")


def _chosen(mass: FloatArray, n: int) -> FloatArray:
    """Return F^n - F-^n for each level of that ``mass`` [L] > 0 in ascending order, float64 [L].

    Computed as F^n (1 - (1 - mass / F)^n), with log F from the mass above where F is near 1: the difference of two
    powers would lose the digits of a rare level.
    """
    if n == 1:  # the distribution itself: the rounding below would give it a KL above 0
        return mass
    upto = np.cumsum(mass)
    above = np.append(np.cumsum(mass[:0:-1])[::-1], 0.0)
    with np.errstate(divide="ignore"):  # the lowest level: its F- is 0
        log_below = np.log1p(-np.minimum(mass / upto, 1.0))
        log_upto = np.where(above < 0.5, np.log1p(-np.minimum(above, 0.5)), np.log(upto))
    return np.asarray(np.exp(n * log_upto) * -np.expm1(n * log_below))


def return_distributions(
    model: TokenModel, *, limit: int = MAX_ROWS, prefixes: int = MAX_PREFIXES
) -> list[ReturnDistribution]:
    """Return the distribution of the training return under the reference policy, one for each starting state.

    A forward pass over the exact tables keeps the mass of each (starting state, state, return so far) and the
    expectation of every source there. States are merged where the return agrees to 1e-9. Prompts with the same
    starting state share a distribution.

    Args:
        model: the task and its training reward.
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
    weight = np.array([weights.get(name, 0.0) for name in mdp.rewards])
    front, ended = _PrefixSets.before(mdp, len(weight)), []
    for time in range(mdp.horizon):
        at_horizon = time == mdp.horizon - 1
        grown, over = front.grown(mdp, final if at_horizon else step, weight)
        ended.append(grown[over | at_horizon].without_state().merged())
        front = grown[~(over | at_horizon)].merged()
        if (rows := len(front.mass)) > limit:
            raise TooManyLevelsError(model.task.name, rows, int(tied_levels(front.return_).max()) + 1, limit)
    every = _concatenate(ended).merged()
    return [
        _distribution(mdp, every[every.start == start], int(start), weight)
        for start in np.unique(every.start)
    ]


def policy_distributions(
    model: TokenModel, policy: Policy, *, limit: int = MAX_PREFIXES
) -> list[ReturnDistribution]:
    """Return the distribution of the training return after each prompt under any policy, by enumeration.

    Raises:
        TreeTooLargeError: its completions have more than ``limit`` prefixes.
    """
    every = enumerate_completions(model.task, policy, limit=limit)
    scores = every.scores(model.task, model.composition.sources)
    weights = train_weights(model.composition)
    return_ = sum((weight * scores[name] for name, weight in weights.items()), np.zeros(len(every)))
    distributions = []
    for prompt in np.unique(every.prompt):
        rows = np.flatnonzero((every.prompt == prompt) & (every.log_prob > -np.inf))
        probability, level = np.exp(every.log_prob[rows]), tied_levels(return_[rows])
        mass = np.bincount(level, probability)
        returns = {
            name: np.bincount(level, probability * table[rows]) / mass for name, table in scores.items()
        }
        means = np.bincount(level, probability * return_[rows]) / mass
        distributions.append(
            ReturnDistribution(float(model.task.prompt_weights[prompt]), mass / mass.sum(), means, returns)
        )
    return distributions


@dataclass(frozen=True, eq=False)
class _PrefixSets:
    """B sets of prefixes, each with one starting state, one state and one return so far."""

    start: IntArray  # [B]
    state: IntArray  # [B]
    return_: FloatArray  # [B], the training return so far
    mass: FloatArray  # [B], given the start
    returns: FloatArray  # [B, K]: the mass times the expectation of each source so far

    @classmethod
    def before(cls, mdp: TabularMDP, n_sources: int) -> "_PrefixSets":
        start = np.flatnonzero(mdp.start)
        zeros = np.zeros((len(start), n_sources))
        return cls(start, start, np.zeros(len(start)), np.ones(len(start)), zeros)

    def __getitem__(self, rows: BoolArray) -> "_PrefixSets":
        return _PrefixSets(
            self.start[rows], self.state[rows], self.return_[rows], self.mass[rows], self.returns[rows]
        )

    def without_state(self) -> "_PrefixSets":
        return _PrefixSets(self.start, np.zeros_like(self.state), self.return_, self.mass, self.returns)

    def grown(
        self, mdp: TabularMDP, reward: FloatArray, weight: FloatArray
    ) -> tuple["_PrefixSets", BoolArray]:
        """Return them with each possible next token, and which ended; ``reward`` is [S, A, K], ``weight`` [K]."""
        probability = reference_policy(mdp)[0][self.state]
        row, action = np.nonzero(probability)
        share, state = probability[row, action], self.state[row]
        mass, gained = self.mass[row] * share, reward[state, action]
        returns = self.returns[row] * share[:, None] + mass[:, None] * gained
        following, over = mdp.next_state[state, action, 0], mdp.terminated[state, action, 0]
        return _PrefixSets(
            self.start[row], following, self.return_[row] + gained @ weight, mass, returns
        ), over

    def merged(self) -> "_PrefixSets":
        """Return them with those of the same start, state and level of return merged."""
        if not len(self.mass):
            return self
        keys = np.stack([self.start, self.state, tied_levels(self.return_)], axis=1)
        sizes = keys.max(axis=0) + 1
        code = np.ravel_multi_index(tuple(keys.T), tuple(sizes))
        _, first, group = np.unique(code, return_index=True, return_inverse=True)
        mass = np.bincount(group, self.mass).astype(np.float64)
        returns = np.stack(
            [np.bincount(group, column).astype(np.float64) for column in self.returns.T], axis=1
        )
        return _PrefixSets(self.start[first], self.state[first], self.return_[first], mass, returns)


def _concatenate(parts: Sequence[_PrefixSets]) -> _PrefixSets:
    names = ("start", "state", "return_", "mass", "returns")
    return _PrefixSets(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _distribution(mdp: TabularMDP, every: _PrefixSets, start: int, weight: FloatArray) -> ReturnDistribution:
    """Return the distribution of ``every`` completion from ``start``."""
    every = every[every.mass > 0]
    order = np.argsort(every.return_)
    mass, means = every.mass[order], (every.returns / every.mass[:, None])[order]
    returns = dict(zip(mdp.rewards, means.T, strict=True))
    return ReturnDistribution(float(mdp.start[start]), mass / mass.sum(), means @ weight, returns)
