"""Episodes until Password is solved: zero or optimistic initial values, the machine's potential, a trained potential."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.backprop.configs import RewardModelConfig
from tokenwalk.agents.exact.evaluation import evaluate
from tokenwalk.agents.exact_tokens.token_evaluation import evaluate_tokens
from tokenwalk.agents.learners.tabular import RowsPolicy
from tokenwalk.agents.problem.problem import Problem, open_problem
from tokenwalk.agents.runs.progress import completed
from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.tabular.q_learning import QLearning
from tokenwalk.agents.training.model_run import ModelRequest
from tokenwalk.agents.training.train_reward_model import train_reward_model_run

RUNS = 16
SOLVED = 0.99  # of the optimum, by the greedy policy's exact gold
GROWTH = 1.05  # between two evaluations of a run: the relative error of "episodes to solve"
FIRST_EVALUATION = 50  # steps
_ZERO = QLearningConfig(discount=1.0, step_size=1.0, epsilon=0.3)
_OPTIMISTIC = QLearningConfig(discount=1.0, step_size=1.0, epsilon=0.0, initial_value=1.0)


@dataclass(frozen=True)
class Condition:
    """A training setup for Password.

    Attributes:
        name: as it is printed.
        observation: "machine" (with the compiled driver), or "tokens" (each prefix is a state).
        shaping: as ``--shaping``, or None.
        config: of the agent.
        most: maximum steps of a run.
    """

    name: str
    observation: str
    shaping: str | None
    config: QLearningConfig
    most: int


@dataclass(frozen=True)
class Solved:
    """Episodes and steps until each run solved Password; infinite if it did not."""

    name: str
    observation: str
    episodes: list[float]
    steps: list[float]

    @property
    def median_episodes(self) -> float:
        """Return the median over the runs."""
        return float(np.median(self.episodes))

    @property
    def median_steps(self) -> float:
        """Return the median over the runs."""
        return float(np.median(self.steps))


def conditions(trained: Path, most: int = 400_000_000) -> list[Condition]:
    """Return the five setups; ``trained`` is the run folder of a trained value model."""
    return [
        Condition("zero start, no shaping", "machine", None, _ZERO, most),
        Condition("optimistic start", "machine", None, _OPTIMISTIC, most),
        Condition("machine's potential", "machine", "machine", _ZERO, most),
        Condition("optimistic start", "tokens", None, _OPTIMISTIC, 200_000),
        Condition("trained potential", "tokens", str(trained), _ZERO, 200_000),
    ]


def train_potential(run_dir: Path) -> Path:
    """Train a model of the value of prefixes on 4,000 completions of a mix of exact optimum and reference policy."""
    config = RewardModelConfig(objective="value", scorer="transformer")
    completed(train_reward_model_run(ModelRequest("Password", "mixed", run_dir=run_dir), config))
    return run_dir


def time_to_solve(
    condition: Condition, runs: int = RUNS, on_run: Callable[[int, float], Any] | None = None
) -> Solved:
    """Return when the greedy policy of each of ``runs`` independent runs solved Password, up to 5 %."""
    problem = open_problem(
        "Password",
        {"observation": condition.observation},
        shaping=[] if condition.shaping is None else [condition.shaping],
        discount=1.0,
    )
    found = []
    for run in range(runs):
        found.append(_solve(condition, problem, run))
        if on_run is not None:
            on_run(run, found[-1][0])
    episodes, steps = (list(column) for column in zip(*found, strict=True))
    return Solved(condition.name, condition.observation, episodes, steps)


def _solve(condition: Condition, problem: Problem, run: int) -> tuple[float, float]:
    """Return the episodes and steps until one run solved Password."""
    assert problem.tokens is not None
    if condition.observation == "machine":
        mdp, _ = problem.tokens.machine_tables()
        agent = QLearning.for_mdp(mdp, condition.config, seed=run)
        weights = problem.tokens.walk_weights

        def learn(steps: int) -> None:
            agent.learn_mdp(mdp, weights, steps)

        def gold() -> float:
            return evaluate(mdp, agent.greedy_policy()[0]).returns["train"]

    else:
        env = problem.make()
        agent = QLearning.for_env(env, condition.config, seed=run)

        def learn(steps: int) -> None:
            agent.learn_env(env, steps)

        def gold() -> float:
            assert problem.tokens is not None
            return evaluate_tokens(problem.tokens, RowsPolicy(agent, 0), optimum=1.0).gold

    steps = float(FIRST_EVALUATION)
    while steps <= condition.most:
        learn(int(steps) - agent.steps)
        if gold() >= SOLVED:
            return float(agent.episodes[0]), float(agent.steps)
        steps = max(steps + 1, steps * GROWTH)
    return float("inf"), float("inf")


def as_json(found: Solved) -> Mapping[str, Any]:
    """Return the medians and every run; None if a run did not solve Password."""

    def finite(values: list[float]) -> list[float | None]:
        return [value if np.isfinite(value) else None for value in values]

    return {
        "name": found.name,
        "observation": found.observation,
        "median_episodes": finite([found.median_episodes])[0],
        "median_steps": finite([found.median_steps])[0],
        "episodes": finite(found.episodes),
        "steps": finite(found.steps),
    }
