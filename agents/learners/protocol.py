"""What every agent is to the rest of the house: something that learns, hands over one policy, and can be saved."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tokenwalk.agents.evaluation.policies import AnyPolicy
from tokenwalk.agents.problem.problem import Problem
from tokenwalk.agents.runs.progress import OnMetrics


@dataclass(frozen=True)
class Setup:
    """What a fresh learner is made from.

    Attributes:
        agent: its name.
        problem: what it learns on.
        config: its dataclass; None where there is nothing to set.
        seed: of everything that is sampled.
        runs: independent runs at once; None: what suits the agent.
        threads: of torch.
        base: the agent whose defaults it starts from; the same as ``agent`` unless it is custom.
        custom: a custom algorithm's class and file, a ``custom.CustomAgent``.
    """

    agent: str
    problem: Problem
    config: Any
    seed: int = 0
    runs: int | None = None
    threads: int = 1
    base: str = ""
    custom: Any = None


@dataclass(frozen=True)
class Saved:
    """What a trained learner is read from.

    Attributes:
        folder: of the run. request: its config.json. problem: what it was trained on.
    """

    folder: Path
    request: Mapping[str, Any]
    problem: Problem

    @property
    def agent(self) -> str:
        """Return the agent's name; of a custom policy gradient the name of the algorithm that it starts from."""
        return str(self.request.get("algorithm", self.request["agent"]))


@runtime_checkable
class Learner(Protocol):
    """Something that learns, or knows already."""

    runs: int
    can_resume: bool

    @property
    def steps(self) -> int:
        """Return the environment steps taken so far, of each run."""

    def learn(self, steps: int, report: OnMetrics) -> None:
        """Take ``steps`` more steps; ``report`` gets the step and the metrics some times a second."""

    def set_weight(self, name: str, weight: float) -> None:
        """Give the reward component ``name`` another weight from the next step on; asked only where one is annealed."""

    def policy(self) -> AnyPolicy:
        """Return the policy that is scored, played and stored."""

    def save(self, folder: Path) -> None:
        """Write the model into a run folder."""
