"""Episodes of an actor: for estimates with an interval, and as trajectories that can be scored again."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from tokenwalk.agents.exact_tokens.token_policy import Policy
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.source import TokenBatch
from tokenwalk.envs.tasks import Task


class Actor(Protocol):
    """Anything that acts: a table, a network, a random choice."""

    def act(self, observation: Any, time: int, info: Mapping[str, Any]) -> tuple[int, float]:
        """Return an action and its natural log-probability; ``time`` counts the episode's steps from 0."""


@dataclass(frozen=True)
class RandomActor:
    """Uniform over the available actions (``info["action_mask"]``, else all)."""

    n_actions: int
    rng: np.random.Generator
    start: int = 0

    def act(self, observation: Any, time: int, info: Mapping[str, Any]) -> tuple[int, float]:
        """Return a random available action."""
        mask = info.get("action_mask")
        available = np.arange(self.n_actions) if mask is None else np.flatnonzero(mask)
        return self.start + int(self.rng.choice(available)), -float(np.log(len(available)))


@dataclass(frozen=True)
class TableActor:
    """Plays a policy table [T or 1, S, A]; ``state_of`` maps an observation to its row."""

    policy: FloatArray
    state_of: Callable[[Any], int]
    rng: np.random.Generator
    start: int = 0

    def act(self, observation: Any, time: int, info: Mapping[str, Any]) -> tuple[int, float]:
        """Return an action sampled from the table."""
        row = self.policy[min(time, len(self.policy) - 1), self.state_of(observation)]
        action = int(self.rng.choice(len(row), p=row / row.sum()))
        return self.start + action, float(np.log(row[action]))


@dataclass(frozen=True)
class TokenActor:
    """Plays a policy over tokens on the observation "tokens"."""

    policy: Policy
    task: Task
    rng: np.random.Generator

    def act(self, observation: Any, time: int, info: Mapping[str, Any]) -> tuple[int, float]:
        """Return a token sampled from the policy."""
        prompt, completion = np.split(observation[None], [self.task.prompt_length], axis=1)
        batch = TokenBatch(prompt, completion, np.array([time]), np.zeros(1, dtype=np.bool_))
        log_probs = np.asarray(self.policy.log_probs(batch)[0], dtype=np.float64)
        probability = np.exp(log_probs)
        token = int(self.rng.choice(len(probability), p=probability / probability.sum()))
        return token, float(log_probs[token])


@dataclass(frozen=True)
class Episode:
    """One episode as it is stored: T + 1 observations, T of everything else."""

    episode: int
    observations: list[Any]
    actions: list[int]
    log_probs: list[float]  # natural logarithm, of the policy that played
    rewards: list[float]  # training reward
    gold: list[float]
    terminated: bool
    truncated: bool


def play(env: gym.Env[Any, Any], actor: Actor, episodes: int, seed: int) -> Iterator[Episode]:
    """Play ``episodes`` episodes one after another; ``seed`` is the environment's.

    The gold reward is ``info["gold"]`` where the environment reports one, else the training reward.
    """
    for number in range(episodes):
        observation, info = env.reset(seed=seed if number == 0 else None)
        episode = Episode(number, [_plain(observation)], [], [], [], [], False, False)
        terminated = truncated = False
        while not (terminated or truncated):
            action, log_prob = actor.act(observation, len(episode.actions), info)
            observation, reward, terminated, truncated, info = env.step(action)
            episode.observations.append(_plain(observation))
            episode.actions.append(action)
            episode.log_probs.append(log_prob)
            episode.rewards.append(float(reward))
            episode.gold.append(float(info.get("gold", reward)))
        yield Episode(**{**vars(episode), "terminated": bool(terminated), "truncated": bool(truncated)})


def write_trajectories(path: Path, episodes: Iterable[Episode]) -> Iterator[Episode]:
    """Write each episode as one JSON line and pass it on."""
    with path.open("w", encoding="utf-8") as file:
        for episode in episodes:
            file.write(json.dumps(asdict(episode)) + "\n")
            yield episode


def _plain(observation: Any) -> Any:
    """Return an observation as JSON has it."""
    if isinstance(observation, np.ndarray | np.generic):
        return observation.tolist()
    if isinstance(observation, tuple | list):
        return [_plain(part) for part in observation]
    return observation
