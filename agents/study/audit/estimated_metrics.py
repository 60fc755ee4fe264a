"""Metrics of a reward against the gold, estimated by search where the reward is no machine and cannot be enumerated."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.evaluation import evaluate, reference_policy
from tokenwalk.agents.exact_tokens.completions import (
    Completions,
    concatenate,
    sample_completions,
    top_completions,
)
from tokenwalk.agents.exact_tokens.encode import reference_samples
from tokenwalk.agents.exact_tokens.token_policy import exact_policy
from tokenwalk.agents.study.audit.exact_metrics import OPTIMA, ROUNDING, RewardMetrics, estimated_dead_groups
from tokenwalk.agents.study.audit.exploits import RewardOf, as_candidates, candidates, reward_function
from tokenwalk.agents.study.audit.keywords import Word, ngrams
from tokenwalk.agents.study.audit.mcmc import find_best, mcmc
from tokenwalk.agents.study.audit.search import BUDGET, OnStage, Search, ignore_stage, mean_by_prompt
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.source import MachineSource, Source
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.token_model import TokenModel, compose

MAX_PROMPTS = 32  # that are searched
REFERENCE_SHARE = 20  # 1 / share of the budget that goes to samples of the reference policy
GOLD_OPTIMA = 512  # gold-optimal completions that the search starts from
COEFFICIENTS = 40
MIN_EFFECTIVE = 30  # minimum effective sample size of a point of the curve


@dataclass(frozen=True)
class SearchSettings:
    """How the metrics are estimated.

    Attributes:
        words: keyword candidates, see ``words_in_code``; the search starts from them, too.
        budget: completions to score, approximately.
        judged: whether the task has a gold reward.
        on_stage: callback for each stage.
    """

    words: Sequence[Word] = ()
    budget: int = BUDGET
    judged: bool = True
    on_stage: OnStage = ignore_stage


@dataclass(frozen=True, eq=False)
class GoldOptimum:
    """The gold's optimum and the reference policy's gold.

    Attributes:
        gold_of: scores completions by the gold.
        optimal: the maximum gold of any policy. reference: the reference policy's gold.
        optima: completions of maximum gold.
        exact: whether ``optimal`` and ``reference`` are exact.
    """

    gold_of: RewardOf
    optimal: float
    reference: float
    optima: Completions
    exact: bool


def estimated_metrics(
    task: Task, source: Source, rng: np.random.Generator, settings: SearchSettings
) -> RewardMetrics:
    """Return the metrics of ``source`` as a search finds them.

    The search starts from the exploit candidates, samples of the reference policy and completions of maximum gold.

    Args:
        task: with at most ``MAX_PROMPTS`` prompts of positive weight, see ``fewer_prompts``.
        source: any reward.
        rng: of the search.
        settings: budget, keywords and progress.

    Raises:
        SourceContractError: a reward that breaks its contract.
    """
    budget, on_stage, words = settings.budget, settings.on_stage, settings.words
    gold = _gold_optimum(task, rng, on_stage, budget)
    search = Search(task, source, rng, on_stage)
    samples = reference_samples(task, search.prompts, _sample_count(search, budget), rng)
    reward = search.score(samples, "the reference policy")
    search.score(gold.optima, "the gold's optimum" if settings.judged else "the reference policy")

    def reward_of(completions: Completions) -> FloatArray:
        return search.score(completions, "an exploit candidate")

    for one in candidates(task, reward_of, words, rng):
        search.score(one.completions, f"the exploit {one.name!r}")
    if words and (once := as_candidates(task, "word", list(words), search.prompts)):
        search.score(once.completions, "a word in the reward's code")
    best = find_best(search, budget)
    found = candidates(task, reward_of, [*words, *ngrams(search.ties(0)[:OPTIMA], task.vocabulary.eos)], rng)
    for one in found:
        search.score(one.completions, f"the exploit {one.name!r}")
    if not search.is_best(
        best, reward_of(best)
    ).all():  # a repeated n-gram of the optimum has a higher reward
        best = mcmc(search, budget // 4)
    best_gold = mean_by_prompt(task, best, gold.gold_of(best))
    curve, reason = _curve(task, samples, reward, gold.gold_of(samples))
    low, high = search.span()
    return RewardMetrics(
        exact=False,
        found_by=f"{search.origin[0]}, {search.scored:,} completions scored",
        best_text=search.ties(0)[:1].texts(task)[0],
        tied=len(search.ties(0)) > 1,
        best_reward=search.mean_best(),
        best_gold=best_gold,
        reference_reward=mean_by_prompt(task, samples, reward),
        reference_gold=gold.reference,
        optimal_gold=max(gold.optimal, best_gold),
        gold_optimal_reward=_gold_optimal_reward(search, gold, best),
        low=low,
        high=high,
        dead_groups=estimated_dead_groups(task, samples.prompt, reward),
        curve=curve,
        candidates=found,
        reward_of=reward_of,
        notes=[*_notes(task, search, gold), *([reason] if reason else [])],
    )


def _sample_count(search: Search, budget: int) -> int:
    return max(200, budget // (REFERENCE_SHARE * len(search.prompts)))


def _gold_optimal_reward(search: Search, gold_optimum: GoldOptimum, best: Completions) -> float:
    """Return the maximum reward of the completions of maximum gold, among the gold's optima and ``best``."""
    every = concatenate([gold_optimum.optima, best])
    reward, gold = search.score(every, "MCMC"), gold_optimum.gold_of(every)
    found = np.empty(len(search.prompts))
    for where, prompt in enumerate(search.prompts):
        mine = every.prompt == prompt
        most = gold[mine].max()
        found[where] = reward[mine & (gold >= most - ROUNDING * abs(most))].max()
    return float(search.task.prompt_weights[search.prompts] @ found)


def _notes(task: Task, search: Search, gold: GoldOptimum) -> list[str]:
    """Return the limits of the estimates."""
    known = "" if gold.exact else ", also of the gold"
    return [
        f"estimates{known}: {task.name} is too large to enumerate and the reward is no machine, so a completion of higher "
        f"reward than the one found (by {search.origin[0]}) may exist"
    ]


def fewer_prompts(task: Task, rng: np.random.Generator) -> Task:
    """Return ``task`` with at most 32 prompts of positive weight, sampled by their weights where there are more."""
    given = np.flatnonzero(task.prompt_weights > 0)
    if len(given) <= MAX_PROMPTS:
        return task
    chosen = rng.choice(len(task.prompts), size=MAX_PROMPTS, replace=False, p=task.prompt_weights)
    weights = np.zeros(len(task.prompts))
    weights[chosen] = 1 / MAX_PROMPTS  # sampled by their weights, so they now have equal weights
    return replace(task, prompt_weights=weights)


def _gold_optimum(task: Task, rng: np.random.Generator, on_stage: OnStage, budget: int) -> GoldOptimum:
    """Return the gold's optimum: exact where the gold is a reward machine, else found by search."""
    gold = task.sources["gold"]
    prompts = np.flatnonzero(task.prompt_weights > 0)
    if isinstance(gold, MachineSource):
        on_stage("solving the gold")
        model = TokenModel(task, compose(task, "gold"))
        mdp = model.tabular_mdp()
        best = solve(mdp, {"gold": 1.0}, discount=1.0)
        policy = exact_policy(model, best)
        likeliest = [top_completions(task, policy, OPTIMA, int(prompt)) for prompt in prompts]
        optima = concatenate([*likeliest, sample_completions(task, policy, GOLD_OPTIMA, rng)])
        reference = evaluate(mdp, reference_policy(mdp)).returns["gold"]
        return GoldOptimum(reward_function(task, gold), best.start_value(mdp), reference, optima, True)
    search = Search(task, gold, rng, lambda stage: on_stage(f"the gold, {stage}"))
    samples = reference_samples(task, search.prompts, _sample_count(search, budget), rng)
    earned = search.score(samples, "the reference policy")
    optima = find_best(search, budget)

    def gold_of(completions: Completions) -> FloatArray:
        return search.score(completions, "completions")

    return GoldOptimum(gold_of, search.mean_best(), mean_by_prompt(task, samples, earned), optima, False)


def _curve(
    task: Task, samples: Completions, reward: FloatArray, gold: FloatArray
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the Goodhart curve estimated from ``samples`` of the reference policy, or the reason why there is none.

    The optimum at kl_coef weights each sample of a prompt by exp(reward / kl_coef). The curve ends where the effective
    sample size, 1 / sum of squared weights, is below ``MIN_EFFECTIVE``.
    """
    if np.ptp(reward) == 0:
        return None, f"curve: all {len(reward):,} samples of the reference policy have the same reward"
    prompts = np.unique(samples.prompt)
    rows = samples.prompt.reshape(len(prompts), -1)  # grouped by prompt, the same number of each
    proxy, true = reward.reshape(rows.shape), gold.reshape(rows.shape)
    points: list[tuple[float, float, float, float]] = []
    for kl_coef in np.geomspace(10 * reward.std(), 1e-3 * reward.std(), COEFFICIENTS):
        log_share = (proxy - proxy.max(axis=1, keepdims=True)) / kl_coef
        log_share -= np.log(np.exp(log_share).sum(axis=1, keepdims=True))
        share = np.exp(log_share)
        if (1 / (share**2).sum(axis=1)).min() < MIN_EFFECTIVE:
            break
        kl = (share * (log_share + np.log(rows.shape[1]))).sum(axis=1)
        weighted = (
            task.prompt_weights[prompts] @ one for one in (kl, (share * proxy).sum(1), (share * true).sum(1))
        )
        points.append((float(kl_coef), *(float(one) for one in weighted)))  # type: ignore[arg-type]
    if not points:
        return None, f"curve: the effective sample size is below {MIN_EFFECTIVE} at every point"
    return _as_curve(points), (
        f"curve: by importance weights, up to where the effective sample size is below {MIN_EFFECTIVE}"
    )


def _as_curve(points: Sequence[tuple[float, float, float, float]]) -> dict[str, Any]:
    kl_coef, kl, reward, gold = (list(column) for column in zip(*points, strict=True))
    top = int(np.argmax(gold))
    peak = {"kl_coef": kl_coef[top], "kl": kl[top], "gold": gold[top]}
    return {"exact": False, "kl_coef": kl_coef, "kl": kl, "reward": reward, "gold": gold, "peak": peak}
