"""The agents by name: what each can be told, and what suits an environment. Loads neither torch nor numba."""

import difflib
from typing import Any, cast

from tokenwalk.agents.baselines import configs as sb3
from tokenwalk.agents.policy_gradient import config as policy_gradient
from tokenwalk.agents.study.learned import MODELS
from tokenwalk.agents.tabular.config import BACKUPS, Backup, QLearningConfig
from tokenwalk.agents.tabular.defaults import default_config as tabular_default
from tokenwalk.envs.registration import resolve_id

TABULAR: tuple[str, ...] = BACKUPS
SB3 = sb3.AGENTS
LANGUAGE = policy_gradient.AGENTS
AGENTS = (*TABULAR, *SB3, *LANGUAGE, "exact", "random")


def check_agent(agent: str) -> str:
    """Return ``agent``. Raises ValueError for an unknown name, with the nearest."""
    if agent not in AGENTS:
        known = (*AGENTS, *MODELS)
        near = difflib.get_close_matches(agent, known, n=3, cutoff=0.4) or known
        raise ValueError(f"no agent is called {agent!r}: did you mean {', '.join(near)}?")
    return agent


def config_type(agent: str) -> type[Any] | None:
    """Return the dataclass that ``agent`` is told, or None where there is nothing to tell."""
    if agent in TABULAR:
        return QLearningConfig
    if agent in LANGUAGE:
        return type(policy_gradient.default_config(agent, ""))
    return type(sb3.default_config(agent, "")) if agent in SB3 else None


def default_config(agent: str, env: str) -> Any:
    """Return the config that suits ``agent`` on the environment named ``env``, None where there is nothing to tell."""
    env_id = resolve_id(env)
    if agent in TABULAR:
        return tabular_default(env_id, cast(Backup, agent))[0]
    if agent in LANGUAGE:
        return policy_gradient.default_config(agent, env_id)
    return sb3.default_config(agent, env_id) if agent in SB3 else None


def default_steps(agent: str, env: str) -> int:
    """Return the environment steps that the default config needs; 0 for what has nothing to learn."""
    env_id = resolve_id(env)
    if agent in TABULAR:
        return tabular_default(env_id, cast(Backup, agent))[1]
    if agent in LANGUAGE:
        return policy_gradient.default_steps(agent, env_id)
    return sb3.default_steps(agent, env_id) if agent in SB3 else 0
