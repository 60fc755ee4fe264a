"""What ``tokenwalk benchmark`` measures, part by part, and against whom."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from tokenwalk.agents.study.benchmark import Contest, Work
from tokenwalk.agents.tabular.config import QLearningConfig
from tokenwalk.agents.tabular.q_learning import QLearning
from tokenwalk.envs.rewards.builders import token_weights
from tokenwalk.envs.rewards.source import MachineSource
from tokenwalk.envs.tabular import tabular_mdp

_UPDATES = "updates/s"


def walk_contests() -> list[Contest]:
    """Return CounterWalk's contests: scalar steps, and native vector steps at four widths.

    Peers: FrozenLake's and CliffWalking's scalar environments through ``gym.make``, SyncVectorEnv over CounterWalk
    itself, and CartPole's native vector environment.
    """
    walk = "tokenwalk/CounterWalk-v0"
    ours = scalar_steps(walk)
    contests = [
        Contest("scalar / FrozenLake", ours, scalar_steps("FrozenLake-v1"), 8.0),
        Contest("scalar / CliffWalking", ours, scalar_steps(_newest("CliffWalking")), None),
    ]
    targets = {1: (None, None), 64: (None, None), 1024: (150.0, 5.0), 8192: (None, None)}
    for lanes, (against_sync, against_cartpole) in targets.items():
        native = vector_steps(walk, lanes, "vector_entry_point")
        contests += [
            Contest(
                f"vector x{lanes} / SyncVectorEnv", native, vector_steps(walk, lanes, "sync"), against_sync
            ),
            Contest(
                f"vector x{lanes} / CartPole",
                native,
                vector_steps("CartPole-v1", lanes, "vector_entry_point"),
                against_cartpole,
            ),
        ]
    return contests


def scalar_steps(env_id: str, steps: int = 30_000) -> Work:
    """Return work that plays ``steps`` steps through ``gym.make`` with actions drawn beforehand, resets included."""
    env = gym.make(env_id)
    actions = np.random.default_rng(0).integers(0, int(env.action_space.n), steps).tolist()  # type: ignore[attr-defined]
    env.reset(seed=0)

    def work() -> int:
        env.reset()
        step, reset = env.step, env.reset
        for action in actions:
            _, _, terminated, truncated, _ = step(action)
            if terminated or truncated:
                reset()
        return steps

    return work


def vector_steps(env_id: str, lanes: int, mode: str, **env_args: Any) -> Work:
    """Return work that steps ``lanes`` environments for about 20 to 60 ms; the actions are drawn beforehand."""
    vector_env = gym.make_vec(env_id, num_envs=lanes, vectorization_mode=mode, **env_args)
    n_actions = int(vector_env.single_action_space.n)  # type: ignore[attr-defined]
    calls = max(4, 20_000 // lanes) if mode == "sync" else 2_000
    actions = list(np.random.default_rng(0).integers(0, n_actions, (min(calls, 64), lanes)))
    vector_env.reset(seed=0)

    def work() -> int:
        step = vector_env.step
        for call in range(calls):
            step(actions[call % len(actions)])
        return calls * lanes

    return work


def _newest(name: str) -> str:
    """Return the newest registered version of one of Gymnasium's ids."""
    return max(
        (spec for spec in gym.registry.values() if spec.name == name), key=lambda spec: spec.version or 0
    ).id


def token_contests() -> list[Contest]:
    """Return the token environment's contests: scalar and vector steps of Keyword, all terms logged, and learning on it.

    Peers: FrozenLake's scalar environment, SyncVectorEnv over Keyword itself, CartPole's native vector environment, the
    same environment with eight more metrics (what logging terms costs), and the textbook loop on its machine.
    """
    task = "tokenwalk/Keyword-v0"
    contests = [Contest("tokens scalar / FrozenLake", scalar_steps(task), scalar_steps("FrozenLake-v1"), 3.0)]
    for lanes, target in ((1, None), (64, None), (1024, 50.0), (8192, 100.0)):
        native = vector_steps(task, lanes, "vector_entry_point")
        contests.append(
            Contest(f"tokens x{lanes} / SyncVectorEnv", native, vector_steps(task, lanes, "sync"), target)
        )
    cartpole = vector_steps("CartPole-v1", 1024, "vector_entry_point")
    wide = vector_steps(task, 1024, "vector_entry_point", metrics=eight_metrics(task))
    plain = vector_steps(task, 1024, "vector_entry_point")
    machine = vector_steps(task, 1024, "vector_entry_point", observation="machine")
    return [
        *contests,
        Contest("tokens x1024 / CartPole", plain, cartpole, 1.5),
        Contest("tokens x1024, machine / CartPole", machine, cartpole, None),
        Contest("tokens x1024 / with 8 more terms logged", plain, wide, None),
        Contest(
            "Q-learning, token tables / textbook",
            compiled_q_learning(task, 1, machine=True),
            textbook_q_learning(task, observation="machine"),
            None,
            _UPDATES,
        ),
    ]


def eight_metrics(env_id: str) -> list[MachineSource]:
    """Return eight sources that count one token each, to be logged beside what is paid."""
    task = gym.make(env_id).unwrapped.task  # type: ignore[attr-defined]
    size = task.vocabulary.size
    return [
        task.machine_source(f"count {t}", token_weights(np.eye(size)[t].tolist())) for t in range(size - 1)
    ]


def learning_contests() -> list[Contest]:
    """Return Q-learning's contests, in updates per second: the Python driver on the scalar walk, the compiled driver on
    FrozenLake's tables in one run and in 1,024, each against the textbook loop on the same environment."""
    walk, lake = "tokenwalk/CounterWalk-v0", "FrozenLake-v1"
    textbook = textbook_q_learning(lake)
    return [
        Contest(
            "Q-learning, scalar walk / textbook",
            python_q_learning(walk),
            textbook_q_learning(walk),
            1.5,
            _UPDATES,
        ),
        Contest(
            "Q-learning, tables, 1 run / textbook", compiled_q_learning(lake, 1), textbook, 300.0, _UPDATES
        ),
        Contest(
            "Q-learning, tables, 1024 runs / textbook",
            compiled_q_learning(lake, 1024, 32_000_000),
            textbook,
            300.0,
            _UPDATES,
        ),
    ]


def textbook_q_learning(env_id: str, steps: int = 15_000, **env_args: Any) -> Work:
    """Return the loop as textbooks print it: a numpy table, epsilon-greedy by numpy's draws, the first of the best."""
    env = gym.make(env_id, **env_args)
    n_states, n_actions = int(env.observation_space.n), int(env.action_space.n)  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)

    def work() -> int:
        q = np.zeros((n_states, n_actions))
        state, _ = env.reset(seed=0)
        for _ in range(steps):
            action = int(rng.integers(n_actions)) if rng.random() < 0.1 else int(np.argmax(q[state]))
            next_state, reward, terminated, truncated, _ = env.step(action)
            q[state, action] += 0.1 * (
                float(reward) + 0.9 * np.max(q[next_state]) * (not terminated) - q[state, action]
            )
            state = next_state
            if terminated or truncated:
                state, _ = env.reset()
        return steps

    return work


def python_q_learning(env_id: str, steps: int = 30_000) -> Work:
    """Return our Python driver over the scalar environment; the agent goes on from one call to the next."""
    env = gym.make(env_id)
    agent = QLearning.for_env(env, QLearningConfig())

    def work() -> int:
        agent.learn_env(env, steps)
        return steps

    return work


def compiled_q_learning(env_id: str, runs: int, updates: int = 8_000_000, machine: bool = False) -> Work:
    """Return our compiled driver over the tables, of a token task's machine if asked: ``updates`` shared by the runs."""
    env = gym.make(env_id)
    mdp = env.unwrapped.model.machine_tables()[0] if machine else tabular_mdp(env)  # type: ignore[attr-defined]
    weights = {"paid" if machine else "gold": 1.0}
    agent = QLearning.for_mdp(mdp, QLearningConfig(), runs=runs)

    def work() -> int:
        agent.learn_mdp(mdp, weights, updates // runs)
        return updates // runs * runs

    return work


def sb3_contests() -> list[Contest]:
    """Return PPO's frames per second at 64 lanes.

    On the walk our adapter over the native environment against SB3's DummyVecEnv; on Keyword our extractor for token ids
    against SB3's one-hot columns.
    """
    import torch
    from stable_baselines3.common.vec_env import DummyVecEnv

    from tokenwalk.agents.baselines.sb3 import make_vec_env

    torch.set_num_threads(1)
    walk, task, lanes = "tokenwalk/CounterWalk-v0", "tokenwalk/Keyword-v0", 64
    native = ppo_frames(walk, make_vec_env(walk, lanes))
    tokens = ppo_frames(task, make_vec_env(task, lanes))
    one_hot = ppo_frames(task, make_vec_env(task, lanes), features="one-hot")
    return [
        Contest(
            "PPO x64 / DummyVecEnv",
            native,
            ppo_frames(walk, DummyVecEnv([partial(gym.make, walk)] * lanes)),
            1.0,
            "frames/s",
        ),
        Contest("PPO on tokens / one-hot", tokens, one_hot, 1.2, "frames/s"),
    ]


def ppo_frames(env_id: str, vec_env: Any, steps: int = 8_192, **changes: Any) -> Work:
    """Return work in which PPO, with its defaults for ``env_id`` but for ``changes``, learns from ``steps`` frames."""
    from tokenwalk.agents.baselines.configs import default_config
    from tokenwalk.agents.baselines.sb3 import build, train

    config: Any = replace(default_config("ppo", env_id), **changes)

    def work() -> int:
        model = build("ppo", vec_env, config, seed=0)
        train(model, steps=steps, on_progress=lambda step, metrics: None)
        return int(model.num_timesteps)

    return work


PARTS: dict[str, Callable[[], list[Contest]]] = {
    "walk": walk_contests,
    "tokens": token_contests,
    "learning": learning_contests,
    "sb3": sb3_contests,
}
