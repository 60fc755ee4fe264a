"""A saved model comes back exactly, from its parameters alone, or not at all."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import tokenwalk  # noqa: F401 - registers the ids
from tokenwalk.agents.baselines.callbacks import Model
from tokenwalk.agents.baselines.configs import AGENTS, A2CConfig, Config, DQNConfig, Features, PPOConfig
from tokenwalk.agents.baselines.parameters import load, save
from tokenwalk.agents.baselines.sb3 import build, make_vec_env, train
from tokenwalk.agents.runs.checkpoint import DamagedFileError
from tokenwalk.envs.checks import UnsupportedSpaceError

CONFIGS: dict[str, Config] = {
    "ppo": PPOConfig(num_envs=4, rollout_steps=8),
    "a2c": A2CConfig(num_envs=4),
    "dqn": DQNConfig(num_envs=4, batch_size=16, hidden=(8, 8)),
    "maskable-ppo": PPOConfig(num_envs=4, rollout_steps=8, hidden=()),
}


def saved(agent: str, path: Path, env_id: str = "FrozenLake-v1", steps: int = 64) -> Model:
    model = build(agent, make_vec_env(env_id, 4), CONFIGS[agent], seed=1)
    train(model, steps=steps, on_progress=lambda step, metrics: None)
    save(model, CONFIGS[agent], path)
    return model


def outputs(model: Model) -> list[Any]:
    """Return what the networks say of all 16 states: for DQN both, else logits' probabilities and values."""
    observations = torch.arange(16)
    with torch.no_grad():
        if hasattr(model, "q_net_target"):
            return [model.q_net(observations).numpy(), model.q_net_target(observations).numpy()]
        distribution = model.policy.get_distribution(observations)
        return [distribution.distribution.probs.numpy(), model.policy.predict_values(observations).numpy()]


@pytest.mark.parametrize("agent", AGENTS)
def test_what_is_loaded_predicts_as_what_was_saved(agent: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = saved(agent, path)
    loaded, config = load(path, make_vec_env("FrozenLake-v1", 4))
    fresh = build(agent, make_vec_env("FrozenLake-v1", 4), CONFIGS[agent], seed=0)
    assert type(loaded) is type(model)
    assert config == CONFIGS[agent]
    assert all(np.array_equal(one, two) for one, two in zip(outputs(loaded), outputs(model), strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(outputs(fresh), outputs(model), strict=True))
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("agent", AGENTS)
def test_a_model_loads_for_any_number_of_sub_environments_and_can_train_on(
    agent: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    model = saved(agent, path)
    loaded, config = load(path, make_vec_env("FrozenLake-v1", 3))
    assert config.num_envs == 3
    assert np.array_equal(outputs(loaded)[0], outputs(model)[0])
    train(loaded, steps=60, on_progress=lambda step, metrics: None)
    assert not np.array_equal(outputs(loaded)[0], outputs(model)[0])


@pytest.mark.parametrize("features", ["tokens", "one-hot"])
@pytest.mark.parametrize("agent", AGENTS)
def test_a_model_of_token_ids_comes_back_as_it_was(agent: str, features: Features, tmp_path: Path) -> None:
    path, env_id = tmp_path / "model.safetensors", "tokenwalk/Arithmetic-v0"
    config = replace(CONFIGS[agent], features=features, hidden=(8, 8))
    model = build(agent, make_vec_env(env_id, 4), config, seed=1)
    save(model, config, path)
    loaded, read = load(path, make_vec_env(env_id, 1))
    fresh = build(agent, make_vec_env(env_id, 4), config, seed=0)
    observations = np.stack([make_vec_env(env_id, 64).observation_space.sample() for _ in range(64)])
    actions = [one.predict(observations, deterministic=True)[0].tolist() for one in (model, loaded, fresh)]
    assert actions[0] == actions[1]
    assert actions[0] != actions[2]
    assert read == replace(config, num_envs=1)
    with pytest.raises(UnsupportedSpaceError, match="was trained with observation_space MultiDiscrete"):
        load(path, make_vec_env("tokenwalk/Flattery-v0", 1))


def test_other_spaces_are_refused_with_the_file_and_both_spaces(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    saved("a2c", path, "tokenwalk/CounterWalk-v0")
    with pytest.raises(
        UnsupportedSpaceError, match=r"model\.safetensors was trained with observation_space Discrete\(3\)"
    ):
        load(path, make_vec_env("tokenwalk/CounterWalk-v0", 4, {"n_states": 4}))


def test_a_torn_file_is_named_at_whatever_byte_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    saved("a2c", path)
    whole, env = path.read_bytes(), make_vec_env("FrozenLake-v1", 4)
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match=r"model\.safetensors"):
            load(path, env)
    path.write_bytes(whole)
    assert load(path, env)[1] == CONFIGS["a2c"]


def test_a_changed_weight_and_a_changed_config_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    saved("a2c", path)
    whole, env = path.read_bytes(), make_vec_env("FrozenLake-v1", 4)
    for changed in (whole[:-1] + bytes([whole[-1] ^ 1]), whole.replace(b"0.003", b"0.004")):
        assert changed != whole
        path.write_bytes(changed)
        with pytest.raises(DamagedFileError, match=r"model\.safetensors is damaged"):
            load(path, env)


def test_foreign_files_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    env, path = make_vec_env("FrozenLake-v1", 4), tmp_path / "model.safetensors"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(DamagedFileError, match="torn or no safetensors file"):
        load(path, env)
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(DamagedFileError, match="was not written by tokenwalk"):
        load(path, env)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent.safetensors", env)


def test_the_file_says_what_it_holds_to_any_reader_of_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    saved("dqn", path)
    with safe_open(path, framework="numpy") as file:
        about, names = json.loads(file.metadata()["tokenwalk"]), set(file.keys())
    assert about["agent"] == "dqn"
    assert about["config"]["hidden"] == [8, 8]
    assert about["observation_space"] == "Discrete(16)"
    assert {name.split(".")[0] for name in names} == {"q_net", "q_net_target"}
