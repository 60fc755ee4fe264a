"""What is found of a reward beside the gold where it is neither a machine nor enumerable: estimates, and called so."""

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
from tokenwalk.agents.study.audit.exact_metrics import OPTIMA, ROUNDING, Figures, drawn_dead_groups
from tokenwalk.agents.study.audit.exploits import Pay, candidates, payer, written
from tokenwalk.agents.study.audit.keywords import Word, stretches
from tokenwalk.agents.study.audit.mcmc import find_best, walk
from tokenwalk.agents.study.audit.search import OnStage, Search, mean_by_prompt
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.source import MachineSource, Source
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.token_model import TokenModel, compose

MAX_PROMPTS = 32  # that are searched
REFERENCE_SHARE = 20  # one in so many of the budget goes to draws of the reference policy
GOLD_OPTIMA = 512  # completions of the gold's optimum that the search starts from
COEFFICIENTS = 40
COUNTED = 30  # draws that must carry a point of the curve


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of the gold.

    Attributes:
        pay: scores completions by it.
        optimal: the most gold of any policy. reference: the reference policy's.
        optima: completions that attain the most.
        exact: whether ``optimal`` and ``reference`` are.
    """

    pay: Pay
    optimal: float
    reference: float
    optima: Completions
    exact: bool


def estimated_figures(
    task: Task,
    source: Source,
    words: Sequence[Word],
    rng: np.random.Generator,
    told: OnStage,
    budget: int,
    judged: bool = True,
) -> Figures:
    """Return the figures of ``source`` as a search finds them.

    The search begins with the cheats, draws of the reference policy and completions of the most gold.

    Args:
        task: with at most ``MAX_PROMPTS`` prompts of positive weight, see ``fewer_prompts``.
        source: any.
        words: that the reward may pay for, see ``spelled``; the search begins with them, too.
        rng: of the search.
        told: hears of each stage.
        budget: texts that are scored, about.
        judged: whether the task's gold means anything.

    Raises:
        SourceContractError: a reward that returned what it must not.
    """
    truth = _truth(task, rng, told, budget)
    search = Search(task, source, rng, told)
    draws = reference_samples(task, search.prompts, _draws(search, budget), rng)
    paid = search.pay(draws, "the reference policy")
    search.pay(truth.optima, "the gold's optimum" if judged else "the reference policy")

    def pay(completions: Completions) -> FloatArray:
        return search.pay(completions, "a cheat")

    for one in candidates(task, pay, words, rng):
        search.pay(one.completions, f"the cheat {one.name!r}")
    if words and (once := written(task, "word", list(words), search.prompts)):
        search.pay(once.completions, "a word of the reward's own code")
    best = find_best(search, budget)
    cheats = candidates(task, pay, [*words, *stretches(search.ties(0)[:OPTIMA], task.vocabulary.eos)], rng)
    for one in cheats:
        search.pay(one.completions, f"the cheat {one.name!r}")
    if not search.is_best(best, pay(best)).all():  # a stretch of the optimum is paid more when it is repeated
        best = walk(search, budget // 4)
    best_gold = mean_by_prompt(task, best, truth.pay(best))
    curve, reason = _curve(task, draws, paid, truth.pay(draws))
    low, high = search.span()
    return Figures(
        exact=False,
        found_by=f"{search.origin[0]}, {search.scored:,} texts scored",
        best_text=search.ties(0)[:1].texts(task)[0],
        tied=len(search.ties(0)) > 1,
        best_reward=search.mean_best(),
        best_gold=best_gold,
        reference_reward=mean_by_prompt(task, draws, paid),
        reference_gold=truth.reference,
        optimal_gold=max(truth.optimal, best_gold),
        gold_optimal_reward=_best_pay_of_gold(search, truth, best),
        low=low,
        high=high,
        dead_groups=drawn_dead_groups(task, draws.prompt, paid),
        curve=curve,
        candidates=cheats,
        pay=pay,
        notes=[*_notes(task, search, truth), *([reason] if reason else [])],
    )


def _draws(search: Search, budget: int) -> int:
    return max(200, budget // (REFERENCE_SHARE * len(search.prompts)))


def _best_pay_of_gold(search: Search, truth: Truth, best: Completions) -> float:
    """Return what the best-paid completions of the most gold are paid, among the gold's optima and ``best``."""
    every = concatenate([truth.optima, best])
    pay, gold = search.pay(every, "walk"), truth.pay(every)
    found = np.empty(len(search.prompts))
    for where, prompt in enumerate(search.prompts):
        mine = every.prompt == prompt
        most = gold[mine].max()
        found[where] = pay[mine & (gold >= most - ROUNDING * abs(most))].max()
    return float(search.task.prompt_weights[search.prompts] @ found)


def _notes(task: Task, search: Search, truth: Truth) -> list[str]:
    """Return what a reader must know of the estimates."""
    known = "" if truth.exact else ", the gold's too"
    return [
        f"estimates{known}: {task.name} is too large to enumerate with a reward that is no machine, so something paid "
        f"more than what was found (by {search.origin[0]}) may exist"
    ]


def fewer_prompts(task: Task, rng: np.random.Generator) -> Task:
    """Return ``task`` with at most 32 prompts of positive weight, drawn by their weights where there are more."""
    given = np.flatnonzero(task.prompt_weights > 0)
    if len(given) <= MAX_PROMPTS:
        return task
    chosen = rng.choice(len(task.prompts), size=MAX_PROMPTS, replace=False, p=task.prompt_weights)
    weights = np.zeros(len(task.prompts))
    weights[chosen] = 1 / MAX_PROMPTS  # drawn by their weights, they count alike
    return replace(task, prompt_weights=weights)


def _truth(task: Task, rng: np.random.Generator, told: OnStage, budget: int) -> Truth:
    """Return what is known of the gold of ``task``: exactly where it is a machine, else as a search finds it."""
    gold = task.sources["gold"]
    prompts = np.flatnonzero(task.prompt_weights > 0)
    if isinstance(gold, MachineSource):
        told("solving the gold")
        model = TokenModel(task, compose(task, "gold"))
        mdp = model.tabular_mdp()
        best = solve(mdp, {"gold": 1.0}, discount=1.0)
        policy = exact_policy(model, best)
        likeliest = [top_completions(task, policy, OPTIMA, int(prompt)) for prompt in prompts]
        optima = concatenate([*likeliest, sample_completions(task, policy, GOLD_OPTIMA, rng)])
        reference = evaluate(mdp, reference_policy(mdp)).returns["gold"]
        return Truth(payer(task, gold), best.start_value(mdp), reference, optima, True)
    search = Search(task, gold, rng, lambda stage: told(f"the gold, {stage}"))
    draws = reference_samples(task, search.prompts, _draws(search, budget), rng)
    earned = search.pay(draws, "the reference policy")
    optima = find_best(search, budget)

    def pay(completions: Completions) -> FloatArray:
        return search.pay(completions, "completions")

    return Truth(pay, search.mean_best(), mean_by_prompt(task, draws, earned), optima, False)


def _curve(
    task: Task, draws: Completions, paid: FloatArray, gold: FloatArray
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the Goodhart curve estimated from ``draws`` of the reference policy, or the reason why there is none.

    The optimum at kl_coef weighs each draw by exp(pay / kl_coef), of each prompt. The curve ends where fewer than
    ``COUNTED`` draws carry it: 1 / sum of squared shares.
    """
    if np.ptp(paid) == 0:
        return None, f"curve: all {len(paid):,} draws of the reference policy are paid the same"
    prompts = np.unique(draws.prompt)
    rows = draws.prompt.reshape(len(prompts), -1)  # prompt by prompt, as many of each
    pay, true = paid.reshape(rows.shape), gold.reshape(rows.shape)
    points: list[tuple[float, float, float, float]] = []
    for kl_coef in np.geomspace(10 * paid.std(), 1e-3 * paid.std(), COEFFICIENTS):
        log_share = (pay - pay.max(axis=1, keepdims=True)) / kl_coef
        log_share -= np.log(np.exp(log_share).sum(axis=1, keepdims=True))
        share = np.exp(log_share)
        if (1 / (share**2).sum(axis=1)).min() < COUNTED:
            break
        kl = (share * (log_share + np.log(rows.shape[1]))).sum(axis=1)
        weighted = (
            task.prompt_weights[prompts] @ one for one in (kl, (share * pay).sum(1), (share * true).sum(1))
        )
        points.append((float(kl_coef), *(float(one) for one in weighted)))  # type: ignore[arg-type]
    if not points:
        return None, f"curve: fewer than {COUNTED} draws of the reference policy carry any point of it"
    return _as_curve(points), f"curve: by importance weights, up to where fewer than {COUNTED} draws carry it"


def _as_curve(points: Sequence[tuple[float, float, float, float]]) -> dict[str, Any]:
    kl_coef, kl, reward, gold = (list(column) for column in zip(*points, strict=True))
    top = int(np.argmax(gold))
    peak = {"kl_coef": kl_coef[top], "kl": kl[top], "gold": gold[top]}
    return {"exact": False, "kl_coef": kl_coef, "kl": kl, "reward": reward, "gold": gold, "peak": peak}
