"""Token ids reach the networks as they are, as features that say the same wherever a token stands."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

import tokenwalk  # noqa: F401 - registers the ids
from tokenwalk.agents.baselines.configs import AGENTS, default_config
from tokenwalk.agents.baselines.extractors import RECENT, TokenFeatures, TokenIds, task_of
from tokenwalk.agents.baselines.sb3 import build, make_vec_env
from tokenwalk.envs.rewards.builders import token_weights
from tokenwalk.envs.rewards.machine import TokenArray
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.vocabulary import EOS, Vocabulary

KEYWORD, ARITHMETIC = "tokenwalk/Keyword-v0", "tokenwalk/Arithmetic-v0"


def large_task() -> Task:
    """Return a task with more tokens than a byte can tell apart."""
    vocabulary = Vocabulary((*(f"w{number}" for number in range(299)), EOS))
    return Task("Large", vocabulary, 6, token_weights(np.linspace(0, 1, 300)))


def columns_by_hand(ids: list[int], pad: int) -> list[int]:
    """Return the counts of one row, feature by feature, in plain Python."""
    tokens = [token for token in ids if token != pad]
    end = max((place + 1 for place, token in enumerate(ids) if token != pad), default=0)
    before = [pad] * RECENT + ids[:end]  # with what pads a short prompt
    recent = [before[len(before) - RECENT + distance] for distance in range(RECENT)]
    counts: list[int] = []
    for token in recent:
        counts += [int(token == other) for other in range(pad + 1)]
    counts += [int(end == place) for place in range(len(ids) + 1)]
    return counts + [tokens.count(other) for other in range(pad)]


def some_ids(task: Task, rng: np.random.Generator, count: int = 200) -> TokenArray:
    """Return observations of every length, the first of them with no token written."""
    completion = np.full((count, task.horizon), task.vocabulary.pad)
    for row in range(count):
        length = row % (task.horizon + 1)
        completion[row, :length] = rng.integers(task.vocabulary.size, size=length)
    prompt = task.prompt_ids[rng.integers(len(task.prompts), size=count)]
    return np.hstack([prompt, completion]).astype(task.vocabulary.dtype)


@pytest.mark.parametrize("source", [KEYWORD, ARITHMETIC, large_task(), "short prompts"])
def test_the_columns_are_those_counted_by_hand(source: Any) -> None:
    if source == "short prompts":
        word = Vocabulary.of_characters("ab")
        source = Task("Prompts", word, 3, token_weights([0.0, 1.0, 0.0]), prompts=("", "a", "abb"))
    args = {"task": source} if isinstance(source, Task) else {}
    env = TokenIds(make_vec_env("tokenwalk/TokenGeneration-v0" if args else source, 2, args))
    task = task_of(env.venv)
    assert task is not None
    ids, bare = some_ids(task, np.random.default_rng(0)), TokenFeatures(env.observation_space, None)
    found = bare(torch.as_tensor(ids).float())
    assert found.shape == (len(ids), bare.features_dim)
    assert found.tolist() == [columns_by_hand(row.tolist(), task.vocabulary.pad) for row in ids]


def test_the_same_ending_looks_the_same_wherever_it_stands_and_one_hot_columns_do_not_know_it() -> None:
    env = make_vec_env(KEYWORD, 1)
    features = TokenFeatures(TokenIds(env).observation_space, None)
    ending = torch.arange(RECENT) % 6.0
    rows = torch.full((2, 16), 9.0)
    rows[0, :RECENT], rows[1, 2 : RECENT + 2] = ending, ending
    rows[1, :2] = torch.tensor([7.0, 7])
    early, late = features(rows)
    apart = torch.nonzero(early != late).ravel().tolist()
    position, bag = RECENT * 10, RECENT * 10 + 17
    assert apart == [position + RECENT, position + RECENT + 2, bag + 7]
    one_hot = torch.nn.functional.one_hot(rows.long(), 10)
    twin = one_hot[0] != one_hot[1]
    assert twin.sum() == 2 * (RECENT + 2)  # the broken twin: every token looks different


def test_the_lanes_are_told_of_as_numbers_and_not_changed() -> None:
    for env_id in (KEYWORD, ARITHMETIC):
        single = [lambda env_id=env_id: gym.make(env_id)] * 2
        for make in (
            lambda env_id=env_id: make_vec_env(env_id, 2),
            lambda single=single: DummyVecEnv(single),
        ):
            bare, told = make(), TokenIds(make())
            size = bare.observation_space.nvec[0]
            assert isinstance(told.observation_space, gym.spaces.Box)
            assert (told.observation_space.low.min(), told.observation_space.high.max()) == (0, size - 1)
            assert told.observation_space.dtype == bare.observation_space.dtype
            seen = []
            for env in (bare, told):
                env.seed(3)
                seen.append([env.reset(), env.step(np.array([1, 2]))[0]])
            assert np.array_equal(*seen)
            assert told.observation_space.contains(seen[1][1][0])


def test_only_token_ids_are_token_ids() -> None:
    assert task_of(make_vec_env(KEYWORD, 2)) is not None
    assert task_of(make_vec_env(KEYWORD, 2, {"observation": "machine"})) is None
    assert task_of(make_vec_env("tokenwalk/CounterWalk-v0", 2)) is None
    assert task_of(make_vec_env("CartPole-v1", 2)) is None


@pytest.mark.parametrize("agent", AGENTS)
def test_each_agent_sees_what_its_config_says(agent: str) -> None:
    inputs = {}
    for features, hidden in (("tokens", (8, 4)), ("one-hot", (8, 4)), ("tokens", ())):
        config = replace(default_config(agent, KEYWORD), num_envs=4, features=features, hidden=hidden)
        model = build(agent, make_vec_env(KEYWORD, 4), config, seed=0)
        layers = [one for one in model.policy.modules() if isinstance(one, torch.nn.Linear)]
        inputs[features, hidden] = max(layer.in_features for layer in layers)
        extractors = [one for one in model.policy.modules() if isinstance(one, TokenFeatures)]
        assert bool(extractors) == (features == "tokens")
        actions, _ = model.predict(model.env.observation_space.sample()[None], deterministic=True)
        assert 0 <= actions[0] < 9
    columns = RECENT * 10 + 17 + 9
    assert inputs == {("tokens", (8, 4)): columns, ("one-hot", (8, 4)): 160, ("tokens", ()): columns}


def test_a_vocabulary_beyond_a_byte_can_be_learned_from() -> None:
    config = replace(default_config("ppo", KEYWORD), num_envs=4, epochs=1)
    env = make_vec_env("tokenwalk/TokenGeneration-v0", 4, {"task": large_task()})
    model = build("ppo", env, config, seed=0)
    before = model.policy.action_net.weight.detach().clone()
    model.learn(64)
    assert model.env.observation_space.dtype == np.uint16
    assert not torch.equal(before, model.policy.action_net.weight)
