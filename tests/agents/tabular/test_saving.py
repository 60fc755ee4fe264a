"""A loaded agent continues bit for bit; any other file is refused by name."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tokenwalk.agents.runs.checkpoint import DamagedFileError, read_arrays, write_arrays
from tokenwalk.agents.tabular.config import BACKUPS, QLearningConfig
from tokenwalk.agents.tabular.q_learning import QLearning
from tokenwalk.agents.tabular.saving import load_agent, save_agent
from tokenwalk.envs.tabular import TabularMDP, tabular_mdp

GOLD = {"gold": 1.0}


@pytest.fixture(name="mdp")
def _mdp() -> TabularMDP:
    return tabular_mdp(gym.make("FrozenLake-v1"))


@pytest.fixture(name="saved")
def _saved(mdp: TabularMDP, tmp_path: Path) -> Path:
    agent = QLearning.for_mdp(mdp, QLearningConfig(n_step=2), runs=2, seed=3)
    agent.learn_mdp(mdp, GOLD, 500)
    save_agent(agent, tmp_path / "agent.npz")
    return tmp_path / "agent.npz"


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("backup", BACKUPS)
def test_saved_loaded_and_continued_is_learning_in_one_go(
    backup: Any, n_step: int, mdp: TabularMDP, tmp_path: Path
) -> None:
    config = QLearningConfig(
        backup=backup,
        step_size_half_life=9.0,
        n_step=n_step,
        epsilon=0.5,
        kl_coef=0.01 * (backup == "soft-q"),
    )
    whole, first = (QLearning.for_mdp(mdp, config, runs=3, seed=4) for _ in range(2))
    whole.learn_mdp(mdp, GOLD, 1000)
    first.learn_mdp(mdp, GOLD, 333)
    save_agent(first, tmp_path / "agent.npz")
    second = load_agent(tmp_path / "agent.npz")
    assert (second.config, second.runs, second.steps) == (config, 3, 333)
    second.learn_mdp(mdp, GOLD, 667)
    for name, part in whole.memory._asdict().items():
        np.testing.assert_array_equal(part, getattr(second.memory, name), err_msg=name)


def test_an_agent_saved_in_an_environment_begins_an_episode_with_another_seed(tmp_path: Path) -> None:
    env = gym.make("Blackjack-v1")
    agent = QLearning.for_env(env, QLearningConfig(), seed=4)
    agent.learn_env(env, 500)
    save_agent(agent, tmp_path / "agent.npz")
    loaded = load_agent(tmp_path / "agent.npz")
    assert loaded.environments_begun.tolist() == [1]
    loaded.learn_env(gym.make("Blackjack-v1"), 500)
    assert (loaded.steps, loaded.environments_begun.tolist()) == (1000, [2])


def test_a_masked_reference_is_saved_as_it_was_before_and_after_the_mask(tmp_path: Path) -> None:
    env = gym.make("Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3")
    agent = QLearning.for_env(env, QLearningConfig(), seed=4)
    agent.learn_env(env, 300)
    save_agent(agent, tmp_path / "agent.npz")
    loaded = load_agent(tmp_path / "agent.npz")
    assert not loaded.available.all()
    np.testing.assert_array_equal(loaded.available, agent.available)


def test_no_byte_of_a_file_may_change(saved: Path) -> None:
    whole = saved.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(whole), size=20):
        torn = bytearray(whole)
        torn[position] ^= 0xFF
        saved.write_bytes(bytes(torn))
        with pytest.raises(DamagedFileError, match=r"agent\.npz"):
            load_agent(saved)
    saved.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedFileError, match=r"agent\.npz"):
        load_agent(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "something else"),
        ("format", 99),
        ("runs", 5),
        ("n_actions", 3),
        ("sizes", [17]),
        ("config", {"backup": "none"}),
        ("config", {"unknown": 1}),
        ("generators", []),
        ("generators", [{"bit_generator": "MT19937"}] * 2),
    ],
)
def test_a_file_whose_parts_do_not_fit_together_is_refused_by_name(saved: Path, key: str, value: Any) -> None:
    arrays, meta = read_arrays(saved)
    write_arrays(saved, arrays, {**meta, key: value})
    saved.with_name("agent.npz.before").unlink()
    with pytest.raises(DamagedFileError, match=r"agent\.npz holds no tabular agent of this version"):
        load_agent(saved)


@pytest.mark.parametrize("name", ["q", "step_state", "log_reference", "environments_begun", "reference"])
def test_a_file_with_one_array_of_another_shape_is_refused_by_name(saved: Path, name: str) -> None:
    arrays, meta = read_arrays(saved)
    arrays[name] = arrays[name][:1]
    write_arrays(saved, arrays, meta)
    saved.with_name("agent.npz.before").unlink()
    with pytest.raises(DamagedFileError, match=rf"{name} has shape"):
        load_agent(saved)


@pytest.mark.parametrize("missing", ["q", "step_state", "log_reference", "environments_begun"])
def test_a_file_without_one_of_its_arrays_is_refused_by_name(saved: Path, missing: str) -> None:
    arrays, meta = read_arrays(saved)
    del arrays[missing]
    write_arrays(saved, arrays, meta)
    saved.with_name("agent.npz.before").unlink()
    with pytest.raises(DamagedFileError, match=missing):
        load_agent(saved)


def test_a_file_of_format_1_is_read_and_continues_bit_for_bit(saved: Path, mdp: TabularMDP) -> None:
    arrays, meta = read_arrays(saved)
    step_state = arrays.pop("step_state")
    names = step_state.dtype.names
    assert (names is not None and len(names), meta["format"]) == (9, 2)
    arrays["cursor"] = np.stack([step_state[name] for name in names[:8]], axis=1)
    arrays["return_so_far"] = step_state["episode_return"][:, None]
    old_names = {"state_index": "row", "action": "action", "reward": "reward", "kl_penalty": "excess"}
    for name, old in old_names.items():
        arrays[f"waiting_{old}"] = arrays.pop(f"buffer_{name}")
    old_file = saved.with_name("format_1.npz")
    write_arrays(old_file, arrays, {**meta, "format": 1})
    now, before = load_agent(saved), load_agent(old_file)
    for agent in (now, before):
        agent.learn_mdp(mdp, GOLD, 500)
    for name, part in now.memory._asdict().items():
        np.testing.assert_array_equal(part, getattr(before.memory, name), err_msg=name)


def test_the_file_is_plain_arrays_and_json(saved: Path) -> None:
    with np.load(saved, allow_pickle=False) as archive:
        meta = json.loads(archive["__json__"].tobytes())
        assert archive["q"].shape == (2, 1, 16, 4)
    assert meta["config"]["n_step"] == 2
    with pytest.raises(FileNotFoundError):
        load_agent(saved.with_name("nothing.npz"))
