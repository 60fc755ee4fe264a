"""Custom algorithms, named FILE.py:CLASS: a subclass of ``PolicyGradient``, or a class with the learner protocol."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tokenwalk.agents.learners.protocol import Learner, Saved, Setup
from tokenwalk.envs.loading import load_from_file

PROTOCOL = ("learn", "policy", "save", "set_weight")
HOW = (
    "give a subclass of tokenwalk.PolicyGradient, or a class that is made from a problem, a config and a seed and has "
    f"{', '.join(PROTOCOL)}"
)


@dataclass(frozen=True)
class CustomAgent:
    """A class in somebody's file.

    Attributes:
        place: FILE.py:CLASS, the file by its absolute path.
        type: the class.
        algorithm: the algorithm whose defaults it starts from, of a subclass of ``PolicyGradient``; else None.
        digest: SHA-256 of the file, in hexadecimal.
    """

    place: str
    type: type[Any]
    algorithm: str | None
    digest: str

    @property
    def label(self) -> str:
        """Return the name of the class."""
        return self.type.__name__

    def as_request(self) -> dict[str, str]:
        """Return what config.json keeps of it beside its name."""
        kept = {"digest": self.digest}
        return kept if self.algorithm is None else {**kept, "algorithm": self.algorithm}


def absolute(place: str) -> str:
    """Return FILE.py:CLASS with the file by its absolute path."""
    path, _, name = place.rpartition(":")
    return f"{Path(path).resolve()}:{name}"


def digest_of(place: str) -> str:
    """Return the SHA-256 of the file of FILE.py:CLASS. Raises FileNotFoundError."""
    return sha256(Path(place.rpartition(":")[0]).read_bytes()).hexdigest()


def find_custom(place: str) -> CustomAgent:
    """Return the algorithm that FILE.py:CLASS names; the file is run.

    Raises:
        ValueError: no such file or class, or a class that is no learner; the message says what is asked for.
    """
    found = load_from_file(place)
    if not inspect.isclass(found):
        raise ValueError(f"{place} is {type(found).__name__}, not a class: {HOW}")
    algorithm = _algorithm(place, found)
    if algorithm is None and (
        missing := [name for name in PROTOCOL if not callable(getattr(found, name, None))]
    ):
        raise ValueError(f"{place} is no learner, it lacks {', '.join(missing)}: {HOW}")
    return CustomAgent(absolute(place), found, algorithm, digest_of(place))


def _algorithm(place: str, found: type[Any]) -> str | None:
    """Return which algorithm a subclass of ``PolicyGradient`` starts from; None for any other class."""
    if not any(base.__module__.startswith("tokenwalk.agents.policy_gradient") for base in found.__mro__):
        return None  # without torch, where nothing of it was imported
    from tokenwalk.agents.policy_gradient.config import ALGORITHMS
    from tokenwalk.agents.policy_gradient.trainer import PolicyGradient

    if not issubclass(found, PolicyGradient) or found is PolicyGradient:
        raise ValueError(f"{place} is {found.__name__}, no subclass of PolicyGradient: {HOW}")
    algorithm = getattr(found, "algorithm", None)
    if algorithm not in ALGORITHMS:
        raise ValueError(
            f"{place} has algorithm = {algorithm!r}: set the class attribute to one of {', '.join(ALGORITHMS)}, whose "
            "defaults it starts from"
        )
    return str(algorithm)


class CustomLearner:
    """Makes and reads the learners of classes with the learner protocol."""

    @classmethod
    def build(cls, setup: Setup) -> Learner:
        """Return a fresh learner: the class is called with problem, config and seed.

        Raises:
            ValueError: a class that cannot be called so, or whose instance lacks a part of the protocol.
        """
        assert setup.custom is not None
        return _made(setup.custom, setup.problem, setup.config, setup.seed)

    @classmethod
    def load(cls, saved: Saved) -> Learner:
        """Return the learner of a run; its class reads what it saved by ``load(folder)``.

        Raises:
            ValueError: a class that has no ``load``, or a file that is gone or has changed since.
        """
        custom = _unchanged(saved.request)
        learner = _made(custom, saved.problem, saved.request["config"] or None, int(saved.request["seed"]))
        if not callable(getattr(learner, "load", None)):
            raise ValueError(f"{custom.place} has no load(folder), so its run cannot be opened again: add it")
        learner.load(saved.folder)  # type: ignore[attr-defined]
        return learner


def _unchanged(request: Mapping[str, Any]) -> CustomAgent:
    place = str(request["agent"])
    if not Path(place.rpartition(":")[0]).is_file():
        raise ValueError(f"the run's algorithm {place} is gone: put the file back")
    if (digest := digest_of(place)) != request.get("digest"):
        raise ValueError(
            f"the run's algorithm {place} has changed since it was trained (digest {digest[:12]}, then "
            f"{str(request.get('digest'))[:12]}): restore the file, or train again"
        )
    return find_custom(place)


def _made(custom: CustomAgent, problem: Any, config: Any, seed: int) -> Learner:
    try:
        learner = custom.type(problem, config, seed=seed)
    except TypeError as error:
        raise ValueError(
            f"{custom.place} cannot be made from (problem, config, seed=...): {error}"
        ) from error
    if missing := [name for name in ("runs", "can_resume", "steps") if not hasattr(learner, name)]:
        raise ValueError(f"{custom.place} is no learner, its instance lacks {', '.join(missing)}: {HOW}")
    found: Learner = learner
    return found
