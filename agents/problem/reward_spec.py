"""Rewards and potentials as a person names them: ``gold``, ``RUN=0.5``, ``FILE.py:FUNCTION``, or a Python function."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact_tokens.as_machine import unfolded
from tokenwalk.agents.exact_tokens.completions import MAX_PREFIXES, count_prefixes
from tokenwalk.agents.exact_tokens.exact_tables import train_machine
from tokenwalk.agents.problem.saved_models import load_learned, load_potential
from tokenwalk.envs.loading import is_place, load_from_file
from tokenwalk.envs.rewards.function import FunctionPotential, FunctionSource
from tokenwalk.envs.rewards.learned import LearnedSource
from tokenwalk.envs.rewards.potentials import (
    AutomatonPotential,
    RememberedPotential,
    distance_potential,
    shape,
)
from tokenwalk.envs.rewards.source import MachineSource, Potential, Source
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.token_model import TokenModel, compose

REWARDS = (
    "gold, proxy, a run folder of a reward model, an autoencoder or a language model, or FILE.py:FUNCTION"
)
POTENTIALS = "machine, value, a run folder of a reward model or an autoencoder, or FILE.py:FUNCTION"
Weighted = tuple[Source, float]
Part = str | Callable[..., Any] | Source
Reward = Part | tuple[Part, float]  # a name, a function of the text or a source, alone or with its weight
IN_PROCESS = "python:"  # begins the name of a function or source that is in no file


@dataclass(frozen=True)
class Named:
    """A source or a potential as a person named it: ``NAME``, ``NAME=WEIGHT`` or, annealed, ``NAME=FROM..TO``.

    Attributes:
        name: ``gold``, a run folder, FILE.py:FUNCTION and so on.
        weight: that learning begins with, 1 where none is given.
        final: that it ends with; another than ``weight`` only where it is annealed.
    """

    name: str
    weight: float = 1.0
    final: float = 1.0

    @classmethod
    def of(cls, text: str) -> "Named":
        """Return what ``text`` says.

        Raises:
            ValueError: a weight that is no finite number.

        >>> Named.of("gold"), Named.of("runs/0003=0.5..0")
        (Named(name='gold', weight=1.0, final=1.0), Named(name='runs/0003', weight=0.5, final=0.0))
        """
        name, equals, numbers = text.rpartition("=")
        if not equals:
            return cls(text)
        first, dots, last = numbers.partition("..")
        try:
            weight, final = float(first), float(last if dots else first)
        except ValueError:
            weight = final = float("nan")
        if not (isfinite(weight) and isfinite(final)):
            raise ValueError(
                f"the weight of {name!r} is {numbers!r}: give a finite number, as in {name}=0.5, or two to go from one to "
                f"the other, as in {name}=0.5..0"
            )
        return cls(name, weight, final)

    @property
    def annealed(self) -> bool:
        """Return whether the weight changes while an agent learns."""
        return self.weight != self.final


@dataclass(frozen=True)
class RewardComponent:
    """A reward that is part of the training reward.

    Attributes:
        learning: what learners meet, with ``weight``.
        scoring: what they are scored by, with ``final``: the same reward, as a machine where the task is small or the
            reward is one at any length.
    """

    learning: Source
    scoring: Source
    weight: float
    final: float


def several(given: Any) -> list[Any]:
    """Return what was given as a list; one alone, or one with its weight, becomes a list of one.

    >>> several("gold"), several(("gold", 0.5)), several(["gold", ("proxy", 2)]), several(None)
    (['gold'], [('gold', 0.5)], ['gold', ('proxy', 2)], [])
    """
    if given is None:
        return []
    is_pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], int | float | np.number)
    return list(given) if isinstance(given, list | tuple) and not is_pair else [given]


def name_of(reward: Reward) -> str:
    """Return ``reward`` as a run's config.json keeps it: a name with its weight.

    >>> name_of("gold=0.5"), name_of(("gold", 0.5)), name_of((len, 2))
    ('gold=0.5', 'gold=0.5', 'python:builtins.len=2.0')
    """
    part, weight = reward if isinstance(reward, tuple) else (reward, None)
    if not isinstance(part, str):
        called = part.name if isinstance(part, Source) else getattr(part, "__qualname__", type(part).__name__)
        part = f"{IN_PROCESS}{getattr(part, '__module__', 'source')}.{called}"
    return part if weight is None else f"{part}={float(weight)}"


def as_source(part: Part, task: Task) -> Source:
    """Return a name, a function of the text or a source as a source of ``task``.

    Raises:
        ValueError: an unknown name, a function whose parameters have other names, or anything else.
    """
    if isinstance(part, str):
        return named_source(part, task)
    if isinstance(part, Source):
        return part
    if not callable(part):
        raise ValueError(f"{part!r} is no reward: give a name, a function of the text, or a source")
    name = getattr(part, "__name__", type(part).__name__)
    return FunctionSource(name if name.isidentifier() else "reward", part, task.vocabulary)


def reward_components(
    rewards: Iterable[Reward], task: Task, *, limit: int = MAX_PREFIXES
) -> list[RewardComponent]:
    """Return ``rewards`` as components of the training reward; machines where the task is small, unless annealed.

    Raises:
        ValueError: an unknown name. SourceContractError: a source that cannot score the task.
    """
    found = []
    for reward in rewards:
        named = Named.of(name_of(reward))
        part = reward[0] if isinstance(reward, tuple) else reward
        source = named_source(named.name, task) if isinstance(part, str) else as_source(part, task)
        exact = exact_if_small(source, task, limit)
        if named.annealed and isinstance(source, MachineSource):
            raise ValueError(f"{named.name!r} is a machine, whose weight stays: give one number")
        learning = source if named.annealed else exact
        # What is given at the end stays so for learners, though a machine would give the same sum token by token.
        machine = None
        if exact is source and isinstance(source, LearnedSource):
            machine = source.as_machine(task.vocabulary, task.horizon, task.prompt_ids)
        found.append(RewardComponent(learning, machine or exact, named.weight, named.final))
    return found


def exact_if_small(source: Source, task: Task, limit: int = MAX_PREFIXES) -> Source:
    """Return ``source`` as a machine where the prefix tree of ``task`` has at most ``limit`` prefixes, else itself."""
    return unfolded(source, task, limit=limit) if count_prefixes(task) <= limit else source


def shaping_sources(
    texts: Iterable[str], model: TokenModel, discount: float, *, limit: int = MAX_PREFIXES
) -> list[Weighted]:
    """Return the shaping by the potentials that ``texts`` name, for a learner with ``discount``, with their weights.

    Args:
        texts: "machine" is the distance to the training reward's largest step, "value" its exact optimal value.
        model: the task and the training reward.
        discount: the learner's own.
        limit: prefixes up to which a potential that is no automaton's becomes a machine.

    Raises:
        ValueError: as ``reward_components``, and "machine" or "value" where the training reward is no machine.
    """
    found: list[Weighted] = []
    for named in map(Named.of, texts):
        if named.annealed:
            raise ValueError(
                f"the shaping of {named.name!r} keeps its weight: a change would break it; give one number"
            )
        label = f"shaping-{len(found) + 1}" if found else "shaping"
        shaping = shape(_potential(named.name, model, discount), model.task, discount, label)
        found.append((exact_if_small(shaping, model.task, limit), named.weight))
    return found


def named_source(name: str, task: Task) -> Source:
    """Return the source called ``name``. Raises ValueError with what may be given."""
    if name in task.sources:
        return task.sources[name]
    if is_place(name):
        function = load_from_file(name)
        if isinstance(function, Source):
            return function
        if not callable(function):
            raise ValueError(f"{name} is {type(function).__name__}: name a function or a source")
        return FunctionSource(name.rpartition(":")[2], function, task.vocabulary)
    if name.startswith(IN_PROCESS):
        raise ValueError(
            f"the reward {name.removeprefix(IN_PROCESS)} was a Python object of another process: put the function into a "
            "file and name it FILE.py:FUNCTION, then its runs can be opened again"
        )
    known = REWARDS if "proxy" in task.sources else REWARDS.replace(" proxy,", "")
    return load_learned(_run_folder(name, task, known), task)


def _potential(name: str, model: TokenModel, discount: float) -> Potential:
    """Return the potential called ``name``. Raises ValueError with what may be given."""
    task = model.task
    if name == "machine":
        return distance_potential(train_machine(model), task.prompt_ids)
    if name == "value":
        return value_potential(model, discount)
    if is_place(name):
        function = load_from_file(name)
        if not callable(function):
            raise ValueError(f"{name} is {type(function).__name__}: name a function")
        return RememberedPotential(FunctionPotential(name.rpartition(":")[2], function, task.vocabulary))
    return RememberedPotential(load_potential(_run_folder(name, task, POTENTIALS), task))


def _run_folder(name: str, task: Task, known: str) -> Path:
    if not Path(name).is_dir():
        raise ValueError(f"unknown reward {name!r} for {task.name}: choose from {known}")
    return Path(name)


def value_potential(model: TokenModel, discount: float) -> AutomatonPotential:
    """Return the exact optimal value of the training reward of ``model``, without shaping, after each text.

    Raises:
        ValueError: a reward component that is no machine.
    """
    alone = replace(model.task, gold=train_machine(model), proxy=None)
    inner = TokenModel(alone, compose(alone, "gold"))
    tables, _ = inner.machine_tables()
    value = solve(tables, {"train": 1.0}, discount=discount).value
    table = np.vstack([value, np.zeros(tables.n_states)])
    start = inner.train_state[inner.start]
    return AutomatonPotential(tables.next_state[:, :, 0], start, table, model.task.prompt_ids)
