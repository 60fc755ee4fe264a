"""The agents by name, each as a learner, and the two that have nothing to learn: the ends of every scale."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.evaluation import reference_policy
from tokenwalk.agents.exact.token_policy import Policy, reference_on_tokens, table_policy
from tokenwalk.agents.runs.checkpoint import DamagedFileError, read_arrays, write_arrays
from tokenwalk.agents.study.budgets import LANGUAGE, SB3, TABULAR, check_agent, config_type
from tokenwalk.agents.study.learner import MODEL_FILE, Learner, Report, play_table
from tokenwalk.agents.study.problem import Problem
from tokenwalk.agents.study.rollout import Actor, RandomActor
from tokenwalk.agents.study.tabular_learner import AGENT_FILE, TabularLearner, find_walk
from tokenwalk.agents.tabular.saving import load_agent
from tokenwalk.envs.transition import FloatArray

POLICY_FILE = "policy.npz"


def build_learner(
    agent: str, problem: Problem, config: Any, *, seed: int, runs: int | None, threads: int
) -> Learner:
    """Return a fresh learner.

    Raises:
        ValueError: an unknown agent, spaces that it cannot take, or several runs of an agent that trains one at a time.
    """
    check_agent(agent)
    if agent in TABULAR:
        return TabularLearner.fresh(problem, config, seed=seed, runs=runs)
    if runs not in (None, 1):
        raise ValueError(
            f"{agent} trains one run at a time and was asked for {runs}: start it once for each --seed"
        )
    if agent in SB3:
        from tokenwalk.agents.study.sb3_learner import SB3Learner

        return SB3Learner(agent, problem, config, seed=seed, threads=threads)
    if agent in LANGUAGE:
        from tokenwalk.agents.study.language_learner import LanguageLearner

        return LanguageLearner(agent, problem, config, seed=seed, threads=threads)
    return ExactLearner(problem) if agent == "exact" else RandomLearner(problem)


def load_learner(folder: Path, request: Mapping[str, Any], problem: Problem) -> Learner:
    """Return the learner that a run folder holds; ``request`` is its config.json.

    Raises:
        DamagedFileError: a model file that is torn or foreign, or missing.
    """
    agent = check_agent(request["agent"])
    try:
        if agent in TABULAR:
            tabular = load_agent(folder / AGENT_FILE)
            return TabularLearner(problem, tabular, find_walk(problem, tabular.config))
        if agent in SB3:
            from tokenwalk.agents.study.sb3_learner import SB3Learner

            return SB3Learner(agent, problem, None, seed=0, threads=1, model_file=folder / MODEL_FILE)
        if agent in LANGUAGE:
            from tokenwalk.agents.study.language_learner import LanguageLearner

            kind = config_type(agent)
            assert kind is not None
            config = kind(**request["config"])
            return LanguageLearner(agent, problem, config, seed=request["seed"], threads=1, folder=folder)
        if agent == "exact":
            return ExactLearner(problem, read_arrays(folder / POLICY_FILE)[0]["policy"])
    except FileNotFoundError as error:
        raise DamagedFileError(f"{error.filename} is missing: restore it or train again") from None
    return RandomLearner(problem)


class RandomLearner:
    """The reference policy, or chance where none is known: the lower end of every scale. It has nothing to learn."""

    runs, can_resume, steps, charge = 1, False, 0, None

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def learn(self, steps: int, report: Report) -> None:
        """Do nothing."""

    def set_weight(self, name: str, weight: float) -> None:
        """Do nothing."""

    def policies(self) -> FloatArray | None:
        """Return the reference policy, [1, 1, S, A]."""
        return None if self._problem.mdp is None else reference_policy(self._problem.mdp)[None]

    def token_policy(self, run: int) -> Policy:
        """Return the task's reference policy."""
        assert self._problem.tokens is not None
        return reference_on_tokens(self._problem.tokens.task)

    def actor(self, run: int, rng: np.random.Generator) -> Actor:
        """Return an actor that plays the reference policy, or at random."""
        if self._problem.mdp is not None:
            return play_table(self._problem, reference_policy(self._problem.mdp), rng)
        space = self._problem.action_space
        if not isinstance(space, gym.spaces.Discrete):
            raise ValueError(f"the random agent cannot act in {space}: it takes Discrete actions")
        return RandomActor(int(space.n), rng, int(space.start))

    def save(self, folder: Path) -> None:
        """Write nothing: chance has no parameters."""


class ExactLearner:
    """The optimum of what is paid, over the environment's own horizon (infinite and discounted where it has none)."""

    runs, can_resume, steps, charge = 1, False, 0, None

    def __init__(self, problem: Problem, policy: FloatArray | None = None) -> None:
        if problem.mdp is None:
            raise ValueError(f"the exact agent cannot solve {problem.env_id}: {problem.reason}")
        self._problem = problem
        self._policy = policy

    def learn(self, steps: int, report: Report) -> None:
        """Solve, at no cost of steps."""
        mdp = self._problem.mdp
        assert mdp is not None
        discount = 1.0 if mdp.horizon is not None else self._problem.discount
        self._policy = solve(mdp, self._problem.weights, discount=discount).policy

    def set_weight(self, name: str, weight: float) -> None:
        """Do nothing: what is solved for is what learners are scored by."""

    def policies(self) -> FloatArray | None:
        """Return the optimal policy, [1, T or 1, S, A]; ties are split in proportion to the reference."""
        return None if self._policy is None else self._policy[None]

    def token_policy(self, run: int) -> Policy:
        """Return the optimal policy over token ids."""
        assert self._problem.tokens is not None
        assert self._policy is not None
        return table_policy(self._problem.tokens, self._policy)

    def actor(self, run: int, rng: np.random.Generator) -> Actor:
        """Return an actor that plays the optimal policy."""
        if self._policy is None:
            raise ValueError("the exact agent was not solved: train it first")
        return play_table(self._problem, self._policy, rng)

    def save(self, folder: Path) -> None:
        """Write policy.npz."""
        if self._policy is not None:
            write_arrays(folder / POLICY_FILE, {"policy": self._policy}, {})
