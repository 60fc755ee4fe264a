"""The best of n of a run's own completions: its exact distribution where it is known, and an estimate by sampling."""

from typing import Any

import numpy as np

from tokenwalk.agents.exact.intervals import mean_and_interval
from tokenwalk.agents.exact_tokens.best_of_n import best_of_n, check_n, policy_distributions
from tokenwalk.agents.exact_tokens.completions import TreeTooLargeError, sample_completions
from tokenwalk.agents.exact_tokens.exact_tables import train_weights
from tokenwalk.agents.exact_tokens.token_policy import Policy
from tokenwalk.envs.token_model import TokenModel

CHOICES = 1_000  # samples of the best of n, as far as MOST_COMPLETIONS goes
MOST_COMPLETIONS = 1_000_000  # completions
AT_ONCE = 20_000  # completions


def best_of(model: TokenModel, policy: Policy, n: int, seed: int = 0) -> dict[str, Any]:
    """Return what the best of ``n`` completions of ``policy``, by the training reward, reaches.

    Returns:
        n, exact (return, gold, proxy, kl to the policy itself, bound log n - (n - 1) / n; None where its texts are too
        many), sampled (choices, return, gold, proxy, interval: 95 %, of the return; None where n
        is too large to sample it twice).

    Raises:
        ValueError: an n below 1.
    """
    check_n(n)
    try:
        found = best_of_n(policy_distributions(model, policy), n)
        exact = {"return": found.return_, **_by_name(found.returns), "kl": found.kl, "bound": found.bound}
    except TreeTooLargeError:
        exact = None
    choices = min(CHOICES, MOST_COMPLETIONS // n)
    return {
        "n": n,
        "exact": exact,
        "sampled": _sampled(model, policy, n, seed, choices) if choices > 1 else None,
    }


def _sampled(model: TokenModel, policy: Policy, n: int, seed: int, choices: int) -> dict[str, Any]:
    """Return what ``choices`` of the best of ``n`` reached."""
    rng, task = np.random.default_rng(seed), model.task
    weights = train_weights(model.composition)
    chosen: list[dict[str, float]] = []
    per_part = max(1, AT_ONCE // n)
    for first in range(0, choices, per_part):
        count = min(per_part, choices - first)
        prompt = np.repeat(rng.choice(len(task.prompts), size=count, p=task.prompt_weights), n)
        texts = sample_completions(task, policy, count * n, rng, None if len(task.prompts) == 1 else prompt)
        scores = texts.scores(task, model.composition.sources)
        total = sum((weight * scores[name] for name, weight in weights.items()), np.zeros(count * n))
        # Equals differ by rounding, and one of them is taken at random: samples have no order, so the first.
        best = np.round(total, 9).reshape(count, n).argmax(axis=1) + n * np.arange(count)
        chosen += [
            {"return": total[row], **{name: table[row] for name, table in scores.items()}} for row in best
        ]
    mean, interval = mean_and_interval([one["return"] for one in chosen])
    means = {name: float(np.mean([one[name] for one in chosen])) for name in chosen[0]}
    return {"choices": choices, "return": mean, **_by_name(means), "interval": list(interval)}


def _by_name(returns: Any) -> dict[str, float | None]:
    return {"gold": returns["gold"], "proxy": returns.get("proxy")}
