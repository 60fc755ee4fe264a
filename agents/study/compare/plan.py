"""The plan of ``tokenwalk compare``: agents times rewards times seeds, checked before training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenwalk.agents.learners.registry import find_agent
from tokenwalk.agents.problem.problem import Problem, open_problem

REWARDS = ("gold", "proxy", "reward-model", "bonus", "potential", "penalty")
TOKEN_AGENTS, OTHER_AGENTS = ("q-learning", "ppo", "rloo", "sft"), ("q-learning", "ppo", "dqn")
MODEL_OF = {  # the learned model that a reward needs
    "reward-model": "reward-model",
    "bonus": "autoencoder",
    "potential": "autoencoder",
    "penalty": "autoencoder",
}
_NEEDS_DEFAULTS = "its model is trained on the default task, so task is the only --env-arg that it allows"
_START = 6.0  # seconds before the first step, roughly; used by the estimate alone


@dataclass(frozen=True)
class Comparison:
    """The request for a comparison.

    Attributes:
        env: an environment's id.
        agents: names, or FILE.py:CLASS of custom agents, with the file by its absolute path.
        rewards: some of ``REWARDS``.
        seeds: their number; the seeds are 0, 1, ..., seeds - 1.
        budget: a factor of each agent's default steps.
        env_args: the arguments of ``gym.make``.
    """

    env: str
    agents: tuple[str, ...]
    rewards: tuple[str, ...]
    seeds: int
    budget: float
    env_args: Mapping[str, Any]

    def cells(self) -> list["Cell"]:
        """Return the runs; "sft" is fine-tuned on samples of gold's optimum, so it has only the reward "gold"."""
        return [
            Cell(
                self.env,
                self.env_args,
                agent,
                reward,
                seed,
                round(self.budget * find_agent(agent).default(self.env)[1]),
            )
            for agent in self.agents
            for reward in self.rewards
            for seed in range(self.seeds)
            if agent != "sft" or reward == "gold"
        ]


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    env: str
    env_args: Mapping[str, Any]
    agent: str
    reward: str
    seed: int
    steps: int

    @property
    def name(self) -> str:
        """Return the name of its run folder."""
        return f"{self.label}-{self.reward}-{self.seed}"

    @property
    def label(self) -> str:
        """Return the agent's name; of FILE.py:CLASS the class."""
        return find_agent(self.agent).label


def estimate(cells: Sequence[Cell], jobs: int) -> float:
    """Return an estimate of the seconds that ``cells`` take with ``jobs`` processes."""
    total = 0.0
    for cell in cells:
        total += _START + cell.steps / find_agent(cell.agent).family.steps_per_second
    return total / jobs


def plan(
    env: str,
    agents: Sequence[str] = (),
    rewards: Sequence[str] = (),
    seeds: int = 2,
    budget: float = 1.0,
    env_args: Mapping[str, Any] | None = None,
) -> Comparison:
    """Return the comparison; agents and rewards that are not named are chosen to suit the environment.

    Raises:
        ValueError: an unknown environment, agent or reward; a reward that the environment does not have; two custom
            agents with one class name; no seed; a budget that is not positive.
    """
    problem = open_problem(env, env_args)
    known = _rewards_of(problem)
    agents = tuple(agents) or (OTHER_AGENTS if problem.tokens is None else TOKEN_AGENTS)
    agents = tuple(_checked_agent(agent, problem) for agent in agents)
    for what, names in (("agents", agents), ("rewards", rewards)):
        if twice := [name for name in names if list(names).count(name) > 1]:
            raise ValueError(
                f"{twice[0]} is named twice among the {what}: name each once; --seeds repeats them"
            )
    _check_labels(agents)
    if problem.lines.optimal_return is None:
        raise ValueError(
            f"{problem.env_id} has no exact optimum to compare with ({problem.lines.note or problem.reason}): give an "
            "environment that 'tokenwalk envs' lists, or FrozenLake, CliffWalking or Taxi"
        )
    if unknown := [reward for reward in rewards if reward not in known]:
        why = f" ({_NEEDS_DEFAULTS})" if unknown[0] in MODEL_OF and problem.tokens is not None else ""
        raise ValueError(
            f"{problem.env_id} has no reward {unknown[0]!r} to compare{why}: give {', '.join(known)}"
        )
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}: give 1 or more")
    if not (math.isfinite(budget) and budget > 0):
        raise ValueError(
            f"budget is {budget}: give a number above 0; it multiplies the default steps of each agent"
        )
    comparison = Comparison(
        problem.env_id, agents, tuple(rewards) or known, seeds, budget, dict(problem.env_args)
    )
    if "sft" in agents and "gold" not in comparison.rewards:
        raise ValueError(
            "sft imitates samples of gold's optimum, so it has no other reward: compare it on gold, or leave it out"
        )
    if idle := [cell.agent for cell in comparison.cells() if cell.steps < 1]:
        raise ValueError(f"budget is {budget}, which gives {idle[0]} no step: give a larger one")
    return comparison


def _checked_agent(name: str, problem: Problem) -> str:
    """Return the agent's name, of a custom one FILE.py:CLASS by its absolute path. Raises ValueError as ``plan``."""
    agent = find_agent(name)
    if not agent.family.learns:
        raise ValueError(f"{name} is a baseline, not a trainable agent: leave it out of --agents")
    if agent.family.only_tokens and problem.tokens is None:
        raise ValueError(f"{name} generates tokens and {problem.env_id} is no token task")
    return name if agent.custom is None else agent.custom.place


def _check_labels(agents: Sequence[str]) -> None:
    """Raise ValueError if two agents have one label, which names their run folders and their rows."""
    seen: dict[str, str] = {}
    for name in agents:
        label = find_agent(name).label
        if label in seen:
            raise ValueError(
                f"{seen[label]} and {name} have the same name {label!r}: rename one of the classes"
            )
        seen[label] = name


def _rewards_of(problem: Problem) -> tuple[str, ...]:
    if problem.tokens is None:
        return ("gold",)
    has_proxy = "proxy" in problem.tokens.task.sources
    defaults = set(problem.env_args) <= {"task"}
    return tuple(
        reward
        for reward in REWARDS
        if (has_proxy or reward not in ("proxy", "penalty")) and (defaults or reward not in MODEL_OF)
    )
