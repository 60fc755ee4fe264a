"""How well a proxy agrees with gold over completions: order, correlation, the worst exploit.

Every function takes completions of one task as columns [B]: the number of the prompt, the probability under the
reference policy (of prompt and completion together), gold, proxy. Over all completions the figures are exact, over a
sample (each of the same weight) they are estimates.
"""

from dataclasses import dataclass

import numpy as np

from tokenwalk.agents.exact.bellman import TIE_TOLERANCE
from tokenwalk.envs.arrays import FloatArray, IntArray


@dataclass(frozen=True)
class Exploit:
    """A completion whose proxy exceeds its gold.

    Attributes:
        row: its index.
        proxy, gold: its proxy and gold return.
    """

    row: int
    proxy: float
    gold: float


def pair_accuracy(prompt: IntArray, weight: FloatArray, gold: FloatArray, proxy: FloatArray) -> float | None:
    """Return the share of pairs that the proxy orders as gold does; None where gold ties all of them.

    A pair is two completions of the same prompt, sampled independently, that gold does not tie. A tie of the proxy
    counts half. A prompt is weighted by the probability of such a pair.
    """
    right = total = 0.0
    for one in np.unique(prompt):
        rows = prompt == one
        shares = weight[rows] / weight[rows].sum()
        mass = float(weight[rows].sum())
        ordered, untied = _ordered(shares, tied_levels(gold[rows]), tied_levels(proxy[rows]))
        right, total = right + mass * ordered, total + mass * untied
    return right / total if total > 0 else None


def _ordered(weight: FloatArray, gold: IntArray, proxy: IntArray) -> tuple[float, float]:
    """Return the probability that two samples are ordered alike by both levels [B], and that gold does not tie them."""
    order = np.argsort(proxy, kind="stable")
    weight, gold, proxy = weight[order], gold[order], proxy[order]
    first, last = np.searchsorted(proxy, proxy, "left"), np.searchsorted(proxy, proxy, "right")
    right = untied = 0.0
    for level in range(1, int(gold.max(initial=0)) + 1):
        worse = np.append(0.0, np.cumsum(np.where(gold < level, weight, 0.0)))  # by the proxy's order
        rows = gold == level
        below = worse[first[rows]] + 0.5 * (worse[last[rows]] - worse[first[rows]])
        right += 2 * float(weight[rows] @ below)
        untied += 2 * float(weight[rows].sum() * worse[-1])
    return right, untied


def tied_levels(values: FloatArray) -> IntArray:
    """Return the number of each value's level in ascending order, int64 [B]; ties share one."""
    order = np.argsort(values, kind="stable")
    gaps = np.diff(values[order], prepend=values[order[:1]])
    level = np.empty(len(values), dtype=np.int64)
    level[order] = np.cumsum(gaps > TIE_TOLERANCE * np.abs(values).max(initial=0.0))
    return level


def correlation(weight: FloatArray, gold: FloatArray, proxy: FloatArray) -> float | None:
    """Return Pearson's correlation under ``weight``, which need not sum to 1; None where one of the two is constant."""
    (_, gold_std), (_, proxy_std) = mean_and_std(weight, gold), mean_and_std(weight, proxy)
    if gold_std <= 0 or proxy_std <= 0:
        return None
    share = weight / weight.sum()
    mean = float(share @ ((gold - share @ gold) * (proxy - share @ proxy)))
    return mean / (gold_std * proxy_std)


def mean_and_std(weight: FloatArray, values: FloatArray) -> tuple[float, float]:
    """Return the mean and the standard deviation of ``values`` under ``weight``, which need not sum to 1.

    A standard deviation within rounding is 0.
    """
    share = weight / weight.sum()
    mean = float(share @ values)
    std = float(np.sqrt(share @ (values - mean) ** 2))
    return mean, std if std > TIE_TOLERANCE * np.abs(values).max(initial=0.0) else 0.0


def worst_exploit(gold: FloatArray, proxy: FloatArray) -> Exploit:
    """Return the completion with the largest proxy minus gold, the first of several."""
    row = int(np.argmax(proxy - gold))
    return Exploit(row, float(proxy[row]), float(gold[row]))


def gold_of_argmax(prompt: IntArray, weight: FloatArray, gold: FloatArray, proxy: FloatArray) -> float:
    """Return the gold of the completions of the largest proxy, over prompts by their weights.

    Ties are split per completion, in proportion to the reference policy, or evenly where it gives all of them 0.
    """
    total = 0.0
    for one in np.unique(prompt):
        rows = np.flatnonzero(prompt == one)
        levels = tied_levels(proxy[rows])
        best = rows[levels == levels.max()]
        shares = weight[best] if weight[best].sum() > 0 else np.ones(len(best))
        total += float(weight[rows].sum()) * float(shares @ gold[best]) / float(shares.sum())
    return total / float(weight.sum())
