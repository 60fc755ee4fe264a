"""Metrics of a reward against the gold, exact where both are reward machines."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenwalk.agents.exact.dynamic_programming import optimal_actions, solve
from tokenwalk.agents.exact.evaluation import Evaluation, evaluate, reference_policy
from tokenwalk.agents.exact_tokens.best_of_n import (
    ReturnDistribution,
    TooManyLevelsError,
    return_distributions,
)
from tokenwalk.agents.exact_tokens.encode import reference_samples
from tokenwalk.agents.exact_tokens.exact_tables import ExactTables, exact_tables
from tokenwalk.agents.exact_tokens.frontier import trace_frontier
from tokenwalk.agents.exact_tokens.proxy_agreement import tied_levels
from tokenwalk.agents.study.audit.exploits import Candidates, RewardOf, candidates, reward_function
from tokenwalk.agents.study.audit.keywords import Word, ngrams
from tokenwalk.agents.study.audit.search import OnStage
from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.tabular import TabularMDP
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.token_model import TokenModel

GROUPS = (2, 4, 8, 16)
SAMPLES = 1_000  # per prompt, where the dead groups are estimated
OPTIMA = 16  # optimal completions that n-grams are read from
ROUNDING = 1e-9  # relative: returns that differ by less are equal


@dataclass
class RewardMetrics:
    """The reward's optimum, its gold, and the reference policy beside it; means over prompts by their weights.

    Attributes:
        exact: whether every metric is exact; else they are estimates.
        found_by: the method that found the optimum.
        best_text: an optimal completion of the first prompt. tied: whether there are others.
        best_reward: the maximum reward.
        best_gold: the gold of the reward's optimum, with ties split per completion.
        reference_reward, reference_gold: of the reference policy.
        optimal_gold: the maximum gold of any policy.
        gold_optimal_reward: the maximum reward among the completions of maximum gold.
        low, high: the range of the reward of a completion.
        dead_groups: group size -> probability that all its rewards are equal.
        curve: kl_coef, kl, reward and gold of the KL-regularized optima, with the peak of gold; None where it is missing.
        candidates: the exploit candidates by kind.
        reward_of: scores completions by the reward.
        notes: limits of the metrics, for the reader.
    """

    exact: bool
    found_by: str
    best_text: str
    tied: bool
    best_reward: float
    best_gold: float
    reference_reward: float
    reference_gold: float
    optimal_gold: float
    gold_optimal_reward: float
    low: float
    high: float
    dead_groups: dict[int, float]
    curve: dict[str, Any] | None
    candidates: list[Candidates]
    reward_of: RewardOf
    notes: list[str] = field(default_factory=list)


def exact_metrics(
    model: TokenModel, words: Sequence[Word], rng: np.random.Generator, on_stage: OnStage
) -> RewardMetrics:
    """Return the exact metrics of the training reward of ``model``.

    Args:
        model: its one training reward and its gold are reward machines.
        words: keyword candidates, see ``words_in_code``.
        rng: of samples: the candidate ``longest``, and the dead groups where the reward takes too many values.
        on_stage: callback for each stage.

    Raises:
        ValueError: more table entries than ``TokenModel.tabular_mdp`` allows.
    """
    on_stage("solving")
    task, (source, _) = model.task, model.composition.train[0]
    tables, weights = exact_tables(model), {source.name: 1.0}
    mdp, notes = tables.mdp, []
    best, gold_best = solve(mdp, weights, discount=1.0), solve(mdp, {"gold": 1.0}, discount=1.0)
    attained, reference = evaluate(mdp, best.policy), evaluate(mdp, reference_policy(mdp)).returns
    worst = solve(mdp, {source.name: -1.0}, discount=1.0)
    begins = mdp.start > 0
    first = int(np.flatnonzero(task.prompt_weights)[0])
    optima, reward_of = tables.top(best, OPTIMA, first), reward_function(task, source)
    on_stage("computing the reference policy's reward distribution")
    try:
        dead = _dead_groups(return_distributions(model))
    except TooManyLevelsError:
        samples = reference_samples(task, np.flatnonzero(task.prompt_weights), SAMPLES, rng)
        dead = estimated_dead_groups(task, samples.prompt, reward_of(samples))
        notes.append(
            f"dead_groups are an estimate from {SAMPLES} samples per prompt: the reward takes too many values"
        )
    on_stage("tracing the Goodhart curve")
    curve, reason = _curve(tables, source.name, attained, reference[source.name])
    return RewardMetrics(
        exact=True,
        found_by=f"backward induction over {mdp.n_states:,} states",
        best_text=optima.texts(task)[0],
        tied=len(optima) > 1,
        best_reward=best.start_value(mdp),
        best_gold=attained.returns["gold"],
        reference_reward=reference[source.name],
        reference_gold=reference["gold"],
        optimal_gold=gold_best.start_value(mdp),
        gold_optimal_reward=_best_reward_within(
            mdp, optimal_actions(mdp, gold_best, {"gold": 1.0}), source.name
        ),
        low=0.0 - float(worst.value[0, begins].max()),  # 0, never -0
        high=float(best.value[0, begins].max()),
        dead_groups=dead,
        curve=curve,
        candidates=candidates(task, reward_of, [*words, *ngrams(optima, task.vocabulary.eos)], rng),
        reward_of=reward_of,
        notes=notes + ([reason] if reason else []),
    )


def _dead_groups(distributions: list[ReturnDistribution]) -> dict[int, float]:
    """Return for each group size G the probability sum_r p(r)^G of G equal rewards, mean over prompts."""
    return {
        size: sum(one.weight * float((one.probability**size).sum()) for one in distributions)
        for size in GROUPS
    }


def estimated_dead_groups(task: Task, prompt: IntArray, reward: FloatArray) -> dict[int, float]:
    """Return the unbiased estimate of the same from samples of the reference policy: ``prompt`` [B], ``reward`` [B].

    Of n samples, c have the reward r: G of them, without replacement, all have it with (c / n) ... (c-G+1) / (n-G+1).
    """
    found = dict.fromkeys(GROUPS, 0.0)
    for one in np.unique(prompt):
        count = np.bincount(tied_levels(reward[prompt == one]))
        for size in GROUPS:
            taken = np.arange(size)
            share = np.maximum(count[:, None] - taken, 0) / np.maximum(count.sum() - taken, 1)
            found[size] += float(task.prompt_weights[one]) * float(share.prod(axis=1).sum())
    return found


def _curve(
    tables: ExactTables, name: str, best: Evaluation, reference: float
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the exact Goodhart curve of the reward ``name``, or the reason why there is none."""
    reward = best.returns[name]
    if reward - reference <= ROUNDING * max(abs(reward), abs(reference)):
        return None, f"curve: no policy has more reward than the reference policy, {reference:g}"
    if best.kl == np.inf:
        return (
            None,
            "curve: the reward's optimum has probability 0 under the reference policy, so its KL is infinite",
        )
    try:
        path = trace_frontier(tables, {name: 1.0}, best_gold=False)
    except (ValueError, ArithmeticError) as error:
        return None, f"curve: {error}"
    return {
        "exact": True,
        "kl_coef": path.kl_coef.tolist(),
        "kl": path.kl.tolist(),
        "reward": path.proxy.tolist(),
        "gold": path.gold.tolist(),
        "peak": {"kl_coef": path.peak.kl_coef, "kl": path.peak.kl, "gold": path.peak.gold},
    }, None


def _best_reward_within(mdp: TabularMDP, allowed: BoolArray, name: str) -> float:
    """Return the maximum return of the reward ``name`` with ``allowed`` [H, S, A] actions, from the start.

    V_t(s) = max over allowed a of r + V_t+1(s'), V_H = 0, for deterministic transitions.
    """
    step, last = mdp.reward({name: 1.0})
    goes_on = ~mdp.terminated[:, :, 0]
    value = np.zeros(mdp.n_states)
    for time in reversed(range(len(allowed))):
        target = step[:, :, 0] + goes_on * value[mdp.next_state[:, :, 0]]
        if time == len(allowed) - 1:
            target = step[:, :, 0] + last
        value = np.where(allowed[time], target, -np.inf).max(axis=1)
    begins = mdp.start > 0
    return float(mdp.start[begins] @ value[begins])
