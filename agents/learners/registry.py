"""The one registry of agents: a row for each family. Loads neither torch nor numba until a learner is made.

A new family is one file in this room, with a class that has ``build`` and ``load``, and one row of ``FAMILIES``. A custom
algorithm needs neither: ``FILE.py:CLASS`` stands wherever an agent's name does.
"""

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenwalk.agents.baselines import configs as sb3
from tokenwalk.agents.learners.custom import CustomAgent, find_custom
from tokenwalk.agents.learners.protocol import Learner, Saved, Setup
from tokenwalk.agents.policy_gradient import config as policy_gradient
from tokenwalk.agents.problem.problem import Problem
from tokenwalk.agents.problem.saved_models import MODELS
from tokenwalk.agents.runs.checkpoint import DamagedFileError
from tokenwalk.agents.tabular.config import BACKUPS, Backup, QLearningConfig
from tokenwalk.agents.tabular.defaults import default_config as tabular_default
from tokenwalk.envs.loading import is_place
from tokenwalk.envs.registration import resolve_id

Default = tuple[Any, int]  # a config, and the environment steps that go with it


@dataclass(frozen=True)
class AgentFamily:
    """Agents that share a learner.

    Attributes:
        title: what they are, for the help.
        names: as a person names them.
        config_type: name -> the dataclass that sets them, None where there is nothing to set.
        default: (name, environment id) -> the config that suits it, and its steps.
        learner: "module:class" with ``build(Setup)`` and ``load(Saved)``, imported when it is needed.
        steps_per_second: about, on one core of a laptop: for estimates of time alone.
        only_tokens: whether it needs a token task.
        learns: whether it can be compared; the ends of the scale cannot.
        one_run: whether it trains one run at a time.
        caveat: (name, config, discount of the id) -> what it optimizes other than the exact answers do, or None.
    """

    title: str
    names: tuple[str, ...]
    config_type: Callable[[str], type[Any] | None]
    default: Callable[[str, str], Default]
    learner: str
    steps_per_second: float = 1.0
    only_tokens: bool = False
    learns: bool = True
    one_run: bool = True
    caveat: Callable[[str, Any, float], str | None] = lambda name, config, discount: None

    @property
    def learner_type(self) -> Any:
        """Return the learner's class; its packages are imported now."""
        module, _, name = self.learner.partition(":")
        return getattr(importlib.import_module(module), name)


_LEARNERS = "tokenwalk.agents.learners"
FAMILIES = (
    AgentFamily(
        "tabular",
        BACKUPS,
        lambda name: QLearningConfig,
        lambda name, env_id: tabular_default(env_id, cast(Backup, name)),
        f"{_LEARNERS}.tabular:TabularLearner",
        steps_per_second=200_000.0,
        one_run=False,
    ),
    AgentFamily(
        "Stable-Baselines3",
        sb3.AGENTS,
        lambda name: type(sb3.default_config(name, "")),
        lambda name, env_id: (sb3.default_config(name, env_id), sb3.default_steps(name, env_id)),
        f"{_LEARNERS}.sb3:SB3Learner",
        steps_per_second=15_000.0,
        caveat=sb3.caveat,
    ),
    AgentFamily(
        "language model, by reward or by good texts",
        policy_gradient.AGENTS,
        lambda name: type(policy_gradient.default_config(name, "")),
        lambda name, env_id: (
            policy_gradient.default_config(name, env_id),
            policy_gradient.default_steps(name, env_id),
        ),
        f"{_LEARNERS}.language:LanguageLearner",
        steps_per_second=25_000.0,
        only_tokens=True,
    ),
    AgentFamily(
        "exact optimum",
        ("exact",),
        lambda name: None,
        lambda name, env_id: (None, 0),
        f"{_LEARNERS}.oracles:ExactLearner",
        learns=False,
    ),
    AgentFamily(
        "reference policy",
        ("random",),
        lambda name: None,
        lambda name, env_id: (None, 0),
        f"{_LEARNERS}.oracles:RandomLearner",
        learns=False,
    ),
)
_CUSTOM = AgentFamily(
    "a class with the learner protocol",
    (),
    lambda name: None,
    lambda name, env_id: (None, DEFAULT_STEPS),
    f"{_LEARNERS}.custom:CustomLearner",
    steps_per_second=25_000.0,
)
DEFAULT_STEPS = 100_000  # of a class with the learner protocol, which says nothing of its own budget
AGENTS = tuple(name for family in FAMILIES for name in family.names)


@dataclass(frozen=True)
class Agent:
    """An agent that a person named.

    Attributes:
        name: as it was named: "rloo", or FILE.py:CLASS.
        family: whose learner it has.
        base: the name in that family whose defaults it starts from; the same as ``name`` unless it is custom.
        custom: the class, where it is custom.
    """

    name: str
    family: AgentFamily
    base: str
    custom: CustomAgent | None = None

    @property
    def label(self) -> str:
        """Return a name that can be part of a folder's."""
        return self.name if self.custom is None else self.custom.label

    @property
    def config_type(self) -> type[Any] | None:
        """Return the dataclass that sets it, or None where there is nothing to set."""
        return self.family.config_type(self.base)

    def default(self, env: str) -> Default:
        """Return the config that suits it on the environment named ``env``, and the steps that go with it."""
        return self.family.default(self.base, resolve_id(env))

    def build(
        self, problem: Problem, config: Any, *, seed: int = 0, runs: int | None = None, threads: int = 1
    ) -> Learner:
        """Return a fresh learner.

        Raises:
            ValueError: spaces that it cannot take, or several runs of an agent that trains one at a time.
        """
        if self.family.one_run and runs not in (None, 1):
            raise ValueError(
                f"{self.name} trains one run at a time and was asked for {runs}: start it once for each --seed"
            )
        setup = Setup(self.name, problem, config, seed, runs, threads, self.base, self.custom)
        learner: Learner = self.family.learner_type.build(setup)
        return learner


def find_agent(name: str) -> Agent:
    """Return the agent called ``name``: one of ``AGENTS``, or FILE.py:CLASS.

    Raises:
        ValueError: an unknown name, with the nearest; a file, or a class in it, that is no algorithm.
    """
    if is_place(name):
        custom = find_custom(name)
        if custom.algorithm is None:
            return Agent(name, _CUSTOM, custom.label, custom)
        return Agent(name, _family_of(custom.algorithm), custom.algorithm, custom)
    return Agent(name, _family_of(name), name)


def _family_of(name: str) -> AgentFamily:
    for family in FAMILIES:
        if name in family.names:
            return family
    known = (*AGENTS, *MODELS)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    raise ValueError(
        f"no agent is called {name!r}: did you mean {', '.join(near)}? FILE.py:CLASS names a custom one"
    )


def load_learner(folder: Path, request: Mapping[str, Any], problem: Problem) -> Learner:
    """Return the learner that a run folder holds; ``request`` is its config.json.

    Raises:
        DamagedFileError: a model file that is torn or foreign, or missing.
        ValueError: an unknown agent, or a custom one whose file has changed.
    """
    saved = Saved(folder, request, problem)
    # A custom policy gradient's model is read without its class.
    family = _CUSTOM if is_place(saved.agent) else _family_of(saved.agent)
    try:
        learner: Learner = family.learner_type.load(saved)
    except FileNotFoundError as error:
        raise DamagedFileError(f"{error.filename} is missing: restore it or train again") from None
    return learner
