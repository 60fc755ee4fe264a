"""A trained model as one safetensors file: parameters, config and spaces. Nothing is pickled or unpickled."""

from dataclasses import asdict, replace
from pathlib import Path

import torch
from stable_baselines3.common.vec_env import VecEnv

from tokenwalk.agents.baselines.callbacks import Model
from tokenwalk.agents.baselines.configs import Config, config_from
from tokenwalk.agents.baselines.sb3 import agent_of, build
from tokenwalk.agents.runs.checkpoint import DamagedFileError
from tokenwalk.agents.runs.tensors import read_tensors, write_tensors
from tokenwalk.envs.checks import UnsupportedSpaceError


def save(model: Model, config: Config, path: Path) -> None:
    """Write the parameters of ``model`` (for DQN of both networks), its config and its spaces, atomically.

    The optimizer's state and the replay buffer are not in the file.
    """
    assert model.env is not None
    about = {
        "agent": agent_of(model),
        "config": asdict(config),
        "observation_space": str(model.env.unwrapped.observation_space),  # before our wrappers
        "action_space": str(model.action_space),
    }
    # Copies, because safetensors refuses tensors that overlap: policy and value share their extractor.
    write_tensors(path, {name: one.numpy().copy() for name, one in model.policy.state_dict().items()}, about)


def load(path: Path, vec_env: VecEnv) -> tuple[Model, Config]:
    """Return a model built afresh on ``vec_env`` with the parameters of ``path``, and its config.

    The number of sub-environments may differ from training: the config returned has that of ``vec_env``.

    Raises:
        DamagedFileError: a file that is torn, changed, foreign or of another format.
        UnsupportedSpaceError: ``vec_env`` has other spaces than the model was trained on.
        FileNotFoundError: there is no such file.
    """
    tensors, about = read_tensors(path)
    for name in ("observation_space", "action_space"):
        if about[name] != str(getattr(vec_env, name)):
            raise UnsupportedSpaceError(
                f"{path} was trained with {name} {about[name]}, the environment has "
                f"{getattr(vec_env, name)}: give the environment, with the arguments, that it was trained on"
            )
    try:
        config = replace(config_from(about["agent"], about["config"]), num_envs=vec_env.num_envs)
        model = build(about["agent"], vec_env, config, seed=0)
        model.policy.load_state_dict({name: torch.as_tensor(one) for name, one in tensors.items()})
    except (TypeError, ValueError, RuntimeError) as error:
        raise DamagedFileError(
            f"{path} does not fit this version of tokenwalk ({error}): train again"
        ) from None
    return model, config
