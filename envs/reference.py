"""Reference policies that are finite automata: uniform, independent tokens, n-grams.

A task's reference policy has the normalized score 0, and every KL is measured from it. It is not an agent's
pre-trained model.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product as tuples

import numpy as np
import numpy.typing as npt

from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.rewards.automaton import TooManyStatesError, check_automaton
from tokenwalk.envs.rewards.machine import RewardMachine

MAX_CONTEXTS = 20_000


@dataclass(frozen=True, eq=False)
class ReferencePolicy:
    """A policy whose probabilities depend on one of C contexts, with the available tokens of each context.

    Attributes:
        next_context: int64 [C, V]; after ``<eos>``, token V - 1, it is never read.
        probability: float64 [C, V], rows sum to 1.
        start: int64 [1], or [P] with one context per prompt.
        available: bool [C, V], the task's mask: no policy may take a token that is False. All True if None.

    Raises:
        ValueError: shapes that disagree, a context out of range, probabilities that are negative or do not
            sum to 1, or a token that is probable but not available.
    """

    next_context: IntArray
    probability: FloatArray
    start: IntArray
    available: BoolArray | None = None

    def __post_init__(self) -> None:
        next_context, start = check_automaton(self.next_context, self.start, ("next_context", "start"))
        probability = np.array(self.probability, dtype=np.float64)
        if probability.shape != next_context.shape:
            raise ValueError(
                f"probability has shape {probability.shape}: next_context asks for {next_context.shape}"
            )
        check_distributions(probability, "the reference policy")
        if self.available is not None:
            available = np.array(self.available)
            if available.dtype != np.bool_ or available.shape != probability.shape:
                raise ValueError(
                    f"available has shape {available.shape} and dtype {available.dtype}: "
                    f"give bool {probability.shape}"
                )
            if (wrong := (probability > 0) & ~available).any():
                context, token = np.argwhere(wrong)[0]
                raise ValueError(
                    f"token {token} has probability {probability[context, token]} in context {context}, "
                    "where it is not available"
                )
            object.__setattr__(self, "available", None if available.all() else available)
        for name, value in (("next_context", next_context), ("probability", probability), ("start", start)):
            value.flags.writeable = False  # policies are shared between tasks and environments
            object.__setattr__(self, name, value)

    @property
    def n_tokens(self) -> int:
        """Return V, ``<eos>`` included."""
        return int(self.probability.shape[1])

    @property
    def log_probability(self) -> FloatArray:
        """Return the natural logarithms, float64 [C, V]; -inf where the probability is 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.probability)

    def as_machine(self) -> RewardMachine:
        """Return the machine whose reward is the log-probability of each token (in nats, 0 or less).

        Raises:
            ValueError: a probability of 0, whose logarithm is not finite.
        """
        if (self.probability == 0).any():
            context, token = np.argwhere(self.probability == 0)[0]
            raise ValueError(f"token {token} has probability 0 in context {context}: smooth the policy")
        logs = self.log_probability
        return RewardMachine(self.next_context, logs, np.zeros(logs.shape), self.start).minimized()


def check_distributions(probability: FloatArray, what: str) -> None:
    """Raise ValueError unless the last axis of ``probability`` holds numbers of 0 or more that sum to 1."""
    if not np.isfinite(probability).all() or (probability < 0).any():
        raise ValueError(
            f"{what} holds {probability[~(probability >= 0)].ravel()[:1]}: give probabilities of 0 or more"
        )
    sums = np.atleast_1d(probability.sum(axis=-1))
    if not np.allclose(sums, 1.0, rtol=0, atol=1e-9):
        raise ValueError(f"{what} sums to {sums[np.abs(sums - 1).argmax()]}, not to 1: divide by the sum")


def uniform(n_tokens: int) -> ReferencePolicy:
    """Return the policy that gives each of V tokens, ``<eos>`` included, the same probability."""
    return independent(np.full(n_tokens, 1 / n_tokens))


def independent(probability: npt.ArrayLike) -> ReferencePolicy:
    """Return the policy that samples every token from ``probability`` [V], independent of the text."""
    row = np.atleast_2d(np.asarray(probability, dtype=np.float64))
    return ReferencePolicy(np.zeros(row.shape, dtype=np.int64), row, np.zeros(1, dtype=np.int64))


def fit_ngram(
    lines: Iterable[Sequence[int]], n_tokens: int, order: int = 2, smoothing: float = 0.1
) -> ReferencePolicy:
    """Return the n-gram model of ``lines``, each ended by ``<eos>``, with additive smoothing.

    p(token | context) = (count(context, token) + smoothing) / (count(context) + V * smoothing), where the
    context is the last ``order - 1`` tokens, fewer at the start of a line.

    Args:
        lines: token ids without ``<eos>``.
        n_tokens: V.
        order: n; 2 is a bigram.
        smoothing: added to every count; above 0, so that every probability is positive.

    Raises:
        ValueError: an order below 1, a smoothing that is not positive, or a token out of range.
        TooManyStatesError: more contexts than the limit of 20,000.
    """
    if order < 1 or not 0 < smoothing < np.inf:
        raise ValueError(
            f"order is {order} and smoothing {smoothing}: give an order of 1 or more and a positive smoothing"
        )
    n_contexts = sum((n_tokens - 1) ** size for size in range(order))
    if n_contexts > MAX_CONTEXTS:
        raise TooManyStatesError(
            f"order {order} over {n_tokens} tokens has {n_contexts:,} contexts: the limit is {MAX_CONTEXTS:,}"
        )
    kept = order - 1
    contexts = [context for size in range(order) for context in tuples(range(n_tokens - 1), repeat=size)]
    number = {context: index for index, context in enumerate(contexts)}
    counts: Counter[tuple[int, int]] = Counter()
    for line in lines:
        tokens = tuple(int(token) for token in line)
        if wrong := [token for token in tokens if not 0 <= token < n_tokens - 1]:
            raise ValueError(
                f"token {wrong[0]} is out of range: give tokens from 0 to {n_tokens - 2}, without <eos>"
            )
        for place, token in enumerate((*tokens, n_tokens - 1)):
            counts[number[tokens[max(0, place - kept) : place]], token] += 1
    table = np.full((n_contexts, n_tokens), smoothing)  # [C, V]
    for (context, token), count in counts.items():
        table[context, token] += count
    following = [
        [number[(*context, token)[-kept:] if kept else ()] for token in range(n_tokens - 1)] + [0]
        for context in contexts
    ]
    probability = table / table.sum(axis=1, keepdims=True)
    return ReferencePolicy(np.array(following), probability, np.zeros(1, dtype=np.int64))
