"""Uses tokenwalk beside this project's own packages and prints what it saw as one JSON object."""

import importlib.util
import json
import sys
from typing import Any

import gymnasium as gym
import numpy as np
from agents.oscillator import Oscillator
from envs.lamp import LampEnv

ENV_ID = "tokenwalk/CounterWalk-v0"


def episode_return(env: gym.Env[Any, Any]) -> float:
    """Return what the oscillator collects in one episode of at most 100 steps."""
    agent, total = Oscillator(), 0.0
    env.reset(seed=0)
    for _ in range(100):
        _, reward, terminated, truncated, _ = env.step(agent.act())
        total += float(reward)
        if terminated or truncated:
            break
    return total


def vector_return(mode: str | None, **options: Any) -> float:
    """Return the oscillator's mean return over the sub-environments of one vectorization."""
    envs = gym.make_vec(ENV_ID, num_envs=3, vectorization_mode=mode, **options)
    agent, total = Oscillator(), np.zeros(3)
    envs.reset(seed=0)
    for _ in range(100):
        total += envs.step(np.full(3, agent.act()))[1]
    envs.close()
    return float(total.mean())


def exact_value() -> float:
    """Return the optimal value of the walk's first state at discount 0.9, by tokenwalk's exact tools."""
    from tokenwalk.agents.exact.dynamic_programming import solve
    from tokenwalk.envs.tabular import tabular_mdp

    mdp = tabular_mdp(gym.make(ENV_ID)).without_time_limit()
    return float(solve(mdp, {"gold": 1.0}, discount=0.9).value.ravel()[0])


def main() -> None:
    """Print the findings. The order matters: the first gym.make must find tokenwalk by its prefix alone."""
    imported_before = "tokenwalk" in sys.modules
    prefixed = episode_return(gym.make(f"tokenwalk:{ENV_ID}"))
    gym.register("lamp/Lamp-v0", entry_point="envs.lamp:LampEnv", max_episode_steps=100)
    lamp = gym.make("lamp/Lamp-v0")
    findings = {
        "imported_before": imported_before,
        "prefixed": prefixed,
        "plain": episode_return(gym.make(ENV_ID)),
        "vectors": {str(mode): vector_return(mode) for mode in (None, "sync", "async", "vector_entry_point")},
        "spawned": vector_return("async", vector_kwargs={"context": "spawn"}),
        "lamp": episode_return(lamp),
        "lamp_is_ours": type(lamp.unwrapped) is LampEnv,
        "own": [sys.modules["envs"].__file__, sys.modules["agents"].__file__],
        "tokenwalk": sys.modules["tokenwalk"].__file__,
        "exact_value": exact_value(),
        "installed": [
            name for name in ("torch", "stable_baselines3", "numba") if importlib.util.find_spec(name)
        ],
    }
    print(json.dumps(findings))


if __name__ == "__main__":
    main()
