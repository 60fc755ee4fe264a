"""Processes to try the exact answers on, and slow ways to the same figures: enumeration and simulation."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

import gymnasium as gym
import numpy as np
import pytest

from tokenwalk.envs.registration import resolve_id
from tokenwalk.envs.tabular import TabularMDP, tabular_mdp


def random_process(
    seed: int,
    n_states: int = 4,
    n_actions: int = 3,
    n_outcomes: int = 2,
    horizon: int | None = None,
    whole_rewards: bool = False,
) -> TabularMDP:
    """Return a random process in which any step may end the episode; whole rewards (-2 to 2) make ties."""
    rng = np.random.default_rng(seed)
    shape = (n_states, n_actions, n_outcomes)
    available = rng.random((n_states, n_actions)) < 0.8
    available[np.arange(n_states), rng.integers(n_actions, size=n_states)] = True
    reference = np.where(available, rng.gamma(1.0, size=available.shape) + 0.05, 0.0)
    with np.errstate(divide="ignore"):
        log_reference = np.log(reference / reference.sum(axis=1, keepdims=True))
    terminated = rng.random(shape) < 0.2
    terminated[:, :, 0] |= rng.random((n_states, n_actions)) < 0.2

    def reward(*size: int) -> np.ndarray:
        return rng.integers(-2, 3, size).astype(float) if whole_rewards else rng.normal(size=size)

    return TabularMDP(
        next_state=rng.integers(n_states, size=shape),
        probability=rng.dirichlet(np.ones(n_outcomes), (n_states, n_actions)),
        terminated=terminated,
        rewards={"gold": reward(*shape), "proxy": reward(*shape)},
        last_rewards={} if horizon is None else {"gold": reward(n_states, n_actions)},
        available=available,
        log_reference=log_reference,
        start=rng.dirichlet(np.ones(n_states)),
        horizon=horizon,
        horizon_terminates=horizon is not None,
    )


def token_tree(seed: int, n_tokens: int = 2, horizon: int = 3, n_prompts: int = 2) -> TabularMDP:
    """Return the prefix tree of ``n_tokens`` tokens and <eos>, one root a prompt; rewards of both kinds."""
    rng = np.random.default_rng(seed)
    depth_of = [0] * n_prompts
    children: list[list[int]] = []
    for state in range(10**6):
        if state == len(depth_of):
            break
        grows = depth_of[state] < horizon - 1
        children.append([len(depth_of) + token if grows else state for token in range(n_tokens)] + [state])
        depth_of += [depth_of[state] + 1] * (n_tokens if grows else 0)
    next_state = np.array(children)[:, :, None]
    n_states, n_actions = next_state.shape[:2]
    ends = np.zeros(next_state.shape, dtype=bool)
    ends[:, -1] = True
    last = rng.normal(size=(n_states, n_actions))
    last[:, -1] = 0.0
    reference = rng.dirichlet(np.ones(n_actions), n_states)
    return TabularMDP(
        next_state=next_state,
        probability=np.ones(next_state.shape),
        terminated=ends,
        rewards={"gold": rng.normal(size=next_state.shape), "proxy": rng.normal(size=next_state.shape)},
        last_rewards={"gold": last},
        available=np.ones((n_states, n_actions), dtype=bool),
        log_reference=np.log(reference),
        start=np.append(rng.dirichlet(np.ones(n_prompts)), np.zeros(n_states - n_prompts)),
        horizon=horizon,
        horizon_terminates=True,
    )


@dataclass(frozen=True)
class Completion:
    """One whole episode of a process without noise."""

    prompt: int  # the state it starts in
    steps: tuple[tuple[int, int, int], ...]  # (t, state, action)
    return_: float

    def log_prob(self, policy: np.ndarray) -> float:
        """Return its log-probability, given the prompt, under ``policy`` [T or 1, S, A]."""
        with np.errstate(divide="ignore"):
            return float(sum(np.log(policy[t % len(policy), s, a]) for t, s, a in self.steps))


def enumerate_completions(mdp: TabularMDP, weights: Mapping[str, float]) -> list[Completion]:
    """Return every episode of a process with K = 1 and a horizon."""
    assert mdp.next_state.shape[2] == 1
    assert mdp.horizon is not None
    horizon = mdp.horizon

    def grow(
        prompt: int, state: int, steps: tuple[tuple[int, int, int], ...], so_far: float
    ) -> Iterator[Completion]:
        t = len(steps)
        for action in np.flatnonzero(mdp.available[state]).tolist():
            total = so_far + sum(
                w * float(mdp.rewards[name][state, action, 0]) for name, w in weights.items()
            )
            longer = (*steps, (t, state, action))
            if t == horizon - 1:
                total += sum(
                    w * float(mdp.last_rewards[name][state, action])
                    for name, w in weights.items()
                    if name in mdp.last_rewards
                )
            if t == horizon - 1 or mdp.terminated[state, action, 0]:
                yield Completion(prompt, longer, total)
            else:
                yield from grow(prompt, int(mdp.next_state[state, action, 0]), longer, total)

    return [one for prompt in np.flatnonzero(mdp.start).tolist() for one in grow(prompt, prompt, (), 0.0)]


def expand_over_time(mdp: TabularMDP) -> TabularMDP:
    """Return the process with time in the state (t * S + s), which ends by termination and has no horizon."""
    assert mdp.horizon is not None
    horizon, n_states = mdp.horizon, mdp.n_states
    later = [np.minimum(t + 1, horizon - 1) * n_states + mdp.next_state for t in range(horizon)]
    ends = [mdp.terminated | (t == horizon - 1) for t in range(horizon)]

    def channel(name: str) -> np.ndarray:
        tables = [mdp.rewards[name]] * horizon
        tables[-1] = tables[-1] + mdp.last_rewards.get(name, np.zeros(mdp.available.shape))[:, :, None]
        return np.concatenate(tables)

    return TabularMDP(
        next_state=np.concatenate(later),
        probability=np.concatenate([mdp.probability] * horizon),
        terminated=np.concatenate(ends),
        rewards={name: channel(name) for name in mdp.rewards},
        last_rewards={},
        available=np.concatenate([mdp.available] * horizon),
        log_reference=np.concatenate([mdp.log_reference] * horizon),
        start=np.append(mdp.start, np.zeros((horizon - 1) * n_states)),
        horizon=None,
        horizon_terminates=False,
    )


@dataclass(frozen=True)
class Sample:
    """What n simulated episodes earned, each [n]; all discounted."""

    returns: Mapping[str, np.ndarray]
    log_ratio: np.ndarray  # log pi / pi_ref, summed
    surprise: np.ndarray  # -log pi, summed
    length: np.ndarray


def simulate(mdp: TabularMDP, policy: np.ndarray, n_episodes: int, discount: float, seed: int) -> Sample:
    """Return ``n_episodes`` episodes played side by side over the tables, until the last has ended."""
    rng = np.random.default_rng(seed)
    episode = np.arange(n_episodes)
    state = _sample(rng, np.broadcast_to(mdp.start, (n_episodes, mdp.n_states)))
    returns = {name: np.zeros(n_episodes) for name in mdp.rewards}
    log_ratio, surprise, length = (np.zeros(n_episodes) for _ in range(3))
    t = 0
    while episode.size and (mdp.horizon is None or t < mdp.horizon):
        row = policy[t % len(policy)][state]
        action = _sample(rng, row)
        outcome = _sample(rng, mdp.probability[state, action])
        factor = discount**t
        for name, table in mdp.rewards.items():
            returns[name][episode] += factor * table[state, action, outcome]
            if t + 1 == mdp.horizon and name in mdp.last_rewards:
                returns[name][episode] += factor * mdp.last_rewards[name][state, action]
        log_prob = np.log(row[np.arange(episode.size), action])
        log_ratio[episode] += factor * (log_prob - mdp.log_reference[state, action])
        surprise[episode] -= factor * log_prob
        length[episode] += factor
        goes_on = ~mdp.terminated[state, action, outcome]
        episode, state = episode[goes_on], mdp.next_state[state, action, outcome][goes_on]
        t += 1
    return Sample(returns, log_ratio, surprise, length)


def _sample(rng: np.random.Generator, probability: np.ndarray) -> np.ndarray:
    below = rng.random((len(probability), 1)) >= np.cumsum(probability, axis=1)
    return np.minimum(below.sum(axis=1), probability.shape[1] - 1)


def random_policy(mdp: TabularMDP, seed: int, n_slices: int = 1) -> np.ndarray:
    """Return a random policy over the available actions, [n_slices, S, A]."""
    weight = np.random.default_rng(seed).gamma(1.0, size=(n_slices, *mdp.available.shape)) + 1e-3
    weight = np.where(mdp.available, weight, 0.0)
    return weight / weight.sum(axis=-1, keepdims=True)


def make(env_id: str, time_limit: bool = True, **kwargs: object) -> TabularMDP:
    """Return the tables of a registered environment, or those without its time limit."""
    env = gym.make(resolve_id(env_id), **kwargs)
    mdp = tabular_mdp(env)
    env.close()
    return mdp if time_limit else mdp.without_time_limit()


@pytest.fixture(scope="session")
def workshop() -> ModuleType:
    """Return this module: test files cannot import it by name."""
    return sys.modules[__name__]
