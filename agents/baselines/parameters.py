"""A trained model as one safetensors file: parameters, config and spaces. Nothing is pickled or unpickled."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from stable_baselines3.common.vec_env import VecEnv

from tokenwalk.agents.baselines.configs import Config, config_from
from tokenwalk.agents.baselines.reporting import Model
from tokenwalk.agents.baselines.sb3 import UnsupportedSpaceError, agent_of, build
from tokenwalk.agents.runs.checkpoint import DamagedFileError, write_atomically

FORMAT = 1


def save(model: Model, config: Config, path: Path) -> None:
    """Write the parameters of ``model`` (for DQN of both networks), its config and its spaces, atomically.

    The optimizer's state and the replay buffer are not in the file.
    """
    assert model.env is not None
    # Copies: extractors that policy and value share would be refused as tensors that overlap.
    tensors = {name: tensor.detach().clone() for name, tensor in model.policy.state_dict().items()}
    about = json.dumps(
        {
            "format": FORMAT,
            "agent": agent_of(model),
            "config": asdict(config),
            "observation_space": str(model.env.unwrapped.observation_space),  # before any wrapper of ours
            "action_space": str(model.action_space),
        }
    )
    metadata = {"tokenwalk": about, "sha256": _digest(about, tensors)}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load(path: Path, vec_env: VecEnv) -> tuple[Model, Config]:
    """Return a model built afresh on ``vec_env`` with the parameters of ``path``, and its config.

    The number of lanes may be another than in training: the config returned has that of ``vec_env``.

    Raises:
        DamagedFileError: a file that is torn, changed, foreign or of another format.
        UnsupportedSpaceError: ``vec_env`` has other spaces than the model was trained on.
        FileNotFoundError: there is no such file.
    """
    about, tensors = _read(path)
    for name in ("observation_space", "action_space"):
        if about[name] != str(getattr(vec_env, name)):
            raise UnsupportedSpaceError(
                f"{path} was trained with {name} {about[name]}, the environment has "
                f"{getattr(vec_env, name)}: give the environment, with the arguments, that it was trained on"
            )
    try:
        config = replace(config_from(about["agent"], about["config"]), num_envs=vec_env.num_envs)
        model = build(about["agent"], vec_env, config, seed=0)
        model.policy.load_state_dict(tensors)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DamagedFileError(
            f"{path} does not fit this version of tokenwalk ({error}): train again"
        ) from None
    return model, config


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return what ``save`` wrote. Raises DamagedFileError, naming the file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise DamagedFileError(f"{path} is torn or no safetensors file ({error}): train again") from None
    if "tokenwalk" not in metadata:
        raise DamagedFileError(f"{path} was not written by tokenwalk: give the model file of a run")
    if metadata.get("sha256") != _digest(metadata["tokenwalk"], tensors):
        raise DamagedFileError(f"{path} is damaged (its digest is wrong): train again")
    about: dict[str, Any] = json.loads(metadata["tokenwalk"])
    if about["format"] != FORMAT:
        raise DamagedFileError(
            f"{path} has format {about['format']}, this version reads {FORMAT}: train again"
        )
    return about, tensors


def _digest(about: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the text and of every tensor by name."""
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()
