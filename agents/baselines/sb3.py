"""PPO, A2C, DQN and MaskablePPO of Stable-Baselines3 as three steps: an environment, a fresh model, training.

    vec_env = make_vec_env("tokenwalk/CounterWalk-v0", config.num_envs)
    model = build("ppo", vec_env, config, seed=0)
    train(model, steps=20_000, on_progress=print)

The caller holds the model, so that after Ctrl-C it can be evaluated and saved. Small networks want one torch
thread: call ``torch.set_num_threads(1)`` before.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import is_masking_supported
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_wrapper

from tokenwalk.agents.baselines.callbacks import (
    Evaluate,
    ForwardingWriter,
    Model,
    ProgressCallback,
)
from tokenwalk.agents.baselines.configs import A2CConfig, Config, DQNConfig, check_agent
from tokenwalk.agents.baselines.extractors import (
    FindsOnce,
    MaskableFindsOnce,
    TokenFeatures,
    TokenIds,
    task_of,
)
from tokenwalk.agents.baselines.kl_penalty import KLPenalty
from tokenwalk.agents.baselines.vec_env import NativeVecEnv
from tokenwalk.agents.runs.progress import OnMetrics
from tokenwalk.envs.checks import UnsupportedSpaceError, check_count, check_seed

_ALGORITHMS: Mapping[str, Any] = {"ppo": PPO, "a2c": A2C, "dqn": DQN, "maskable-ppo": MaskablePPO}
_ADAM: Mapping[str, Any] = {"fused": True}
_BUFFER_SIZE = 50_000  # of DQN
_MAX_SEED = 2**32 - 1  # of numpy's global generator, which SB3 seeds
_ACTIONS: Mapping[str, tuple[type[spaces.Space[Any]], ...]] = {
    "ppo": (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box),
    "a2c": (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box),
    "dqn": (spaces.Discrete,),
    "maskable-ppo": (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
}
_OBSERVATIONS = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box)


def make_vec_env(env_id: str, num_envs: int, env_kwargs: Mapping[str, Any] | None = None) -> VecEnv:
    """Return ``num_envs`` sub-environments of ``env_id``: native where possible, else SB3's DummyVecEnv with Monitors.

    A native vector environment that resets in a step of its own (NEXT_STEP, as Gymnasium's CartPole does)
    counts as none.

    Raises:
        gym.error.Error: an unknown id. TypeError: arguments that the environment does not take.
    """
    kwargs = dict(env_kwargs or {})
    if gym.spec(env_id).vector_entry_point is not None:
        native: gym.vector.VectorEnv[Any, Any, Any] = gym.make_vec(
            env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **kwargs
        )
        if native.metadata.get("autoreset_mode") in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
            return NativeVecEnv(native)
        native.close()
    return DummyVecEnv([partial(_make_monitored, env_id, kwargs)] * num_envs)


def _make_monitored(env_id: str, kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    return Monitor(gym.make(env_id, **kwargs))


def check_spaces(agent: str, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
    """Raise UnsupportedSpaceError, saying which spaces ``agent`` can take, unless it can take these.

    SB3 counts observations and actions from 0 and knows no tuples.
    """
    for what, space, taken in (
        ("observes", observation, _OBSERVATIONS),
        ("acts in", action, _ACTIONS[agent]),
    ):
        if not isinstance(space, taken) or np.any(getattr(space, "start", 0)):
            names = ", ".join(kind.__name__ for kind in taken)
            raise UnsupportedSpaceError(
                f"the environment {what} {space}, which {agent} cannot take: it takes {names}, counted from "
                "0. Transform it with a wrapper, or use a tabular agent"
            )


def build(agent: str, vec_env: VecEnv, config: Config, *, seed: int) -> Model:
    """Return a fresh SB3 model of ``agent`` on the CPU, with one-hot inputs for discrete observations.

    Token ids it sees as ``config.features`` says. ``config.kl_coef`` adds a ``KLPenalty``.
    ``seed`` decides the initial parameters and, in ``train``, all random numbers. SB3 seeds Python's, numpy's and
    torch's global generators; their states are put back.

    Raises:
        UnsupportedSpaceError: spaces that the agent cannot take.
        ValueError: an unknown agent, another agent's config, a number of sub-environments other than the config's, a seed
            outside 0..2**32-1, or a ``kl_coef`` where there is no reference policy, see ``KLPenalty``.
    """
    check_agent(agent, config)
    check_spaces(agent, vec_env.observation_space, vec_env.action_space)
    if vec_env.num_envs != config.num_envs:
        raise ValueError(
            f"vec_env has {vec_env.num_envs} sub-environments, the config has num_envs = {config.num_envs}"
        )
    if check_seed(seed) > _MAX_SEED:
        raise ValueError(f"seed is {seed}: SB3 takes 0 to {_MAX_SEED}")
    penalty = None
    if not isinstance(config, DQNConfig) and config.kl_coef > 0:
        vec_env = penalty = KLPenalty(vec_env, config.kl_coef)
    network: dict[str, Any] = {"net_arch": list(config.hidden)}
    arguments = _own_arguments(config)
    if config.features != "one-hot" and task_of(vec_env) is not None:
        vec_env, trigrams = TokenIds(vec_env), config.features == "trigrams"
        network = {
            "net_arch": list(config.hidden[1:]),
            "features_extractor_class": TokenFeatures,
            "features_extractor_kwargs": {"width": next(iter(config.hidden), None), "trigrams": trigrams},
        }
        if not isinstance(config, DQNConfig):
            arguments |= {
                "rollout_buffer_class": MaskableFindsOnce if agent == "maskable-ppo" else FindsOnce,
                "rollout_buffer_kwargs": {"trigrams": trigrams},
            }
    if not isinstance(config, A2CConfig):  # which has its own optimizer, RMSprop
        network["optimizer_kwargs"] = _ADAM if isinstance(config, DQNConfig) else {**_ADAM, "eps": 1e-5}
    with _global_random_state_kept():
        model: Model = _ALGORITHMS[agent](
            "MlpPolicy",
            vec_env,
            learning_rate=config.learning_rate,
            gamma=config.discount,
            policy_kwargs=network,
            seed=seed,
            device="cpu",
            **arguments,
        )
    if penalty is not None:
        penalty.hold(model)
    return model


def _own_arguments(config: Config) -> dict[str, Any]:
    """Return the arguments of SB3's class for ``config`` that are not common to all."""
    if isinstance(config, DQNConfig):
        return {
            "buffer_size": _BUFFER_SIZE,
            "learning_starts": config.batch_size,
            "batch_size": config.batch_size,
            "train_freq": 1,
            "gradient_steps": config.gradient_steps,
            "target_update_interval": config.target_interval,
            "exploration_fraction": config.exploration_fraction,
            "exploration_final_eps": config.final_epsilon,
        }
    arguments = {
        "n_steps": config.rollout_steps,
        "gae_lambda": config.gae_lambda,
        "ent_coef": config.entropy_coef,
    }
    if isinstance(config, A2CConfig):
        return arguments
    return arguments | {"batch_size": config.batch_size, "n_epochs": config.epochs}


def agent_of(model: Model) -> str:
    """Return the agent's name of a model that ``build`` made."""
    return next(agent for agent, kind in _ALGORITHMS.items() if type(model) is kind)


def train(
    model: Model,
    *,
    steps: int,
    on_progress: OnMetrics,
    evaluate: Evaluate | None = None,
    log_every: int | None = None,
) -> None:
    """Train ``model`` from where its parameters stand, for ``steps`` steps of all sub-environments together.

    The agent works in whole rollouts, so the last one may pass ``steps``. Every ``log_every`` steps (a
    50th of all by default) ``on_progress(step, tag -> value)`` gets what SB3 logged: rollout/ep_rew_mean and
    rollout/ep_len_mean (undiscounted, last 100 episodes), train/..., time/fps; each component's reward/NAME and
    reward/NAME/weighted (sums over a completion, last 100); with a ``kl_coef`` train/kl (nats per completion, last
    100); and, from step 0 on, the figures by tag (eval/return, eval/gold...) that ``evaluate(model)`` returns. Prints
    nothing.

    The same seed, config and steps give the same parameters. SB3 uses the global generators of Python,
    numpy and torch; they are seeded here and put back afterwards, also after an error. KeyboardInterrupt
    passes through and leaves the model as the last update left it.

    Raises:
        ValueError: steps or log_every below 1.
    """
    steps = check_count("steps", steps)
    every = max(1, steps // 50) if log_every is None else check_count("log_every", log_every)
    callback = ProgressCallback(steps, every, partial(_figures, evaluate))
    masked: dict[str, Any] = {}
    if isinstance(model, MaskablePPO):
        assert model.env is not None
        masked = {"use_masking": is_masking_supported(model.env)}
    model.set_logger(Logger(None, [ForwardingWriter(on_progress)]))
    with _global_random_state_kept():
        model.set_random_seed(model.seed)
        model.learn(steps, callback=callback, log_interval=None, **masked)  # type: ignore[arg-type]


def _figures(evaluate: Evaluate | None, model: Model) -> Mapping[str, float]:
    """Return the metrics of ``evaluate``, the mean of each reward term, and the penalized KL where there is one."""
    figures = dict(evaluate(model)) if evaluate else {}
    assert model.env is not None
    penalty, vec_env = unwrap_vec_wrapper(model.env, KLPenalty), model.env.unwrapped
    if isinstance(vec_env, NativeVecEnv):
        figures |= vec_env.terms
    if penalty is not None and penalty.kl is not None:
        figures["train/kl"] = penalty.kl
    return figures


@contextmanager
def _global_random_state_kept() -> Iterator[None]:
    """Put the states of Python's, numpy's and torch's global generators back on the way out."""
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(pytorch)
