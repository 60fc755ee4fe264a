"""What a learned policy is worth: exactly where there are tables, else estimated from played episodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenwalk.agents.exact.bellman import NoFiniteAnswerError
from tokenwalk.agents.exact.evaluation import evaluate, regret_against
from tokenwalk.agents.exact.token_evaluation import evaluate_tokens
from tokenwalk.agents.exact.token_policy import Policy
from tokenwalk.agents.study.problem import Problem
from tokenwalk.agents.study.rollout import Episode, mean_and_interval
from tokenwalk.envs.transition import FloatArray

Interval = tuple[float, float]


@dataclass(frozen=True)
class Score:
    """Undiscounted returns over the environment's own horizon.

    Attributes:
        return_: mean of what is paid, before shaping and KL; None where it does not exist.
        gold: mean by the gold source.
        proxy: mean by the proxy; None where the environment has none.
        interval: 95 % interval of ``return_``: over the independent runs where it is exact, over episodes where not.
        exact: whether each run's figure is exact.
        episodes: how many were played for an estimate; None where it is exact.
        note: why a figure is missing.
        normalized: mean of (gold - reference) / (optimum - reference); None where a line is missing.
        terms: of a token task: what each source gives to a completion, under "reward/NAME", and where it is paid, times
            its weight, under "reward/NAME/weighted".
    """

    return_: float | None
    gold: float | None
    proxy: float | None
    interval: Interval | None
    exact: bool
    episodes: int | None
    note: str | None
    normalized: float | None
    terms: Mapping[str, float] = field(default_factory=dict)

    def as_metrics(self) -> dict[str, float]:
        """Return the figures that exist under the tags of every chart."""
        tags: dict[str, float | None] = {
            "eval/return": self.return_,
            "eval/gold": self.gold,
            "eval/proxy": self.proxy,
            "eval/normalized_score": self.normalized,
        }
        if self.interval is not None and np.isfinite(self.interval).all():
            tags |= {"eval/return_low": self.interval[0], "eval/return_high": self.interval[1]}
        return {tag: value for tag, value in tags.items() if value is not None} | {
            "eval/exact": float(self.exact)
        }


def score_exactly(problem: Problem, policies: FloatArray) -> Score:
    """Return the exact score of the policies of R independent runs, [R, T or 1, S, A]; means are over the runs.

    Raises:
        ValueError: ``problem`` has no tables.
        DominanceError: a policy was evaluated above the optimum, so one of the two figures is wrong.
    """
    mdp = problem.mdp
    if mdp is None:
        raise ValueError(f"{problem.env_id} has no exact score: {problem.reason}")
    try:
        evaluations = [evaluate(mdp, policy) for policy in policies]
        if problem.lines.optimal_paid is not None:
            for evaluation in evaluations:
                regret_against(mdp, problem.best, evaluation, problem.weights)
    except NoFiniteAnswerError as error:
        return Score(None, None, None, None, True, None, str(error), None)
    paid = [one.value(problem.weights) for one in evaluations]
    gold = float(np.mean([one.returns["gold"] for one in evaluations]))
    proxies = [one.returns["proxy"] for one in evaluations if "proxy" in one.returns]
    mean, interval = mean_and_interval(paid)
    return Score(
        return_=mean,
        gold=gold,
        proxy=float(np.mean(proxies)) if proxies else None,
        interval=interval if len(paid) > 1 else None,
        exact=True,
        episodes=None,
        note=problem.lines.note,
        normalized=problem.lines.normalized_score(gold),
        terms=_terms(
            problem,
            {name: float(np.mean([one.returns[name] for one in evaluations])) for name in mdp.rewards},
        ),
    )


def _terms(problem: Problem, returns: Mapping[str, float]) -> dict[str, float]:
    """Return the terms of ``Score`` for the mean return by each source; none where there is no token task."""
    if problem.tokens is None:
        return {}
    composition = problem.tokens.composition
    added = (*composition.train, *composition.shaping)
    weighted = {f"reward/{one.name}/weighted": weight * returns[one.name] for one, weight in added}
    return {f"reward/{name}": value for name, value in returns.items()} | weighted


def score_tokens_policy(problem: Problem, policy: Policy, seed: int = 0) -> Score:
    """Return the score of any policy over tokens: exact on its tables or on the prefix tree, else estimated.

    Raises:
        ValueError: ``problem`` is no token task.
    """
    if problem.tokens is None:
        raise ValueError(f"{problem.env_id} is no token task")
    found = evaluate_tokens(
        problem.tokens, policy, optimum=problem.lines.optimal_paid, rng=np.random.default_rng(seed)
    )
    return Score(
        return_=found.paid,
        gold=found.gold,
        proxy=found.proxy,
        interval=found.intervals.get("paid"),
        exact=found.exact,
        episodes=None if found.exact else found.size,
        note=problem.lines.note,
        normalized=problem.lines.normalized_score(found.gold),
        terms=_terms(problem, found.returns),
    )


def score_episodes(problem: Problem, episodes: Sequence[Episode]) -> Score:
    """Return the estimated score from played ``episodes``, with the 95 % interval of the mean return."""
    mean, interval = mean_and_interval(sum(episode.paid) for episode in episodes)
    gold = float(np.mean([sum(episode.gold) for episode in episodes]))
    return Score(
        return_=mean,
        gold=gold,
        proxy=None,
        interval=interval if len(episodes) > 1 else None,
        exact=False,
        episodes=len(episodes),
        note=problem.lines.note,
        normalized=problem.lines.normalized_score(gold),
    )


def summary_of(problem: Problem, score: Score) -> dict[str, Any]:
    """Return the figures of every summary: return, gold, proxy, the two lines, the normalised score, exact."""
    return {
        "return": score.return_,
        "gold": score.gold,
        "proxy": score.proxy,
        "optimal_return": problem.lines.optimal_return,
        "reference_return": problem.lines.reference_return,
        "normalized_score": score.normalized,
        "exact": score.exact,
        "interval": list(score.interval) if score.interval else None,
        "note": score.note,
    }
