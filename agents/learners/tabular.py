"""Q-learning and its relatives as learners: over tables where there are any, else stepping the environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.evaluation.policies import AnyPolicy, PlayedPolicy, TablePolicies, TokenPolicy
from tokenwalk.agents.evaluation.score import score
from tokenwalk.agents.learners.protocol import Saved, Setup
from tokenwalk.agents.learners.reward_terms import TermMeter, mean_terms
from tokenwalk.agents.problem.problem import Problem
from tokenwalk.agents.runs.progress import OnMetrics
from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.tabular.q_learning import QLearning
from tokenwalk.agents.tabular.saving import load_agent, save_agent
from tokenwalk.envs.arrays import FloatArray, IntArray
from tokenwalk.envs.rewards.source import TokenBatch
from tokenwalk.envs.tabular import TabularMDP

AGENT_FILE = "agent.npz"
_LARGE = 50_000  # entries of a table whose exact evaluation is no longer free: fewer along the way
PIECES = 50  # in which an agent that steps its environment learns: weights change, and it is evaluated, between them


class TabularLearner:
    """The hand-written agent: compiled over tables where there are any, else stepping the environment.

    On a token task the tables are those of the "machine" observation, unless ``observation`` is "tokens": then the agent
    sees the ids themselves, each text a row of its own.
    """

    can_resume = True

    def __init__(self, problem: Problem, agent: QLearning, walk: "Walk | None") -> None:
        self._problem, self._agent, self._walk = problem, agent, walk
        self.runs = agent.runs
        self._envs: list[TermMeter] = []

    @classmethod
    def build(cls, setup: Setup) -> "TabularLearner":
        """Return a fresh learner: 16 runs by default over tables, else 1."""
        problem, config, runs, seed = setup.problem, setup.config, setup.runs, setup.seed
        walk = find_walk(problem, config)
        if walk is not None:
            agent = QLearning.for_mdp(walk.mdp, config, runs=16 if runs is None else runs, seed=seed)
        else:
            agent = QLearning.for_env(problem.make(), config, runs=1 if runs is None else runs, seed=seed)
        return cls(problem, agent, walk)

    @classmethod
    def load(cls, saved: Saved) -> "TabularLearner":
        """Return the learner that a run holds. Raises FileNotFoundError or DamagedFileError."""
        agent = load_agent(saved.folder / AGENT_FILE)
        return cls(saved.problem, agent, find_walk(saved.problem, agent.config))

    @property
    def steps(self) -> int:
        """Return the steps of each run."""
        return self._agent.steps

    def learn(self, steps: int, report: OnMetrics) -> None:
        """Learn; over tables with the exact score of every run at points that lie closer at the beginning."""
        if self._walk is None:
            self._envs = self._envs or [TermMeter(self._problem.make()) for _ in range(self.runs)]
            tokens = self._problem.tokens is not None
            pieces = PIECES if tokens or self._problem.annealed else 1
            for piece in np.diff(np.linspace(0, steps, pieces + 1).astype(int)):
                self._agent.learn_env(
                    self._envs,
                    int(piece),
                    lambda step, metrics: report(step, {**metrics, **mean_terms(self._envs)}),
                )
                if tokens:  # one text for each prompt: exact, and in no time
                    report(self.steps, score(self._problem, self.policy()).as_metrics())
            return
        first = self.steps
        points = 50 if self._agent.values[0].size < _LARGE else 12
        for point in np.unique((steps * np.linspace(0, 1, points + 1) ** 2).astype(int)):
            self._agent.learn_mdp(self._walk.mdp, self._walk.weights, first + int(point) - self.steps)
            found = score(self._problem, self.policy())
            report(self.steps, {**self._agent.metrics(), **found.as_metrics(), **found.terms})

    def set_weight(self, name: str, weight: float) -> None:
        """Give the reward component ``name`` another weight in every environment that is stepped."""
        for env in self._envs:
            env.unwrapped.set_weight(name, weight)  # type: ignore[attr-defined]

    def policy(self) -> AnyPolicy:
        """Return the greedy policy: of every run as tables, ties split evenly, else of the first run."""
        if self._walk is not None:
            return TablePolicies(self._greedy())
        if self._problem.tokens is not None:
            return TokenPolicy(RowsPolicy(self._agent, 0))
        return PlayedPolicy(partial(AgentActor, self._agent, 0))

    def save(self, folder: Path) -> None:
        """Write agent.npz, from which training can go on."""
        save_agent(self._agent, folder / AGENT_FILE)

    def _greedy(self) -> FloatArray:
        """Return the greedy policies on the states of the problem's tables, [R, T or 1, S, A]."""
        policies = self._agent.greedy_policy()
        return (
            policies if self._walk is None or self._walk.label is None else policies[:, :, self._walk.label]
        )


@dataclass(frozen=True)
class Walk:
    """The tables that a tabular agent walks.

    Attributes:
        mdp: the tables. weights: channel -> weight of their rewards.
        label: int64 [S], which of their states each state of the problem's own tables is; None where they are the same.
    """

    mdp: TabularMDP
    weights: Mapping[str, float]
    label: IntArray | None


def find_walk(problem: Problem, config: QLearningConfig) -> Walk | None:
    """Return the tables for an agent with ``config``, or None where it has to step the environment."""
    if problem.mdp is None:
        return None
    if problem.tokens is None:
        return Walk(problem.mdp, problem.weights, None)
    hidden = problem.shaped and not problem.tokens.composition.shaping
    if hidden or problem.annealed or problem.env_args.get("observation") == "tokens":
        return None  # what is added, or changes while the agent learns, is in no table
    # Soft Q-learning has a KL penalty to the reference policy, so it has to see what that one sees.
    mdp, label = problem.tokens.machine_tables(with_contexts=config.backup == "soft-q")
    return Walk(mdp, problem.tokens.walk_weights, label)


@dataclass(frozen=True)
class RowsPolicy:
    """The greedy policy of a tabular agent on token ids; an unseen text is ended."""

    agent: QLearning
    run: int

    def log_probs(self, batch: TokenBatch) -> FloatArray:
        """Return 0 for the best token after each prefix and -inf for the others, float64 [B, V]."""
        table = np.full((len(batch.length), self.agent.n_actions), -np.inf)
        values, available = self.agent.values[self.run, 0], self.agent.available
        for number, observation in enumerate(np.hstack([batch.prompt, batch.completion])):
            row = self.agent.index.find(observation)
            best = (
                self.agent.n_actions - 1
                if row is None
                else np.where(available[row], values[row], -np.inf).argmax()
            )
            table[number, best] = 0.0
        return table


@dataclass(frozen=True)
class AgentActor:
    """Plays one run of a tabular agent on observations that are no states of tables."""

    agent: QLearning
    run: int
    rng: np.random.Generator

    def act(self, observation: Any, time: int, info: Mapping[str, Any]) -> tuple[int, float]:
        """Return the greedy action; its log-probability is 0."""
        return self.agent.act(observation, self.rng, run=self.run, action_mask=info.get("action_mask")), 0.0
