"""``tokenwalk solve``: the exact answers of an environment, as a dictionary whose keys are fixed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.exact.bellman import NoFiniteAnswerError
from tokenwalk.agents.exact.dynamic_programming import Solution, optimal_actions, solve
from tokenwalk.agents.exact.evaluation import evaluate
from tokenwalk.agents.exact.invariance import Invariance, compare_optima
from tokenwalk.agents.exact_tokens.completions import best_text
from tokenwalk.agents.exact_tokens.token_policy import table_policy
from tokenwalk.agents.problem.problem import Problem, read_lines
from tokenwalk.agents.problem.reward_spec import reward_components
from tokenwalk.envs.arrays import BoolArray, FloatArray
from tokenwalk.envs.rewards.source import MachineSource
from tokenwalk.envs.token_model import TokenModel

MAX_LISTED_STATES = 1_000


@dataclass(frozen=True)
class SolvedProblem:
    """What ``solve_problem`` found: the report of the command line and the arrays behind it."""

    report: dict[str, Any]
    solution: Solution | None
    regularized: Solution | None
    actions: BoolArray | None  # [T or 1, S, A], True where optimal

    def write_arrays(self, path: Path) -> None:
        """Write values, optimal actions and policies as an npz: value [T or 1, S], actions and policy [T or 1, S, A].

        Raises:
            ValueError: there is no solution to write.
        """
        if self.solution is None or self.actions is None:
            raise ValueError(f"nothing to write to {path}: {self.report['note']}")
        arrays: dict[str, Any] = {
            "value": self.solution.value,
            "optimal_actions": self.actions,
            "policy": self.solution.policy,
        }
        if self.regularized is not None:
            arrays |= {
                "regularized_value": self.regularized.value,
                "regularized_policy": self.regularized.policy,
            }
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)


def solve_problem(
    problem: Problem,
    *,
    discount: float | None = None,
    kl_coef: float | None = None,
    source: str | None = None,
    bonus: Sequence[str] = (),
) -> SolvedProblem:
    """Return the exact answers of ``problem`` under both objectives, by name.

    ``optimal_return`` and ``reference_return`` are undiscounted over the environment's own horizon (until termination
    where it has none). ``optimal_value``, ``regularized_value`` and ``kl`` are under ``discount`` (the id's own by
    default), over the infinite horizon where the time limit is a mere truncation. Per-state lists are of the first
    step, up to 1,000 states. ``gold`` and ``proxy`` are the undiscounted returns, over the environment's own horizon, of
    the policy that attains ``optimal_value`` (``regularized_value`` where there is a ``kl_coef``), and ``best_text`` is a
    completion that attains the optimum. With ``source`` that source alone is solved for, and the two returns are its own.
    ``shaping`` says what the problem's shaping, and ``bonus`` what the added rewards of ``bonus`` do to the optimum:
    unchanged, changed_states (of the reachable pairs of time and state: states), gold_before, gold_after, gold_lost,
    sentence; the key is there only where something is added. A figure that does not exist is None, with the reason in
    ``note``.

    Raises:
        ValueError: an environment without tables, a discount outside (0, 1], a kl_coef that is not above 0, or a source
            that the environment does not have.
    """
    mdp = problem.mdp
    if mdp is None:
        raise ValueError(f"{problem.env_id} has no exact answer: {problem.reason}")
    if kl_coef is not None and not kl_coef > 0:
        raise ValueError(
            f"kl_coef is {kl_coef}: give a number above 0, or leave it out for the unregularized optimum"
        )
    started = time.perf_counter()
    discount = problem.discount if discount is None else discount
    endless = mdp.without_time_limit()
    weights = problem.weights if source is None else {source: 1.0}
    lines = problem.lines if source is None else read_lines(problem, {source: 1.0})
    notes = [lines.note] if lines.note else []
    solution = regularized = actions = kl = None
    returns: Mapping[str, float] = {}
    try:
        solution = solve(endless, weights, discount=discount)
        actions = optimal_actions(endless, solution, weights)
        if kl_coef is not None:
            regularized = solve(endless, weights, discount=discount, kl_coef=kl_coef)
            kl = evaluate(endless, regularized.policy, discount=discount).kl
        returns = evaluate(mdp, (regularized or solution).policy).returns
    except NoFiniteAnswerError as error:
        notes.append(f"{_missing(solution, regularized if kl_coef else solution)}: {error}")
    if problem.tokens is not None and len(problem.tokens.task.prompts) > 1:
        notes.append(f"best_text answers the prompt {problem.tokens.task.prompts[0]!r}")
    listed = solution is not None and mdp.n_states <= MAX_LISTED_STATES
    report: dict[str, Any] = {
        "env": problem.env_id,
        "horizon": mdp.horizon,
        "discount": discount,
        "kl_coef": kl_coef,
        "optimal_return": lines.optimal_return if source is None else lines.optimal_train_return,
        "reference_return": lines.reference_return if source is None else lines.reference_train_return,
        "optimal_value": solution.start_value(mdp) if solution else None,
        "optimal_values": _finite(solution.value[0]) if solution and listed else None,
        "optimal_actions": [np.flatnonzero(row).tolist() for row in actions[0]]
        if actions is not None and listed
        else None,
        "regularized_value": regularized.start_value(mdp) if regularized else None,
        "kl": kl,
        "states": mdp.n_states,
        "exact": True,
        "residual": max((one.residual for one in (solution, regularized) if one), default=None),
        "seconds": time.perf_counter() - started,
        "note": "; ".join(notes) or None,
        "gold": returns.get("gold"),
        "proxy": returns.get("proxy"),
        "best_text": _best_text(problem, solution),
    }
    if problem.shaped or bonus:
        report["shaping"] = _moves(problem, bonus, discount)
    return SolvedProblem(report, solution, regularized, actions)


def _moves(problem: Problem, bonus: Sequence[str], discount: float) -> dict[str, Any]:
    """Return what the shaping of ``problem`` and the rewards of ``bonus`` do to the optimum of the training reward, exactly.

    Raises:
        ValueError: an environment that is no token task, or something added that is no machine of it.
    """
    tokens = problem.tokens
    if tokens is None:
        raise ValueError(f"{problem.env_id} is no token task: there is nothing to add a reward to")
    added = list(problem.sources.get("shaping", ()))
    names = {source.name for source, _ in (*tokens.composition.train, *added)}
    for one in reward_components(bonus, tokens.task):
        if one.scoring.name in names:
            raise ValueError(
                f"{one.scoring.name!r} is a reward component already: --bonus takes what is added"
            )
        added.append((one.scoring, one.weight))
    if foreign := [source.name for source, _ in added if not isinstance(source, MachineSource)]:
        raise ValueError(
            f"{foreign[0]!r} is no machine, and {tokens.task.name} is too large to make it one: whether it moves the "
            "optimum can be decided where the prefix tree is small"
        )
    composition = replace(tokens.composition, shaping=tuple(added))
    mdp = TokenModel(tokens.task, composition).tabular_mdp()
    found = compare_optima(
        mdp, problem.weights, {source.name: weight for source, weight in added}, discount=discount
    )
    return {
        "unchanged": found.unchanged,
        "changed_states": found.changed_states,
        "states": found.states,
        "gold_before": found.gold_before,
        "gold_after": found.gold_after,
        "gold_lost": found.gold_lost,
        "sentence": _sentence(found),
    }


def _sentence(found: Invariance) -> str:
    """Return in words what was found."""
    if found.unchanged:
        return f"the optimal policy is unchanged in all {found.states:,} states that can be reached"
    return (
        f"the optimal policy changes in {found.changed_states:,} of {found.states:,} states that can be reached; its gold "
        f"goes from {found.gold_before:g} to {found.gold_after:g}"
    )


def _missing(solution: Solution | None, sought: Solution | None) -> str:
    """Return the name of the first figure that does not exist."""
    if solution is None:
        return "optimal_value"
    return "regularized_value" if sought is None else "gold"


def _best_text(problem: Problem, solution: Solution | None) -> str | None:
    """Return a completion of the first prompt that attains the optimum; None where there are no tokens."""
    if problem.tokens is None or solution is None:
        return None
    return best_text(problem.tokens.task, table_policy(problem.tokens, solution.policy))


def _finite(values: FloatArray) -> list[float | None]:
    """Return ``values`` [S] as JSON has them: None for a state from which no policy is sure to end."""
    return [float(value) if np.isfinite(value) else None for value in values]
