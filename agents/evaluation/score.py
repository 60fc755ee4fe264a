"""The figures of a policy: exact where there are tables or a small tree, else estimated from samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenwalk.agents.evaluation.policies import AnyPolicy, TablePolicies, TokenPolicy, make_actor
from tokenwalk.agents.evaluation.rollout import Episode, play
from tokenwalk.agents.exact.bellman import NoFiniteAnswerError
from tokenwalk.agents.exact.evaluation import evaluate, regret_against
from tokenwalk.agents.exact.intervals import mean_and_interval
from tokenwalk.agents.exact_tokens.completions import MAX_PREFIXES
from tokenwalk.agents.exact_tokens.token_evaluation import SAMPLES, evaluate_tokens
from tokenwalk.agents.problem.problem import Problem
from tokenwalk.envs.arrays import FloatArray

Interval = tuple[float, float]
EPISODES = 200  # played for a score where nothing is exact


@dataclass(frozen=True)
class Regularized:
    """The training return minus kl_coef times the KL.

    Attributes:
        return_: that. optimal: the largest there is, exact; None where it is not known.
    """

    return_: float
    optimal: float | None


@dataclass(frozen=True)
class Score:
    """Undiscounted returns over the environment's own horizon.

    Attributes:
        return_: mean training return, before shaping and KL; None where it does not exist.
        gold: mean by the gold source.
        proxy: mean by the proxy; None where the environment has none.
        interval: 95 % interval of ``return_``: over the independent runs where it is exact, over episodes where not.
        exact: whether each run's figure is exact.
        episodes: how many an estimate is of; None where it is exact.
        note: why a figure is missing.
        normalized: mean of (gold - reference) / (optimum - reference); None where a line is missing.
        terms: of a token task: the mean of each source over completions, under "reward/NAME", and of each reward
            component times its weight, under "reward/NAME/weighted".
        regularized: of a policy with a KL penalty.
        kl: of whole episodes to the reference of the KL penalty, else to the reference policy, in nats; None where it
            is not known, or infinite.
        entropy: of the policy's actions over whole episodes, in nats; None where it is not known.
        regret: the optimal training return (with a KL penalty: the optimal regularized return) minus the policy's own; None
            where the optimum is not known.
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
    regularized: Regularized | None = None
    kl: float | None = None
    entropy: float | None = None
    regret: float | None = None

    def as_metrics(self) -> dict[str, float]:
        """Return the figures that exist under the tags of every chart."""
        tags: dict[str, float | None] = {
            "eval/return": self.return_,
            "eval/gold": self.gold,
            "eval/proxy": self.proxy,
            "eval/normalized_score": self.normalized,
            "eval/kl": self.kl,
            "eval/entropy": self.entropy,
            "eval/regret": self.regret,
        }
        if self.regularized is not None:
            tags["eval/regularized_return"] = self.regularized.return_
        if self.interval is not None and np.isfinite(self.interval).all():
            tags |= {"eval/return_low": self.interval[0], "eval/return_high": self.interval[1]}
        return {tag: value for tag, value in tags.items() if value is not None} | {
            "eval/exact": float(self.exact)
        }


def score(
    problem: Problem,
    policy: AnyPolicy,
    seed: int = 0,
    *,
    episodes: int = EPISODES,
    limit: int = MAX_PREFIXES,
    samples: int = SAMPLES,
) -> Score:
    """Return the figures of a policy: the one way to them, during learning and at the end, for every learner.

    Exact on the problem's tables, or on the prefix tree of a token task; else estimated, with an interval.

    Args:
        problem: what is solved.
        policy: what a learner hands over.
        seed: of an estimate.
        episodes: played where the policy can only act.
        limit, samples: of a policy over tokens, as ``evaluate_tokens``.

    Raises:
        ValueError: tables where the problem has none.
        DominanceError: a policy was evaluated above the optimum, so one of the two figures is wrong.
    """
    if isinstance(policy, TablePolicies):
        return _score_tables(problem, policy.tables)
    if isinstance(policy, TokenPolicy):
        return _score_tokens(problem, policy, seed, limit, samples)
    actor = make_actor(problem, policy, np.random.default_rng(seed))
    return score_episodes(problem, list(play(problem.make_to_play(), actor, episodes, seed)))


def _score_tables(problem: Problem, policies: FloatArray) -> Score:
    """Return the exact score of the policies of R independent runs, [R, T or 1, S, A]; means are over the runs.

    Raises:
        ValueError: ``problem`` has no tables.
        DominanceError: a policy was evaluated above the optimum, so one of the two figures is wrong.
    """
    mdp = problem.mdp
    if mdp is None:
        raise ValueError(f"{problem.env_id} has no exact score: {problem.reason}")
    try:
        evaluations, regrets = [evaluate(mdp, policy) for policy in policies], None
        if problem.lines.optimal_train_return is not None:
            regrets = [regret_against(mdp, problem.best, one, problem.weights) for one in evaluations]
    except NoFiniteAnswerError as error:
        return Score(None, None, None, None, True, None, str(error), None)
    returns = [one.value(problem.weights) for one in evaluations]
    gold = float(np.mean([one.returns["gold"] for one in evaluations]))
    proxies = [one.returns["proxy"] for one in evaluations if "proxy" in one.returns]
    mean, interval = mean_and_interval(returns)
    return Score(
        return_=mean,
        gold=gold,
        proxy=float(np.mean(proxies)) if proxies else None,
        kl=_finite(np.mean([one.kl for one in evaluations])),
        entropy=float(np.mean([one.entropy for one in evaluations])),
        regret=None if regrets is None else float(np.mean(regrets)),
        interval=interval if len(returns) > 1 else None,
        exact=True,
        episodes=None,
        note=problem.lines.note,
        normalized=problem.lines.normalized_score(gold),
        terms=_terms(
            problem,
            {name: float(np.mean([one.returns[name] for one in evaluations])) for name in mdp.rewards},
        ),
    )


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _terms(problem: Problem, returns: Mapping[str, float]) -> dict[str, float]:
    """Return the terms of ``Score`` for the mean return by each source; none where there is no token task."""
    if problem.tokens is None:
        return {}
    composition = problem.tokens.composition
    added = (*composition.train, *composition.shaping)
    weighted = {f"reward/{one.name}/weighted": weight * returns[one.name] for one, weight in added}
    return {f"reward/{name}": value for name, value in returns.items()} | weighted


def _score_tokens(problem: Problem, policy: TokenPolicy, seed: int, limit: int, samples: int) -> Score:
    """Return the score of a policy over tokens: exact on its tables or on the prefix tree, else estimated.

    Raises:
        ValueError: ``problem`` is no token task.
    """
    if problem.tokens is None:
        raise ValueError(f"{problem.env_id} is no token task")
    penalty = policy.kl_penalty
    found = evaluate_tokens(
        problem.tokens,
        policy.policy,
        kl_coef=penalty.kl_coef if penalty else 0.0,
        optimum=penalty.optimum if penalty else problem.lines.optimal_train_return,
        reference=penalty.reference if penalty else None,
        limit=limit,
        samples=samples,
        rng=np.random.default_rng(seed),
    )
    return Score(
        return_=found.return_,
        gold=found.gold,
        proxy=found.proxy,
        interval=found.intervals.get("return"),
        exact=found.exact,
        episodes=None if found.exact else found.size,
        note=problem.lines.note,
        normalized=problem.lines.normalized_score(found.gold),
        terms=_terms(problem, found.returns),
        regularized=Regularized(found.regularized_return, found.optimum) if penalty else None,
        kl=_finite(found.kl),
        entropy=_finite(found.entropy),
        regret=found.regret,
    )


def score_episodes(problem: Problem, episodes: Sequence[Episode]) -> Score:
    """Return the estimated score from played ``episodes``, with the 95 % interval of the mean return."""
    mean, interval = mean_and_interval(sum(episode.rewards) for episode in episodes)
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
    """Return the figures of every summary; of a policy with a KL penalty, also the regularized return and its optimum."""
    return {
        "return": score.return_,
        "gold": score.gold,
        "proxy": score.proxy,
        "optimal_return": problem.lines.optimal_return,
        "reference_return": problem.lines.reference_return,
        "normalized_score": score.normalized,
        **(
            {
                "regularized_return": score.regularized.return_,
                "optimal_regularized": score.regularized.optimal,
            }
            if score.regularized
            else {}
        ),
        "kl": score.kl,
        "exact": score.exact,
        "interval": list(score.interval) if score.interval else None,
        "note": score.note,
    }
