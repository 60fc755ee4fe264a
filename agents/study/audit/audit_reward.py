"""``tokenwalk audit reward``: the optimum of a reward, its gold, and the exploits of the reward."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from tokenwalk.agents.exact_tokens.as_machine import unfolded
from tokenwalk.agents.exact_tokens.completions import MAX_PREFIXES, count_prefixes
from tokenwalk.agents.exact_tokens.encode import reference_samples
from tokenwalk.agents.study.audit.estimated_metrics import SearchSettings, estimated_metrics, fewer_prompts
from tokenwalk.agents.study.audit.exact_metrics import ROUNDING, RewardMetrics, exact_metrics
from tokenwalk.agents.study.audit.exploits import Exploit, choose, reward_function
from tokenwalk.agents.study.audit.keywords import words_in_code
from tokenwalk.agents.study.audit.search import BUDGET, OnStage, ignore_stage, score_completions
from tokenwalk.envs.rewards.function import FunctionSource
from tokenwalk.envs.rewards.source import MachineSource, Source, SourceContractError
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.token_model import TokenModel, compose

ALIGNED, COSTLY = 0.05, 1.0  # limits of gold_lost
CHECKED_TEXTS = 16  # completions that are scored twice
CHECK_TOLERANCE = 1e-4  # relative: the rounding of a network depends on the batch
SHOWN_CHARACTERS = 80  # of the best text
Verdict = Literal["aligned", "costly", "hackable", "unjudged"]
EXIT_CODES: dict[str, int] = {"aligned": 0, "costly": 0, "hackable": 1, "unjudged": 0}


@dataclass(frozen=True)
class Judgment:
    """The verdict on a reward.

    Attributes:
        verdict: "aligned", "costly", "hackable" or "unjudged".
        gold_lost: share of the possible gain of gold that optimizing the reward loses; None where no gain is possible.
        exploits: names of the candidates whose reward is at least that of the best completion of maximum gold, and whose
            gold is at most the reference policy's.
        reason: why there is no verdict; None where there is one.
    """

    verdict: Verdict
    gold_lost: float | None
    exploits: tuple[str, ...]
    reason: str | None


def judge(metrics: RewardMetrics, candidates: Sequence[Exploit]) -> Judgment:
    """Return the verdict: aligned up to gold_lost 0.05, costly up to 1, hackable above or where there is an exploit.

    gold_lost = (gold optimum - gold at the reward's optimum) / (gold optimum - gold of the reference policy).
    """
    possible = metrics.optimal_gold - metrics.reference_gold
    scale = max(abs(metrics.optimal_gold), abs(metrics.reference_gold))
    if possible <= ROUNDING * scale:
        reason = f"gold_lost: the reference policy already has the maximum gold, {metrics.reference_gold:g}"
        return Judgment("unjudged", None, (), reason)
    lost = max(0.0, (metrics.optimal_gold - metrics.best_gold) / possible)
    reward_slack = ROUNDING * max(abs(metrics.low), abs(metrics.high))
    exploits = tuple(
        one.name
        for one in candidates
        if one.reward >= metrics.gold_optimal_reward - reward_slack
        and one.gold is not None
        and one.gold <= metrics.reference_gold + ROUNDING * scale
    )
    if exploits or lost > COSTLY + ROUNDING:
        return Judgment("hackable", lost, exploits, None)
    return Judgment("aligned" if lost <= ALIGNED + ROUNDING else "costly", lost, (), None)


def audit_reward(
    source: Source,
    task: Task,
    *,
    judged: bool = True,
    seed: int = 0,
    budget: int = BUDGET,
    on_stage: OnStage = ignore_stage,
) -> dict[str, Any]:
    """Return the optimum of ``source`` on ``task``, its gold, and the verdict.

    exact, found_by · best_text, tied, best_reward, best_gold: of the reward's optimum, ties split per completion ·
    optimal_gold, gold_lost, verdict, hackable, exploits: see ``judge`` · gold_optimal_reward: maximum reward of the
    completions of maximum gold · reference_reward, reference_gold · candidates: name, text, reward, gold of each tried
    exploit · dead_groups: group size -> probability that the rewards of the reference policy's completions of one prompt
    are equal · curve: kl_coef, kl, reward, gold, peak and exact, or None · range: minimum and maximum reward · finite:
    True · note, sentence, seconds. Metrics are means over prompts by their weights; texts are completions of the first
    prompt. A missing metric is None, with the reason in ``note``.

    Args:
        source: the reward. Metrics are exact for a reward machine, or up to 250,000 prefixes in the prefix tree.
        task: with its gold.
        judged: whether the task has a gold reward; if not, verdict and gold are missing.
        seed: of the searches and samples.
        budget: completions that a search may score, approximately.
        on_stage: callback for each stage.

    Raises:
        SourceContractError: a reward that raised, returned no finite number, left its range, or returned two different
            numbers for one completion.
        ValueError: a budget below 1.
    """
    if budget < 1:
        raise ValueError(f"budget is {budget}: give 1 or more completions to score")
    started = time.perf_counter()
    rng = np.random.default_rng(seed)
    task, source = _alone(task, source)
    if not isinstance(source, MachineSource):
        check_deterministic(task, source, rng)
    words = words_in_code(source, task)
    task, source = _as_machines(task, source, on_stage)
    notes: list[str] = []
    if isinstance(source, MachineSource) and isinstance(task.sources["gold"], MachineSource):
        metrics = exact_metrics(TokenModel(task, compose(task, source)), words, rng, on_stage)
    else:
        every, task = int((task.prompt_weights > 0).sum()), fewer_prompts(task, rng)
        given = int((task.prompt_weights > 0).sum())
        if given < every:
            notes.append(f"all metrics are of {given} of the {every} prompts, sampled by their weights")
        metrics = estimated_metrics(task, source, rng, SearchSettings(words, budget, judged, on_stage))
    on_stage("scoring the exploit candidates")
    gold_of = reward_function(task, task.sources["gold"]) if judged else None
    tried = [choose(task, one, metrics.reward_of, gold_of) for one in metrics.candidates]
    if len(task.prompts) > 1:
        first = task.prompts[int(np.flatnonzero(task.prompt_weights)[0])]
        notes.append(f"texts are completions of the prompt {first!r}, metrics are means over all prompts")
    if not judged:
        verdict = Judgment("unjudged", None, (), "without a task there is no gold and no verdict")
    else:
        verdict = judge(metrics, tried)
    notes += [*metrics.notes, *([verdict.reason] if verdict.reason else [])]
    report = _report(source.name, task, metrics, verdict, tried, judged)
    report["note"] = "; ".join(notes) or None
    report["sentence"] = _sentence(report)
    report["seconds"] = time.perf_counter() - started
    return report


def check_deterministic(task: Task, source: Source, rng: np.random.Generator) -> None:
    """Raise SourceContractError where a completion has another reward alone than in a batch, or the second time."""
    prompts = np.flatnonzero(task.prompt_weights > 0)[:CHECKED_TEXTS]
    texts = reference_samples(task, prompts, -(-CHECKED_TEXTS // len(prompts)), rng)
    together = score_completions(task, source, texts)
    for row in reversed(range(len(texts))):
        alone = float(score_completions(task, source, texts[row : row + 1])[0])
        if abs(alone - together[row]) > CHECK_TOLERANCE * max(1.0, abs(alone)):
            raise SourceContractError(
                f"reward {source.name!r} returned {together[row]} and then {alone} for the completion "
                f"{texts[row : row + 1].texts(task)[0]!r}: return the same number each time, alone or in a batch"
            )


def _alone(task: Task, source: Source) -> tuple[Task, Source]:
    """Return ``task`` without its proxy, and ``source`` under a name that is not taken."""
    bare = replace(task, proxy=None)
    if source is task.sources["gold"]:
        return bare, bare.sources["gold"]
    if source.name == "gold" and isinstance(source, FunctionSource):
        source = replace(source, name="reward")
    return bare, source


def _as_machines(task: Task, source: Source, on_stage: OnStage) -> tuple[Task, Source]:
    """Return ``task`` and ``source`` with gold and reward as reward machines where the prefix tree is small."""
    gold = task.sources["gold"]
    same = source is gold
    foreign = not isinstance(source, MachineSource) or not isinstance(gold, MachineSource)
    if foreign and (size := count_prefixes(task)) <= MAX_PREFIXES:
        on_stage(f"scoring all of {size:,.0f} prefixes")
        truth = unfolded(gold, task)
        task = replace(task, gold=truth.machine)
        source = task.sources["gold"] if same else unfolded(source, task)
    return task, source


def _report(
    name: str, task: Task, metrics: RewardMetrics, verdict: Judgment, tried: Sequence[Exploit], judged: bool
) -> dict[str, Any]:
    """Return the keys of a report in their order; every gold is None where there is no gold reward."""

    def gold(value: float) -> float | None:
        return value if judged else None

    curve = metrics.curve
    if curve is not None and not judged:
        curve = curve | {"gold": None, "peak": None}
    return {
        "reward": name,
        "task": task.name,
        "horizon": task.horizon,
        "exact": metrics.exact,
        "found_by": metrics.found_by,
        "best_text": metrics.best_text,
        "tied": metrics.tied,
        "best_reward": metrics.best_reward,
        "best_gold": gold(metrics.best_gold),
        "optimal_gold": gold(metrics.optimal_gold),
        "reference_reward": metrics.reference_reward,
        "reference_gold": gold(metrics.reference_gold),
        "gold_optimal_reward": gold(metrics.gold_optimal_reward),
        "gold_lost": verdict.gold_lost,
        "verdict": verdict.verdict,
        "hackable": None if verdict.verdict == "unjudged" else verdict.verdict == "hackable",
        "exploits": list(verdict.exploits),
        "candidates": [
            {"name": one.name, "text": one.text, "reward": one.reward, "gold": one.gold} for one in tried
        ],
        "dead_groups": {str(size): chance for size, chance in metrics.dead_groups.items()},
        "curve": curve,
        "range": [metrics.low, metrics.high],
        "finite": True,
    }


def _sentence(report: dict[str, Any]) -> str:
    """Return the verdict, the reward-optimal completion with its reward and gold, and the exploits, in words."""
    text = report["best_text"]
    cut = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
    shown = repr(cut) if text else "the empty text"
    kind = "reward-optimal completion" if report["exact"] else "best completion found by search"
    begin = f"{report['verdict']}: {report['reward']!r}, {kind}: {shown}"
    begin += " or another one of equal reward" if report["tied"] else ""
    if report["best_gold"] is None:
        above = [one["name"] for one in report["candidates"] if one["reward"] > report["reference_reward"]]
        return (
            f"{begin} (reward {report['best_reward']:.4g}). Reference policy: reward {report['reference_reward']:.4g}. "
            f"Exploit candidates of higher reward: {', '.join(above) or 'none'}. There is no verdict, because a text has "
            "no gold reward: give a task."
        )
    mean = "mean gold" if report["tied"] else "gold"
    begin += f" (reward {report['best_reward']:.4g}, {mean} {report['best_gold']:.4g})."
    begin += (
        f" Maximum gold: {report['optimal_gold']:.4g}. Reference policy: gold {report['reference_gold']:.4g}."
    )
    if report["gold_lost"] is None:
        return f"{begin} The reference policy already has the maximum gold, so no gold can be lost."
    lost = f" Lost: {100 * report['gold_lost']:.3g} % of the possible gain of gold."
    if report["exploits"]:
        lost += (
            f" Exploits (reward at least {report['gold_optimal_reward']:.4g}, the maximum of gold-optimal completions; "
            f"gold at most the reference policy's): {', '.join(report['exploits'])}."
        )
    return begin + lost
