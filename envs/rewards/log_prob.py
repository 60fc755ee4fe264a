"""The log-probability of a text under a language model as a reward; the model is a callable."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.source import TokenBatch
from tokenwalk.envs.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class LogProbSource:
    """The reward log p(token | prompt, tokens before it) of each token, in nats: 0 or less; -inf is refused.

    The sum over a completion is its log-probability. It is 0 for a token of probability 1. The optimal
    policy generates the model's most probable text. Known exploits: a short text, because it has fewer factors, and a
    repetitive text, because it is easy to predict.

    Args:
        name: under which it is logged.
        log_probs: from a batch of unfinished prefixes to the natural log-probability of each next token, [B, V]: for
            example the method of that name of a policy over tokens.
        vocabulary: the task's.
    """

    name: str
    log_probs: Callable[[TokenBatch], npt.NDArray[np.floating[Any]]]
    vocabulary: Vocabulary
    low: float = -np.inf
    high: float = 0.0
    timing: Literal["token"] = "token"

    def score(self, batch: TokenBatch) -> FloatArray:
        """Return the log-probability of each row's last token, float64 [B]."""
        rows, last = np.arange(len(batch.length)), np.asarray(batch.length, dtype=np.int64) - 1
        table = np.asarray(self.log_probs(batch.before(self.vocabulary.pad)), dtype=np.float64)
        # A sum of probabilities that rounds above 1 must not turn a certain token into a reward above 0.
        return np.minimum(table[rows, batch.completion[rows, last]], 0.0)

    def __deepcopy__(self, memo: object) -> "LogProbSource":
        """Return itself: Gymnasium copies ``spec`` at each read, and a network with it."""
        return self
