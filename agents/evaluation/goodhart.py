"""``tokenwalk goodhart``: gold while a proxy is optimized ever harder, exactly."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokenwalk.agents.evaluation.solve import solve_problem
from tokenwalk.agents.exact_tokens.best_of_n import TooManyLevelsError, best_of_n, return_distributions
from tokenwalk.agents.exact_tokens.exact_tables import exact_tables
from tokenwalk.agents.exact_tokens.frontier import Fit, fit_best_of_n, fit_rl, trace_frontier
from tokenwalk.agents.problem.problem import Problem, open_problem
from tokenwalk.envs.token_model import TokenModel

COMPLETIONS = [2**power for power in range(17)]  # of best-of-n


def goodhart_report(
    env: str, reward: Sequence[str] = (), env_args: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the exact path of a task's proxy: KL, proxy, gold and the best gold at equal KL, for falling kl_coef.

    ``reward`` names what is optimized instead of the task's proxy, see ``sources.reward_components``; ``env_args`` are for
    ``gym.make``.

    The arrays kl_coef, kl, proxy, gold and best_gold have one length. ``peak`` is where gold is largest, ``sentence``
    says it in words, ``fit`` holds Gao, Schulman and Hilton's form for RL fitted to the path (alpha, beta, peak_kl,
    residual), ``best_of_n`` the exact distribution of best-of-n by the proxy with its own fit (None where its
    reward takes too many values).

    Raises:
        ValueError: an environment that is no token task, has no proxy, or has no exact answer.
    """
    started = time.perf_counter()
    problem = open_problem(env, env_args)
    if problem.tokens is None or not (reward or "proxy" in problem.tokens.task.sources):
        raise ValueError(
            f"{problem.env_id} has no proxy reward to optimize: Flattery and LengthBias have one, and on a token task "
            "--reward names another"
        )
    problem = open_problem(env, env_args, reward=reward or ["proxy"])
    assert problem.tokens is not None
    path = trace_frontier(exact_tables(problem.tokens))
    fit = fit_rl(path.kl[path.spaced], path.gold[path.spaced] - path.reference_gold)
    d = np.sqrt(path.kl)
    return {
        "env": problem.env_id,
        "kl_coef": path.kl_coef.tolist(),
        "kl": path.kl.tolist(),
        "proxy": path.proxy.tolist(),
        "gold": path.gold.tolist(),
        "best_gold": path.best_gold.tolist(),
        "peak": {"kl_coef": path.peak.kl_coef, "kl": path.peak.kl, "gold": path.peak.gold},
        "proxy_optimum": path.proxy_optimum,
        "reference_proxy": path.reference_proxy,
        "reference_gold": path.reference_gold,
        "fit": _fit_report(fit)
        | {
            "kl": path.kl.tolist(),
            "gold": (path.reference_gold + d * (fit.alpha - fit.beta * np.log(d))).tolist(),
        },
        "best_of_n": _best_of_n(problem.tokens, path.reference_gold),
        "sentence": _sentence(problem, path.peak.kl, path.peak.gold),
        "exact": True,
        "seconds": time.perf_counter() - started,
    }


def _best_of_n(model: TokenModel, reference_gold: float) -> dict[str, Any] | None:
    """Return the exact distribution of best-of-n with its fit; None where the pay takes too many values."""
    try:
        laws = return_distributions(model)
    except TooManyLevelsError:
        return None
    chosen = [best_of_n(laws, n) for n in COMPLETIONS]
    kl, gold = (np.array(one) for one in ([c.kl for c in chosen], [c.returns["gold"] for c in chosen]))
    return {
        "n": COMPLETIONS,
        "kl": kl.tolist(),
        "bound": [one.bound for one in chosen],
        "proxy": [one.return_ for one in chosen],
        "gold": gold.tolist(),
        "fit": _fit_report(fit_best_of_n(kl, gold - reference_gold)),
    }


def _fit_report(fit: Fit) -> dict[str, Any]:
    return {"alpha": fit.alpha, "beta": fit.beta, "peak_kl": fit.peak_kl, "residual": fit.residual}


def _sentence(problem: Problem, peak_kl: float, peak_gold: float) -> str:
    """Return in one sentence where gold peaks and what the proxy's optimum generates."""
    optimum = solve_problem(problem).report
    return (
        f"Gold peaks at {peak_gold:.3f} at a KL of {peak_kl:.2f} nats; the proxy's optimum earns "
        f"{optimum['optimal_value']:g} by the proxy and {optimum['gold']:g} by gold, and generates for example "
        f"{optimum['best_text']!r}."
    )
