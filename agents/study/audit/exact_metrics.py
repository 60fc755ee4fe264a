"""What is known of a reward beside the gold: exactly, where both are machines."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenwalk.agents.exact.dynamic_programming import optimal_actions, solve
from tokenwalk.agents.exact.evaluation import Evaluation, evaluate, reference_policy
from tokenwalk.agents.exact_tokens.best_of_n import ReturnLaw, TooManyLevelsError, return_laws
from tokenwalk.agents.exact_tokens.encode import reference_samples
from tokenwalk.agents.exact_tokens.exact_tables import ExactTables, exact_tables
from tokenwalk.agents.exact_tokens.frontier import trace_frontier
from tokenwalk.agents.exact_tokens.proxy_agreement import tied_levels
from tokenwalk.agents.study.audit.exploits import Candidates, Pay, candidates, payer
from tokenwalk.agents.study.audit.keywords import Word, stretches
from tokenwalk.agents.study.audit.search import OnStage
from tokenwalk.envs.arrays import BoolArray, FloatArray, IntArray
from tokenwalk.envs.tabular import TabularMDP
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.token_model import TokenModel

GROUPS = (2, 4, 8, 16)
DRAWS = 1_000  # for each prompt, where dead groups cannot be had exactly
OPTIMA = 16  # completions of the reward's optimum that keywords are read from
ROUNDING = 1e-9  # of the larger of two returns: what differs by less is equal


@dataclass
class Figures:
    """What an optimiser of a reward would do, and what that is worth; over prompts by their weights.

    Attributes:
        exact: whether every figure is; else they are estimates.
        found_by: what found the optimum.
        best_text: a completion of the reward's optimum, after the first prompt. tied: whether another one is paid as much.
        best_reward: what the reward's optimum is paid.
        best_gold: the gold of the reward's optimum, ties split per completion.
        reference_reward, reference_gold: what the reference policy is paid and truly earns.
        optimal_gold: the most gold of any policy.
        gold_optimal_reward: what the best-paid completions of the most gold are paid.
        low, high: the range of the pay of a completion.
        dead_groups: size of a group -> probability that all of it is paid the same.
        curve: kl_coef, kl, reward and gold along the KL-regularised optima, their peak; None where there is none.
        candidates: the cheats by kind.
        pay: scores completions by the reward.
        notes: what a reader must know.
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
    pay: Pay
    notes: list[str] = field(default_factory=list)


def exact_figures(
    model: TokenModel, words: Sequence[Word], rng: np.random.Generator, told: OnStage
) -> Figures:
    """Return the figures of what ``model`` pays, exactly.

    Args:
        model: its one train source and its gold are machines.
        words: that the reward may pay for, see ``spelled``.
        rng: of draws: the longest cheat, and dead groups where the pay takes too many values to be followed.
        told: hears of each stage.

    Raises:
        ValueError: more table entries than ``TokenModel.tabular_mdp`` allows.
    """
    told("solving")
    task, (source, _) = model.task, model.composition.train[0]
    tables, weights = exact_tables(model), {source.name: 1.0}
    mdp, notes = tables.mdp, []
    best, truth = solve(mdp, weights, discount=1.0), solve(mdp, {"gold": 1.0}, discount=1.0)
    attained, reference = evaluate(mdp, best.policy), evaluate(mdp, reference_policy(mdp)).returns
    worst = solve(mdp, {source.name: -1.0}, discount=1.0)
    begins = mdp.start > 0
    first = int(np.flatnonzero(task.prompt_weights)[0])
    optima, pay = tables.top(best, OPTIMA, first), payer(task, source)
    told("following what the reference policy is paid")
    try:
        dead = _dead_groups(return_laws(model))
    except TooManyLevelsError:
        draws = reference_samples(task, np.flatnonzero(task.prompt_weights), DRAWS, rng)
        dead = drawn_dead_groups(task, draws.prompt, pay(draws))
        notes.append(
            f"dead_groups are an estimate from {DRAWS} draws a prompt: the pay takes too many values"
        )
    told("tracing the Goodhart curve")
    curve, reason = _curve(tables, source.name, attained, reference[source.name])
    return Figures(
        exact=True,
        found_by=f"backward induction over {mdp.n_states:,} states",
        best_text=optima.texts(task)[0],
        tied=len(optima) > 1,
        best_reward=best.start_value(mdp),
        best_gold=attained.returns["gold"],
        reference_reward=reference[source.name],
        reference_gold=reference["gold"],
        optimal_gold=truth.start_value(mdp),
        gold_optimal_reward=_best_pay_within(mdp, optimal_actions(mdp, truth, {"gold": 1.0}), source.name),
        low=0.0 - float(worst.value[0, begins].max()),  # 0, never -0
        high=float(best.value[0, begins].max()),
        dead_groups=dead,
        curve=curve,
        candidates=candidates(task, pay, [*words, *stretches(optima, task.vocabulary.eos)], rng),
        pay=pay,
        notes=notes + ([reason] if reason else []),
    )


def _dead_groups(laws: list[ReturnLaw]) -> dict[int, float]:
    """Return for each size of a group the probability that all its completions of one prompt are paid the same."""
    return {size: sum(law.weight * float((law.probability**size).sum()) for law in laws) for size in GROUPS}


def drawn_dead_groups(task: Task, prompt: IntArray, pay: FloatArray) -> dict[int, float]:
    """Return the same estimated without bias from draws of the reference policy, paid ``pay`` [B], ``prompt`` [B].

    Of n draws, c of a level: the chance that G of them, without replacement, are of it, (c / n) ... (c-G+1) / (n-G+1).
    """
    found = dict.fromkeys(GROUPS, 0.0)
    for one in np.unique(prompt):
        count = np.bincount(tied_levels(pay[prompt == one]))
        for size in GROUPS:
            taken = np.arange(size)
            share = np.maximum(count[:, None] - taken, 0) / np.maximum(count.sum() - taken, 1)
            found[size] += float(task.prompt_weights[one]) * float(share.prod(axis=1).sum())
    return found


def _curve(
    tables: ExactTables, name: str, best: Evaluation, reference: float
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the exact Goodhart curve of source ``name``, or the reason why there is none."""
    paid = best.returns[name]
    if paid - reference <= ROUNDING * max(abs(paid), abs(reference)):
        return None, f"curve: no policy is paid more than the reference policy, {reference:g}"
    if best.kl == np.inf:
        return (
            None,
            "curve: the reference policy never writes what is paid most, so that no finite KL leads there",
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


def _best_pay_within(mdp: TabularMDP, allowed: BoolArray, name: str) -> float:
    """Return the most that channel ``name`` pays for an episode of ``allowed`` [H, S, A] actions, from the start.

    V_t(s) = max over allowed a of r + V_t+1(s'), V_H = 0, on a process whose steps have one outcome.
    """
    step, last = mdp.reward({name: 1.0})
    goes_on = ~mdp.terminated[:, :, 0]
    value = np.zeros(mdp.n_states)
    for time in reversed(range(len(allowed))):
        pay = step[:, :, 0] + goes_on * value[mdp.next_state[:, :, 0]]
        if time == len(allowed) - 1:
            pay = step[:, :, 0] + last
        value = np.where(allowed[time], pay, -np.inf).max(axis=1)
    begins = mdp.start > 0
    return float(mdp.start[begins] @ value[begins])
