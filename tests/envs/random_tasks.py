"""Random small token tasks, for the tests of whatever solves or evaluates them."""

import numpy as np

from tokenwalk.envs.reference import ReferencePolicy
from tokenwalk.envs.rewards.machine import RewardMachine
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.vocabulary import Vocabulary


def random_task(seed: int) -> Task:
    """Return a task of two letters and <eos>, three tokens and two prompts, with a mask and a proxy.

    Rewards are whole, which makes ties, and some are added at the horizon.
    """
    rng = np.random.default_rng(seed)

    def machine() -> RewardMachine:
        shape = (int(rng.integers(1, 4)), 3)
        reward, last = rng.integers(-2, 3, shape), rng.integers(-1, 2, shape)
        return RewardMachine(rng.integers(shape[0], size=shape), reward, last, rng.integers(shape[0], size=2))

    available = rng.random((2, 3)) < 0.8
    available[np.arange(2), rng.integers(3, size=2)] = True
    weight = np.where(available, rng.gamma(1.0, size=(2, 3)), 0.0)
    probability = weight / weight.sum(axis=1, keepdims=True)
    reference = ReferencePolicy(rng.integers(2, size=(2, 3)), probability, rng.integers(2, size=2), available)
    letters, share = Vocabulary.of_characters("ab"), rng.dirichlet([1, 1])
    return Task("Random", letters, 3, machine(), machine(), reference, ("a", "b"), share)


def one_token_task(probability: list[float], proxy: list[float] | None = None) -> Task:
    """Return two letters and <eos>, one token, with that reference policy; gold pays 0, 1 and 2 for the three."""
    stay = np.zeros((1, 3), dtype=np.int64)
    reference = ReferencePolicy(stay, np.array([probability]), np.zeros(1, np.int64))

    def machine(reward: list[float]) -> RewardMachine:
        return RewardMachine(stay, np.array([reward]), np.zeros((1, 3)), np.zeros(1, np.int64))

    stand_in = None if proxy is None else machine(proxy)
    return Task("Short", Vocabulary.of_characters("ab"), 1, machine([0.0, 1.0, 2.0]), stand_in, reference)
