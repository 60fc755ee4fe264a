"""Something that learns: the protocol, what it is worth, and how a table is played."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from tokenwalk.agents.exact.token_policy import Policy, table_policy
from tokenwalk.agents.study.problem import Problem
from tokenwalk.agents.study.rollout import Actor, TableActor, TokenActor, play
from tokenwalk.agents.study.scoring import Charge, Score, score_episodes, score_exactly, score_tokens_policy
from tokenwalk.envs.transition import FloatArray

MODEL_FILE = "model.safetensors"
EPISODES = 200  # played for a score where nothing is exact
Report = Callable[[int, Mapping[str, float]], None]


class Learner(Protocol):
    """Something that learns, or knows already."""

    runs: int
    can_resume: bool

    @property
    def charge(self) -> Charge | None:
        """Return the KL that the scored policy pays while it learns; None: none."""

    @property
    def steps(self) -> int:
        """Return the environment steps taken so far, of each run."""

    def learn(self, steps: int, report: Report) -> None:
        """Take ``steps`` more steps; ``report`` gets the step and the metrics some times a second."""

    def set_weight(self, name: str, weight: float) -> None:
        """Give the paid source ``name`` another weight from the next step on; asked only where one is annealed."""

    def policies(self) -> FloatArray | None:
        """Return the scored policies [R, T or 1, S, A], or None where the observations are no states of tables."""

    def token_policy(self, run: int) -> Policy:
        """Return the scored policy of one run over token ids; asked for only where ``policies`` returns None."""

    def actor(self, run: int, rng: np.random.Generator) -> Actor:
        """Return the scored policy of one run as something that plays."""

    def save(self, folder: Path) -> None:
        """Write the model into a run folder."""


def score_learner(problem: Problem, learner: Learner, seed: int, episodes: int = EPISODES) -> Score:
    """Return the learner's exact score where there are tables, else an estimate from ``episodes`` played episodes."""
    policies = learner.policies()
    if policies is not None and problem.mdp is not None:
        return score_exactly(problem, policies)
    if problem.tokens is not None:
        return score_tokens_policy(problem, learner.token_policy(0), seed, charge=learner.charge)
    actor = learner.actor(0, np.random.default_rng(seed))
    return score_episodes(problem, list(play(problem.make_to_play(), actor, episodes, seed)))


def play_table(problem: Problem, policy: FloatArray, rng: np.random.Generator) -> Actor:
    """Return an actor for a policy [T or 1, S, A] of the problem's own tables."""
    if problem.tokens is not None:
        return TokenActor(table_policy(problem.tokens, policy), problem.tokens.task, rng)
    return TableActor(policy, int, rng)
