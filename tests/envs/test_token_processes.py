"""Token environments in other processes: learned and composed rewards are picklable and stay themselves."""

import multiprocessing
import pickle
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
import numpy as np

from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.builders import token_weights
from tokenwalk.envs.rewards.source import TokenBatch
from tokenwalk.envs.tasks import find_task


@dataclass(frozen=True)
class CountsTokens:
    """A source that is no machine, as a learned reward is none: it pays for the tokens written so far."""

    scale: float
    name: str = "counted"
    low: float = 0.0
    high: float = 1.0
    timing: Literal["token", "end"] = "token"

    def score(self, batch: TokenBatch) -> FloatArray:
        return self.scale * np.asarray(batch.length, dtype=np.float64)


def composed() -> dict[str, object]:
    task = find_task("Flattery")
    praise = task.machine_source("praise", token_weights([0, 0, 0, 1, 1, 0]))
    return {"reward": ["gold", (praise, -0.5), (CountsTokens(0.1), 2.0)], "metrics": []}


def play_once(actions: list[int]) -> list[float]:
    env = gym.make("tokenwalk:tokenwalk/Flattery-v0", **composed())
    env.reset(seed=0)
    return [float(env.step(action)[1]) for action in actions]


def test_a_spawned_process_makes_the_environment_and_pays_the_same() -> None:
    actions = [0, 1, 3, 2, 4]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere = pool.apply(play_once, (actions,))
    assert elsewhere == play_once(actions)
    # gold and -0.5 for praise, and 2 * 0.1 for each token so far.
    assert elsewhere == [0.2, 1.4, -0.5 - 0.5 + 0.6000000000000001, 0.8, -0.5 - 0.5 + 1.0]


def test_an_async_vector_environment_agrees_with_the_native_one_on_composed_rewards() -> None:
    actions = np.random.default_rng(0).integers(0, 5, (4, 3))
    rewards = {}
    for mode in ("async", "vector_entry_point"):
        env = gym.make_vec("tokenwalk/Flattery-v0", num_envs=3, vectorization_mode=mode, **composed())
        env.reset(seed=7)
        rewards[mode] = np.array([env.step(action)[1] for action in actions])
        env.close()
    assert (rewards["async"] == rewards["vector_entry_point"]).all()
    assert rewards["async"].std() > 0


def test_the_sizes_of_the_observation_can_be_summed_however_small_its_tokens() -> None:
    space = gym.make("tokenwalk/Lexicon-v0").observation_space
    assert space.dtype == np.uint8
    assert sum(space.nvec) == 24 * 29  # type: ignore[attr-defined]  # more than a uint8 holds
    assert pickle.loads(pickle.dumps(space)) == space


def test_plain_sb3_learns_on_the_longest_observation_of_the_catalogue() -> None:
    from stable_baselines3 import PPO

    model = PPO("MlpPolicy", gym.make("tokenwalk/Lexicon-v0"), n_steps=16, batch_size=16, device="cpu")
    model.learn(16)
    assert model.num_timesteps == 16
    assert model.policy.features_extractor.features_dim == 24 * 29
