"""What ``tokenwalk compare`` is asked to compare: agents times rewards times seeds, checked before anything is trained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenwalk.agents.learners.registry import find_agent
from tokenwalk.agents.problem.problem import Problem, open_problem

REWARDS = ("gold", "proxy", "reward-model", "bonus", "potential", "penalty")
TOKEN_AGENTS, OTHER_AGENTS = ("q-learning", "ppo", "rloo", "sft"), ("q-learning", "ppo", "dqn")
MODEL_OF = {  # which learned model each of them needs
    "reward-model": "reward-model",
    "bonus": "autoencoder",
    "potential": "autoencoder",
    "penalty": "autoencoder",
}
_TAUGHT = "it is learned on the task as it is, so no --env-arg but task goes with it"
_START = 6.0  # seconds before the first step, about: for the estimate alone


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        env: an environment's id.
        agents: names. rewards: of ``REWARDS``. seeds: 0 to this less 1.
        budget: times each agent's default steps.
        env_args: for ``gym.make``.
    """

    env: str
    agents: tuple[str, ...]
    rewards: tuple[str, ...]
    seeds: int
    budget: float
    env_args: Mapping[str, Any]

    def cells(self) -> list["Cell"]:
        """Return what is trained; fine-tuning on gold's samples knows no other reward."""
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
        """Return the name of its folder."""
        return f"{find_agent(self.agent).label}-{self.reward}-{self.seed}"


def estimate(cells: Sequence[Cell], jobs: int) -> float:
    """Return about how many seconds it takes to train ``cells``, ``jobs`` at once."""
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
    """Return what is compared, with what suits the environment where nothing is named.

    Raises:
        ValueError: an unknown environment, agent or reward, one that the environment does not have, no seed, or a budget
            that is not above 0.
    """
    problem = open_problem(env, env_args)
    known = _rewards_of(problem)
    agents = tuple(agents) or (OTHER_AGENTS if problem.tokens is None else TOKEN_AGENTS)
    for agent in agents:
        family = find_agent(agent).family
        if not family.learns:
            raise ValueError(f"{agent} is a baseline, not a trainable agent: leave it out of --agents")
        if family.only_tokens and problem.tokens is None:
            raise ValueError(f"{agent} generates tokens and {problem.env_id} is no token task")
    for what, names in (("agents", agents), ("rewards", rewards)):
        if twice := [name for name in names if list(names).count(name) > 1]:
            raise ValueError(
                f"{twice[0]} is named twice among the {what}: name each once; --seeds repeats them"
            )
    if problem.lines.optimal_return is None:
        raise ValueError(
            f"{problem.env_id} has no exact optimum to compare with ({problem.lines.note or problem.reason}): compare on "
            "ours, or on FrozenLake, CliffWalking or Taxi"
        )
    if unknown := [reward for reward in rewards if reward not in known]:
        why = f" ({_TAUGHT})" if unknown[0] in MODEL_OF and problem.tokens is not None else ""
        raise ValueError(
            f"{problem.env_id} has no reward {unknown[0]!r} to compare{why}: give {', '.join(known)}"
        )
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}: give 1 or more")
    if not (math.isfinite(budget) and budget > 0):
        raise ValueError(
            f"budget is {budget}: give a number above 0, by which the agents' default steps are multiplied"
        )
    asked = Comparison(problem.env_id, agents, tuple(rewards) or known, seeds, budget, dict(problem.env_args))
    if "sft" in agents and "gold" not in asked.rewards:
        raise ValueError(
            "sft imitates samples of gold's optimum and knows no other reward: compare it on gold, or leave it out"
        )
    if idle := [cell.agent for cell in asked.cells() if cell.steps < 1]:
        raise ValueError(f"budget is {budget}: with it {idle[0]} takes no step; give a larger one")
    return asked


def _rewards_of(problem: Problem) -> tuple[str, ...]:
    if problem.tokens is None:
        return ("gold",)
    has_proxy = "proxy" in problem.tokens.task.sources
    teachable = set(problem.env_args) <= {"task"}
    return tuple(
        reward
        for reward in REWARDS
        if (has_proxy or reward not in ("proxy", "penalty")) and (teachable or reward not in MODEL_OF)
    )
