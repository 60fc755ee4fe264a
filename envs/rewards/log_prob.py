"""The log-probability of a text under a language model as a reward; the model arrives as a callable."""

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
    """Pays each token log p(token | prompt, tokens before it), in nats: 0 or less, -inf refused when it is paid.

    The sum over a completion is its log-probability. It is 0 for a token that the model is sure of, and moves the
    optimum to the model's most probable text. Known way to game it: the end. A shorter text has fewer factors, so
    where ``<eos>`` is likely the empty text wins; and what repeats itself is easy to predict.

    Args:
        name: under which it is logged.
        log_probs: from a batch of unfinished prefixes to the natural log-probability of each next token, [B, V]: the
            method of that name of any policy over tokens, a small Transformer's among them.
        vocabulary: the task's.
    """

    name: str
    log_probs: Callable[[TokenBatch], npt.NDArray[np.floating[Any]]]
    vocabulary: Vocabulary
    low: float = -np.inf
    high: float = 0.0
    paid: Literal["token"] = "token"

    def score(self, batch: TokenBatch) -> FloatArray:
        """Return the log-probability of each row's last token, float64 [B]."""
        rows, last = np.arange(len(batch.length)), np.asarray(batch.length, dtype=np.int64) - 1
        table = np.asarray(self.log_probs(batch.before(self.vocabulary.pad)), dtype=np.float64)
        # A sum of probabilities that rounds above 1 must not turn a certain token into a reward above 0.
        return np.minimum(table[rows, batch.completion[rows, last]], 0.0)

    def __deepcopy__(self, memo: object) -> "LogProbSource":
        """Return itself: Gymnasium copies ``spec`` at each read, and a network with it."""
        return self
