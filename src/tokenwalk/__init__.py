"""tokenwalk: a gym for the reward mechanisms behind language models, in which every answer is known exactly.

``import tokenwalk`` registers the environments with Gymnasium and loads neither torch nor Stable-Baselines3. The names of
``__all__`` are the public ones; each is loaded when it is first used.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

_ROOT = Path(__file__).resolve().parents[2]
if not (Path(__file__).parent / "envs").is_dir() and (_ROOT / "envs" / "registration.py").is_file():
    # A checkout without symbolic links (git on some systems): the real folders lie two levels up.
    __path__.append(str(_ROOT))

from tokenwalk.envs.registration import register, register_all  # noqa: E402

if TYPE_CHECKING:
    from tokenwalk.agents.api.learning import compare, train
    from tokenwalk.agents.api.rewards import audit_kl, audit_reward, goodhart
    from tokenwalk.agents.api.run import load_run
    from tokenwalk.agents.api.tables import evaluate, solve, tabular_mdp
    from tokenwalk.agents.backprop.autoencoder import Reconstruction as Autoencoder
    from tokenwalk.agents.backprop.lm import TokenLM
    from tokenwalk.agents.backprop.reward_model import RewardModel
    from tokenwalk.agents.policy_gradient.trainer import PolicyGradient
    from tokenwalk.agents.tabular.q_learning import QLearning
    from tokenwalk.envs.rewards.builders import (
        balanced_brackets,
        exact_answers,
        from_step_function,
        keyword,
        token_weights,
    )
    from tokenwalk.envs.rewards.function import FunctionSource
    from tokenwalk.envs.rewards.machine import RewardMachine
    from tokenwalk.envs.tasks import Task
    from tokenwalk.envs.vocabulary import Vocabulary
    from tokenwalk.envs.wrappers import AddRewards, PotentialShaping

register_all()


class _Moved:
    """Asked after every other finder: says where a module of the first edition is now."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Return None. Raises ModuleNotFoundError for a path that was moved."""
        if name.startswith("tokenwalk.") and not name.startswith("tokenwalk.agents.api"):
            from tokenwalk.agents.api.moved import where_is

            if (found := where_is(name)) is not None:
                raise ModuleNotFoundError(f"{name} is now {found}", name=name)


sys.meta_path.append(_Moved)

_BUILDERS = "envs.rewards.builders"
# Public name -> where it is: a module below tokenwalk, and its name there where that differs.
_DOOR = {
    "solve": "agents.api.tables",
    "evaluate": "agents.api.tables",
    "tabular_mdp": "agents.api.tables",
    "train": "agents.api.learning",
    "compare": "agents.api.learning",
    "goodhart": "agents.api.rewards",
    "audit_reward": "agents.api.rewards",
    "audit_kl": "agents.api.rewards",
    "load_run": "agents.api.run",
    "Task": "envs.tasks",
    "Vocabulary": "envs.vocabulary",
    "RewardMachine": "envs.rewards.machine",
    "keyword": _BUILDERS,
    "exact_answers": _BUILDERS,
    "balanced_brackets": _BUILDERS,
    "token_weights": _BUILDERS,
    "from_step_function": _BUILDERS,
    "FunctionSource": "envs.rewards.function",
    "PotentialShaping": "envs.wrappers",
    "AddRewards": "envs.wrappers",
    "QLearning": "agents.tabular.q_learning",
    "RewardModel": "agents.backprop.reward_model",
    "Autoencoder": "agents.backprop.autoencoder:Reconstruction",
    "TokenLM": "agents.backprop.lm",
    "PolicyGradient": "agents.policy_gradient.trainer",
}

__all__ = [  # noqa: RUF022 - grouped by use; a test holds it equal to _DOOR
    "solve",
    "evaluate",
    "tabular_mdp",
    "train",
    "compare",
    "goodhart",
    "audit_reward",
    "audit_kl",
    "load_run",
    "register",
    "Task",
    "Vocabulary",
    "RewardMachine",
    "keyword",
    "exact_answers",
    "balanced_brackets",
    "token_weights",
    "from_step_function",
    "FunctionSource",
    "PotentialShaping",
    "AddRewards",
    "QLearning",
    "RewardModel",
    "Autoencoder",
    "TokenLM",
    "PolicyGradient",
]


def __getattr__(name: str) -> Any:
    """Return a public name, loaded when it is first used, or ``__version__``.

    Raises:
        AttributeError: an unknown name, with the nearest. ModuleNotFoundError: a name that needs ``tokenwalk[train]``.
    """
    import importlib

    if name == "__version__":  # the reader of metadata costs every start 40 ms
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("tokenwalk")
        except PackageNotFoundError:  # a checkout on the path that was never installed
            return "0+unknown"
    if name not in _DOOR:
        import difflib

        near = difflib.get_close_matches(name, __all__, n=1)
        hint = f": did you mean {near[0]}?" if near else f": it offers {', '.join(__all__)}"
        raise AttributeError(f"module 'tokenwalk' has no attribute {name!r}{hint}")
    module, _, inner = _DOOR[name].partition(":")
    try:
        found = getattr(importlib.import_module(f"tokenwalk.{module}"), inner or name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tokenwalk"):
            raise
        message = f"tokenwalk.{name} needs the package {error.name}: pip install 'tokenwalk[train]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
