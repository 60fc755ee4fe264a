"""The two ends of every scale, which have nothing to learn: the reference policy and the exact optimum."""

from functools import partial
from pathlib import Path

import gymnasium as gym

from tokenwalk.agents.evaluation.policies import AnyPolicy, PlayedPolicy, TablePolicies, TokenPolicy
from tokenwalk.agents.evaluation.rollout import RandomActor
from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.evaluation import reference_policy
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.agents.learners.protocol import Saved, Setup
from tokenwalk.agents.problem.problem import Problem
from tokenwalk.agents.runs.checkpoint import read_arrays, write_arrays
from tokenwalk.agents.runs.progress import OnMetrics
from tokenwalk.envs.arrays import FloatArray

POLICY_FILE = "policy.npz"


class RandomLearner:
    """The reference policy, or chance where none is known: the lower end of every scale. It has nothing to learn."""

    runs, can_resume, steps = 1, False, 0

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    @classmethod
    def build(cls, setup: Setup) -> "RandomLearner":
        """Return it for a problem."""
        return cls(setup.problem)

    @classmethod
    def load(cls, saved: Saved) -> "RandomLearner":
        """Return it as a run holds it."""
        return cls(saved.problem)

    def learn(self, steps: int, report: OnMetrics) -> None:
        """Do nothing."""

    def set_weight(self, name: str, weight: float) -> None:
        """Do nothing."""

    def policy(self) -> AnyPolicy:
        """Return the reference policy, or uniform actions where none is known."""
        if self._problem.mdp is not None:
            return TablePolicies(reference_policy(self._problem.mdp)[None])  # [1, 1, S, A]
        if self._problem.tokens is not None:
            return TokenPolicy(reference_on_tokens(self._problem.tokens.task))
        space = self._problem.action_space
        if not isinstance(space, gym.spaces.Discrete):
            raise ValueError(f"the random agent cannot act in {space}: it takes Discrete actions")
        return PlayedPolicy(partial(RandomActor, int(space.n), start=int(space.start)))

    def save(self, folder: Path) -> None:
        """Write nothing: it has no parameters."""


class ExactLearner:
    """The optimum of the training reward, over the environment's own horizon (infinite and discounted where it has none)."""

    runs, can_resume, steps = 1, False, 0

    def __init__(self, problem: Problem, policy: FloatArray | None = None) -> None:
        if problem.mdp is None:
            raise ValueError(f"the exact agent cannot solve {problem.env_id}: {problem.reason}")
        self._problem = problem
        self._policy = policy

    @classmethod
    def build(cls, setup: Setup) -> "ExactLearner":
        """Return it unsolved. Raises ValueError where the problem has no tables."""
        return cls(setup.problem)

    @classmethod
    def load(cls, saved: Saved) -> "ExactLearner":
        """Return it as a run holds it. Raises FileNotFoundError or DamagedFileError."""
        return cls(saved.problem, read_arrays(saved.folder / POLICY_FILE)[0]["policy"])

    def learn(self, steps: int, report: OnMetrics) -> None:
        """Solve, at no cost of steps."""
        mdp = self._problem.mdp
        assert mdp is not None
        discount = 1.0 if mdp.horizon is not None else self._problem.discount
        self._policy = solve(mdp, self._problem.weights, discount=discount).policy

    def set_weight(self, name: str, weight: float) -> None:
        """Do nothing: what is solved for is what learners are scored by."""

    def policy(self) -> AnyPolicy:
        """Return the optimal policy, [1, T or 1, S, A]; ties are split in proportion to the reference."""
        if self._policy is None:
            raise ValueError("the exact agent was not solved: train it first")
        return TablePolicies(self._policy[None])

    def save(self, folder: Path) -> None:
        """Write policy.npz."""
        if self._policy is not None:
            write_arrays(folder / POLICY_FILE, {"policy": self._policy}, {})
