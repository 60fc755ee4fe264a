"""Exact tables of a token task and its sources: the product of its machines, or its prefix tree."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Literal

import numpy as np

from tokenwalk.agents.exact.dynamic_programming import Solution, solve
from tokenwalk.agents.exact_tokens.completions import (
    MAX_PREFIXES,
    Completions,
    TreeTooLargeError,
    against,
    count_prefixes,
    enumerate_completions,
    top_completions,
)
from tokenwalk.agents.exact_tokens.token_policy import Policy, exact_policy
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.composition import Composition
from tokenwalk.envs.rewards.machine import RewardMachine
from tokenwalk.envs.tabular import TabularMDP
from tokenwalk.envs.token_model import TokenModel, compose


@dataclass(frozen=True, eq=False)
class ExactTables:
    """A token task as tables for ``solve`` and ``evaluate``, every source a channel by its name.

    Attributes:
        model: the task and its sources.
        method: "product": a state is one of the machines and of the reference policy's context, a step is a token.
            "tree": a state is a prompt, and the only step is a whole completion.
        mdp: undiscounted; its KL to the reference policy is that over whole completions either way.
        completions: of the tree, by prompt, in the order of the actions; None for a product.
    """

    model: TokenModel
    method: Literal["product", "tree"]
    mdp: TabularMDP
    completions: Completions | None

    def top(self, solution: Solution, count: int = 10, prompt: int = 0) -> Completions:
        """Return the completions of a solution of ``mdp`` after a prompt, the most probable first, up to ``count``.

        All those of a hard optimum attain it. Equally probable ones are in the order of their tokens' ids.

        Raises:
            ValueError: a count below 1, or a prompt that the task does not have or never gives.
        """
        task = self.model.task
        if self.completions is None:
            return top_completions(task, exact_policy(self.model, solution), count, prompt)
        rows = np.flatnonzero(self.completions.prompt == prompt)
        if count < 1 or not rows.size:
            raise ValueError(
                f"count is {count} and prompt {prompt}: give 1 or more, and one of the prompts "
                f"{np.unique(self.completions.prompt).tolist()}"
            )
        state = int(np.searchsorted(np.unique(self.completions.prompt), prompt))
        probability = solution.policy[0, state, : rows.size]
        with np.errstate(divide="ignore"):
            log_prob = np.log(probability)
        best = np.argsort(-np.round(log_prob, 12), kind="stable")[:count]
        best = best[probability[best] > 0]
        found = self.completions[rows[best]]
        return Completions(found.prompt, found.tokens, found.length, log_prob[best], found.log_reference)


def exact_tables(model: TokenModel, *, limit: int = MAX_PREFIXES) -> ExactTables:
    """Return the tables that are exact for ``model``: of its machines, or of its tree if a source is no machine.

    Raises:
        TreeTooLargeError: a source is no machine, and the tree has more than ``limit`` prefixes.
        ValueError: more table entries than ``TokenModel.tabular_mdp`` allows.
    """
    if not model.others:
        return ExactTables(model, "product", model.tabular_mdp(), None)
    if (size := count_prefixes(model.task)) > limit:
        foreign = f"source {model.others[0].name!r} is no machine, so only the prefix tree is exact, and that"
        raise TreeTooLargeError(f"{model.task.name} ({foreign} is too large)", size, limit, at_least=False)
    completions = enumerate_completions(model.task, limit=limit)
    scores = completions.scores(model.task, model.composition.sources)
    return ExactTables(model, "tree", _one_step(model, completions, scores), completions)


def _one_step(model: TokenModel, completions: Completions, scores: Mapping[str, FloatArray]) -> TabularMDP:
    """Return the process whose states are the prompts and whose actions are their whole completions."""
    prompts, state, counts = np.unique(completions.prompt, return_inverse=True, return_counts=True)
    action = np.arange(len(completions)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(prompts), int(counts.max()))

    def table_of(values: FloatArray, empty: float) -> FloatArray:
        table = np.full(shape, empty)
        table[state, action] = values
        return table

    return TabularMDP(
        next_state=np.zeros((*shape, 1), dtype=np.int64),
        probability=np.ones((*shape, 1)),
        terminated=np.ones((*shape, 1), dtype=np.bool_),
        rewards={name: table_of(values, 0.0)[:, :, None] for name, values in scores.items()},
        last_rewards={},
        available=np.arange(shape[1]) < counts[:, None],
        log_reference=table_of(completions.log_reference, -np.inf),
        start=model.task.prompt_weights[prompts],
        horizon=1,
        horizon_terminates=True,
    )


def train_weights(composition: Composition) -> dict[str, float]:
    """Return the weight of each source of the training reward, by name, as ``solve`` takes them."""
    return {source.name: weight for source, weight in composition.train}


def train_machine(model: TokenModel) -> RewardMachine:
    """Return the machine of the training reward of ``model``, without shaping.

    Raises:
        ValueError: a source of the training reward that is no machine.
    """
    weights = train_weights(model.composition)
    if foreign := [name for name in weights if name not in model.machines]:
        raise ValueError(
            f"source {foreign[0]!r} is no machine and {model.task.name} is too large to make it one: this needs every "
            "source of the training reward to be a machine"
        )
    return reduce(add, (weight * model.machines[name] for name, weight in weights.items()))


def optimal_value(
    model: TokenModel, *, kl_coef: float = 0.0, limit: int = MAX_PREFIXES, reference: Policy | None = None
) -> float | None:
    """Return the largest training return minus ``kl_coef`` times the KL of any policy; None if it cannot be exact.

    Only sources of the training reward count: if they are machines, other sources may be anything. ``reference`` is
    the policy that the KL is to, the task's if None. Another one is evaluated on all completions: more than ``limit``
    prefixes give None.
    """
    weights = train_weights(model.composition)
    if reference is not None and kl_coef > 0:
        if count_prefixes(model.task) > limit:
            return None
        completions = against(model.task, reference, enumerate_completions(model.task, limit=limit))
        mdp = _one_step(model, completions, completions.scores(model.task, model.composition.sources))
        return solve(mdp, weights, discount=1.0, kl_coef=kl_coef).start_value(mdp)
    if model.others and all(name in model.machines for name in weights):
        task = replace(model.task, gold=train_machine(model), proxy=None)
        model, weights = TokenModel(task, compose(task, "gold")), {"gold": 1.0}
    try:
        mdp = exact_tables(model, limit=limit).mdp
    except TreeTooLargeError:
        return None
    return solve(mdp, weights, discount=1.0, kl_coef=kl_coef).start_value(mdp)
