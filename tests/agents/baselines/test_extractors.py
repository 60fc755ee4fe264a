"""Token ids reach the networks as they are, as features that say the same wherever a token stands."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

import tokenwalk  # noqa: F401 - registers the ids
from tokenwalk.agents.baselines.configs import AGENTS, Features, default_config
from tokenwalk.agents.baselines.extractors import (
    BUCKETS,
    RECENT,
    FindsOnce,
    TokenFeatures,
    TokenFinder,
    TokenIds,
    task_of,
)
from tokenwalk.agents.baselines.parameters import load, save
from tokenwalk.agents.baselines.sb3 import build, make_vec_env, train
from tokenwalk.envs.rewards.builders import token_weights
from tokenwalk.envs.rewards.machine import TokenArray
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.vocabulary import EOS, Vocabulary

KEYWORD, ARITHMETIC = "tokenwalk/Keyword-v0", "tokenwalk/Arithmetic-v0"


def large_task() -> Task:
    """Return a task with more tokens than a byte can number."""
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


def trigrams_by_hand(ids: list[int], pad: int) -> list[int]:
    """Return the counts of one row's trigrams, column by column, in plain Python."""
    columns = min(pad**3, BUCKETS)
    found = [
        (first * pad**2 + second * pad + third) % columns
        for first, second, third in zip(ids, ids[1:], ids[2:], strict=False)
        if pad not in (first, second, third)
    ]
    return [found.count(column) for column in range(columns)]


def short_prompts() -> Task:
    """Return a task whose prompts are padded, so that some texts have a gap."""
    word = Vocabulary.of_characters("ab")
    return Task("Prompts", word, 3, token_weights([0.0, 1.0, 0.0]), prompts=("", "a", "abb"))


def envs_of(source: str | Task, count: int = 2) -> TokenIds:
    """Return sub-environments of the id or of the task ``source``."""
    if isinstance(source, Task):
        return TokenIds(make_vec_env("tokenwalk/TokenGeneration-v0", count, {"task": source}))
    return TokenIds(make_vec_env(source, count))


def some_ids(task: Task, rng: np.random.Generator, count: int = 200) -> TokenArray:
    """Return observations of every length, the first of them with no token written."""
    completion = np.full((count, task.horizon), task.vocabulary.pad)
    for row in range(count):
        length = row % (task.horizon + 1)
        completion[row, :length] = rng.integers(task.vocabulary.size, size=length)
    prompt = task.prompt_ids[rng.integers(len(task.prompts), size=count)]
    return np.hstack([prompt, completion]).astype(task.vocabulary.dtype)


@pytest.mark.parametrize("trigrams", [False, True])
@pytest.mark.parametrize("source", [KEYWORD, ARITHMETIC, large_task(), short_prompts()])
def test_the_columns_are_those_counted_by_hand(source: str | Task, trigrams: bool) -> None:
    env = envs_of(source)
    task = task_of(env.venv)
    assert task is not None
    pad = task.vocabulary.pad
    ids, bare = some_ids(task, np.random.default_rng(0)), TokenFeatures(env.observation_space, None, trigrams)
    found = bare(torch.as_tensor(ids).float())
    by_hand = [
        columns_by_hand(row, pad) + (trigrams_by_hand(row, pad) if trigrams else []) for row in ids.tolist()
    ]
    assert found.shape == (len(ids), bare.features_dim)
    assert found.tolist() == by_hand


def test_trigrams_do_not_reach_across_a_gap_and_have_an_order() -> None:
    task = short_prompts()
    bare = TokenFeatures(envs_of(task).observation_space, None, trigrams=True)
    gap, reverse = [0, 3, 3, 1, 1, 2], [0, 1, 1, 2, 3, 3]
    counts = bare(torch.tensor([gap, reverse]).float())[:, -27:].tolist()
    assert [counts[0].index(1), sum(counts[0])] == [1 * 9 + 1 * 3 + 2, 1]  # "bb<eos>" alone
    assert [place for place, count in enumerate(counts[1]) if count] == [0 * 9 + 1 * 3 + 1, 1 * 9 + 1 * 3 + 2]
    closed = [token for token in gap if token != 3]
    assert trigrams_by_hand(closed, 3) != counts[0]  # the broken twin that closes the gap first
    assert trigrams_by_hand(gap[::-1], 3) != counts[0]  # and the one that reads backwards


def test_a_text_of_two_tokens_has_no_trigrams() -> None:
    space = envs_of(
        Task("Two", Vocabulary.of_characters("ab"), 2, token_weights([0, 1, 0]))
    ).observation_space
    assert [TokenFeatures(space, None, trigrams).features_dim for trigrams in (False, True)] == [
        RECENT * 4 + 3 + 3
    ] * 2


@pytest.mark.parametrize("source", [ARITHMETIC, large_task(), short_prompts()])
def test_looking_trigrams_up_is_multiplying_by_their_columns(source: str | Task) -> None:
    env = envs_of(source)
    task = task_of(env.venv)
    assert task is not None
    torch.manual_seed(0)
    layer, bare = (TokenFeatures(env.observation_space, width, trigrams=True) for width in (5, None))
    ids = torch.as_tensor(some_ids(task, np.random.default_rng(0))).float()
    assert layer.trigrams is not None
    linear, columns = layer.layer[0], bare(ids)
    plain = torch.tanh(linear(columns[:, : linear.in_features]))
    assert torch.allclose(layer(ids), plain, atol=1e-6)  # at first they say nothing
    torch.nn.init.normal_(layer.trigrams.weight)
    weight = torch.cat([linear.weight, layer.trigrams.weight[:-1].T], 1)
    both = torch.tanh(columns @ weight.T + linear.bias)
    assert torch.allclose(layer(ids), both, atol=1e-5)
    assert not torch.allclose(layer(ids), plain, atol=1e-1)
    layer(ids).sum().backward()
    assert layer.trigrams.weight.grad is not None
    assert layer.trigrams.weight.grad.abs().sum(1).nonzero().ravel().tolist() == (
        columns[:, linear.in_features :].sum(0).nonzero().ravel().tolist()
    )


@pytest.mark.parametrize("trigrams", [False, True])
def test_what_was_found_once_is_taken_like_the_ids(trigrams: bool) -> None:
    env = envs_of(ARITHMETIC)
    task = task_of(env.venv)
    assert task is not None
    features = TokenFeatures(env.observation_space, 5, trigrams)
    ids = torch.as_tensor(some_ids(task, np.random.default_rng(0)))
    found = TokenFinder(env.observation_space, trigrams).find(ids)
    assert found.shape == (len(ids), RECENT + 1 + 7 + (5 if trigrams else 0))
    assert torch.equal(features(found.float()), features(ids.float()))


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


def test_observations_are_declared_as_a_box_and_not_changed() -> None:
    for env_id in (KEYWORD, ARITHMETIC):
        single = [lambda env_id=env_id: gym.make(env_id)] * 2
        for make in (
            lambda env_id=env_id: make_vec_env(env_id, 2),
            lambda single=single: DummyVecEnv(single),
        ):
            bare, wrapped = make(), TokenIds(make())
            size = bare.observation_space.nvec[0]  # type: ignore[attr-defined]
            assert isinstance(wrapped.observation_space, gym.spaces.Box)
            assert (wrapped.observation_space.low.min(), wrapped.observation_space.high.max()) == (
                0,
                size - 1,
            )
            assert wrapped.observation_space.dtype == bare.observation_space.dtype
            seen = []
            for env in (bare, wrapped):
                env.seed(3)
                seen.append([env.reset(), env.step(np.array([1, 2]))[0]])
            assert np.array_equal(*seen)
            assert wrapped.observation_space.contains(seen[1][1][0])


def test_only_token_ids_are_token_ids() -> None:
    assert task_of(make_vec_env(KEYWORD, 2)) is not None
    assert task_of(make_vec_env(KEYWORD, 2, {"observation": "machine"})) is None
    assert task_of(make_vec_env("tokenwalk/CounterWalk-v0", 2)) is None
    assert task_of(make_vec_env("CartPole-v1", 2)) is None


@pytest.mark.parametrize("agent", AGENTS)
def test_each_agent_sees_what_its_config_says(agent: str) -> None:
    inputs, looked_up = {}, {}
    for features, hidden in (
        ("tokens", (8, 4)),
        ("trigrams", (8, 4)),
        ("one-hot", (8, 4)),
        ("tokens", ()),
        ("trigrams", ()),
    ):
        config = replace(default_config(agent, KEYWORD), num_envs=4, features=features, hidden=hidden)
        model = build(agent, make_vec_env(KEYWORD, 4), config, seed=0)
        modules = list(model.policy.modules())
        inputs[features, hidden] = max(one.in_features for one in modules if isinstance(one, torch.nn.Linear))
        looked_up[features, hidden] = [
            one.num_embeddings for one in modules if isinstance(one, torch.nn.EmbeddingBag)
        ]
        assert any(isinstance(one, TokenFeatures) for one in modules) == (features != "one-hot")
        actions, _ = model.predict(model.env.observation_space.sample()[None], deterministic=True)
        assert 0 <= actions[0] < 9
    columns = RECENT * 10 + 17 + 9
    assert inputs == {
        ("tokens", (8, 4)): columns,
        ("trigrams", (8, 4)): columns,
        ("one-hot", (8, 4)): 160,
        ("tokens", ()): columns,
        ("trigrams", ()): columns + 9**3,
    }
    assert [set(sizes) for sizes in looked_up.values()] == [set(), {9**3 + 1}, set(), set(), set()]


class FindsBackwards(FindsOnce):
    """A broken twin: hands over the rows of the rollout in another order than the actions."""

    def get(self, batch_size: int | None = None) -> Any:
        if not self.generator_ready:
            self.observations = self.observations[::-1].copy()
        return super().get(batch_size)


class MaskableFindsBackwards(FindsBackwards, MaskableRolloutBuffer):
    """The same, with masks."""


@pytest.mark.parametrize("features", ["tokens", "trigrams"])
@pytest.mark.parametrize(
    ("agent", "of_sb3", "broken"),
    [
        ("ppo", RolloutBuffer, FindsBackwards),
        ("a2c", RolloutBuffer, FindsBackwards),
        ("maskable-ppo", MaskableRolloutBuffer, MaskableFindsBackwards),
    ],
)
def test_finding_once_a_rollout_learns_what_finding_in_every_batch_learns(
    agent: str, of_sb3: type[RolloutBuffer], broken: type[RolloutBuffer], features: Features
) -> None:
    config = replace(default_config(agent, ARITHMETIC), num_envs=4, features=features)
    learned = []
    for buffer in (None, of_sb3, broken):
        model = build(agent, make_vec_env(ARITHMETIC, 4), config, seed=0)
        assert isinstance(model.rollout_buffer, FindsOnce)
        model.rollout_buffer.__class__ = buffer or type(model.rollout_buffer)
        train(model, steps=200, on_progress=lambda step, metrics: None)
        learned.append(torch.cat([one.ravel() for one in model.policy.state_dict().values()]))
    assert torch.equal(learned[0], learned[1])
    assert not torch.equal(learned[0], learned[2])


@pytest.mark.parametrize("agent", AGENTS)
def test_a_model_that_sees_trigrams_comes_back_as_it_was(agent: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    config = replace(default_config(agent, ARITHMETIC), num_envs=4, features="trigrams")
    model = build(agent, make_vec_env(ARITHMETIC, 4), config, seed=1)
    train(model, steps=600, on_progress=lambda step, metrics: None)
    save(model, config, path)
    loaded, read = load(path, make_vec_env(ARITHMETIC, 1))
    weights = [one.policy.state_dict() for one in (model, loaded)]
    bags = [name for name in weights[0] if name.endswith("trigrams.weight")]
    assert read == replace(config, num_envs=1)
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert bags
    assert weights[0][bags[0]].abs().sum() > 0


def test_a_vocabulary_beyond_a_byte_can_be_learned_from() -> None:
    config = replace(default_config("ppo", KEYWORD), num_envs=4, epochs=1)
    env = make_vec_env("tokenwalk/TokenGeneration-v0", 4, {"task": large_task()})
    model = build("ppo", env, config, seed=0)
    before = model.policy.action_net.weight.detach().clone()
    model.learn(64)
    assert model.env.observation_space.dtype == np.uint16
    assert not torch.equal(before, model.policy.action_net.weight)
