"""The one object in which a learner hands over what it learned: tables, a policy over tokens, or something that plays."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tokenwalk.agents.evaluation.rollout import Actor, TableActor, TokenActor
from tokenwalk.agents.exact_tokens.token_policy import Policy, table_policy
from tokenwalk.agents.problem.problem import Problem
from tokenwalk.envs.arrays import FloatArray


@dataclass(frozen=True)
class KLPenalty:
    """A KL penalty that is part of a policy's objective.

    Attributes:
        kl_coef: the KL coefficient.
        reference: the policy that the KL is to; None: the task's own reference policy.
        optimum: the largest regularized return of any policy, exact; None where it is not known.
    """

    kl_coef: float
    reference: Policy | None
    optimum: float | None


@dataclass(frozen=True)
class TablePolicies:
    """The policies of R independent runs on a problem's own tables, [R, T or 1, S, A]."""

    tables: FloatArray


@dataclass(frozen=True)
class TokenPolicy:
    """A policy over token ids, with the KL penalty of its objective where it has one."""

    policy: Policy
    kl_penalty: KLPenalty | None = None


@dataclass(frozen=True)
class PlayedPolicy:
    """A policy of which nothing is known but how it acts: a generator gives an actor."""

    make_actor: Callable[[np.random.Generator], Actor]


AnyPolicy = TablePolicies | TokenPolicy | PlayedPolicy


def over_tokens(problem: Problem, policy: AnyPolicy, run: int = 0) -> Policy:
    """Return ``policy`` over the token ids of a token task, from the table of ``run`` where it is a table.

    Raises:
        ValueError: no token task, or a policy of which nothing is known but how it acts.
    """
    if problem.tokens is None:
        raise ValueError(f"{problem.env_id} is no token task: it has no policy over tokens")
    if isinstance(policy, TablePolicies):
        return table_policy(problem.tokens, policy.tables[run])
    if isinstance(policy, TokenPolicy):
        return policy.policy
    raise ValueError(
        f"the policy on {problem.env_id} can only act: its probabilities of tokens are not known"
    )


def make_actor(problem: Problem, policy: AnyPolicy, rng: np.random.Generator, run: int = 0) -> Actor:
    """Return what acts as ``policy`` does in an environment of ``problem``; of several runs, the given one."""
    if isinstance(policy, PlayedPolicy):
        return policy.make_actor(rng)
    if problem.tokens is not None:
        return TokenActor(over_tokens(problem, policy, run), problem.tokens.task, rng)
    assert isinstance(policy, TablePolicies)
    return TableActor(policy.tables[run], int, rng)
