"""The token environments: what is observed, rewarded and logged, and that every view of a task says the same."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product as tuples
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3
from vector_checker import check_vector_env, roll

from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.checks import InvalidActionError
from tokenwalk.envs.reference import ReferencePolicy, fit_ngram, uniform
from tokenwalk.envs.rewards.builders import exact_answers, from_step_function, keyword, token_weights
from tokenwalk.envs.rewards.machine import RewardMachine
from tokenwalk.envs.rewards.source import MachineSource, SourceContractError, TokenBatch, score_tokens
from tokenwalk.envs.tasks import CATALOG, Task, find_task
from tokenwalk.envs.token_generation import TokenGenerationEnv
from tokenwalk.envs.token_vector import TokenGenerationVectorEnv
from tokenwalk.envs.vocabulary import Vocabulary

ABC = Vocabulary.of_characters("abc")
A, B, C, EOS, PAD, H = 0, 1, 2, 3, 4, 5
every_task = pytest.mark.parametrize("name", CATALOG)


@dataclass(frozen=True)
class LetterShare:
    """The share of ``a`` among the tokens written: a reward that is no machine."""

    name: str = "share"
    low: float = 0.0
    high: float = 1.0
    timing: Literal["token", "end"] = "token"

    def score(self, batch: TokenBatch) -> FloatArray:
        written = np.arange(batch.completion.shape[1]) < np.asarray(batch.length)[:, None]
        share: FloatArray = ((batch.completion == A) & written).sum(axis=1) / np.asarray(
            batch.length, dtype=np.float64
        )
        return share


@dataclass(frozen=True)
class AsPlainClass:
    """A machine that is not known to be one: asked like any other source."""

    machine: MachineSource

    name = property(lambda self: self.machine.name)
    low = property(lambda self: self.machine.low)
    high = property(lambda self: self.machine.high)
    timing = property(lambda self: self.machine.timing)

    def score(self, batch: TokenBatch) -> FloatArray:
        return self.machine.score(batch)


@dataclass(frozen=True)
class BreaksAt:
    """Returns NaN once the completion is as long as ``length``."""

    length: int
    name: str = "broken"
    low: float = -np.inf
    high: float = np.inf
    timing: Literal["token", "end"] = "token"

    def score(self, batch: TokenBatch) -> FloatArray:
        return np.where(np.asarray(batch.length) >= self.length, np.nan, 0.0)


def no_doubles() -> ReferencePolicy:
    """Return the policy over ``abc`` in which no letter may follow itself: a mask that changes with the text."""
    allowed = np.array([[last != token for token in range(4)] for last in (A, B, C, None)])
    following = np.array([[A, B, C, 0]] * 4)
    return ReferencePolicy(following, allowed / allowed.sum(axis=1, keepdims=True), np.array([3]), allowed)


def small_task(**changes: Any) -> Task:
    """Return a task with prompts, a proxy, a horizon that pays, and a bigram as reference."""
    at_horizon = from_step_function(lambda _, __: (0, 0.0), [0], 4, lambda _, token: float(token == C))
    parts: dict[str, Any] = {
        "name": "Small",
        "vocabulary": ABC,
        "horizon": H,
        "gold": keyword([A, B], 4) + 0.3 * at_horizon,
        "proxy": exact_answers([[A], [B, B], []], 4) + 0.1 * token_weights([1, 0, 2, 0]),
        "reference": fit_ngram([[A, B], [B, C, A]], 4),
        "prompts": ("", "ab", "c"),
        "prompt_weights": [0.5, 0.25, 0.25],
    }
    return Task(**(parts | changes))


def make(**arguments: Any) -> TokenGenerationEnv:
    return TokenGenerationEnv(**({"task": small_task()} | arguments))


def episode(env: TokenGenerationEnv, actions: list[int], seed: int = 0) -> list[tuple[Any, ...]]:
    """Return the steps of one episode, ``actions`` repeated until it ends."""
    env.reset(seed=seed)
    steps: list[tuple[Any, ...]] = []
    while not steps or not steps[-1][2]:
        steps.append(env.step(actions[len(steps) % len(actions)]))
    return steps


def random_episodes(
    env: TokenGenerationEnv, n: int, seed: int = 0
) -> list[tuple[list[int], list[tuple[Any, ...]]]]:
    rng = np.random.default_rng(seed)
    played = []
    for number in range(n):
        actions = rng.integers(env.action_space.n, size=env.task.horizon).tolist()  # type: ignore[attr-defined]
        played.append((actions, episode(env, actions, seed=number)))
    return played


# What is seen


def test_the_observation_is_the_prompt_then_the_completion_padded_with_v() -> None:
    env = make(task=small_task(prompt_weights=[0.0, 1.0, 0.0]))
    observation, info = env.reset(seed=0)
    assert observation.tolist() == [A, B, PAD, PAD, PAD, PAD, PAD]
    assert info.keys() == {"action_mask"}
    assert env.step(C)[0].tolist() == [A, B, C, PAD, PAD, PAD, PAD]
    assert env.step(EOS)[0].tolist() == [A, B, C, EOS, PAD, PAD, PAD]
    assert env.observation_space == gym.spaces.MultiDiscrete([5] * 7, dtype=np.uint8)
    assert env.action_space == gym.spaces.Discrete(4)


def test_a_short_prompt_stands_beside_its_completion() -> None:
    env = make(task=small_task(prompt_weights=[0.0, 0.0, 1.0]))
    env.reset(seed=0)
    assert env.step(B)[0].tolist() == [PAD, C, B, PAD, PAD, PAD, PAD]


@pytest.mark.parametrize(
    ("actions", "steps"), [([A], H), ([EOS], 1), ([A, A, EOS], 3), ([A, A, A, A, EOS], H)]
)
def test_eos_or_the_last_token_ends_an_episode_and_nothing_is_truncated(
    actions: list[int], steps: int
) -> None:
    played = episode(make(), actions)
    assert [step[2] for step in played] == [False] * (steps - 1) + [True]
    assert not any(step[3] for step in played)


@every_task
@pytest.mark.parametrize("observation", ["tokens", "machine"])
def test_sub_environments_are_the_scalar_environment_in_every_task_and_observation(
    name: str, observation: str
) -> None:
    arguments: dict[str, Any] = {"task": name, "observation": observation}
    native = TokenGenerationVectorEnv(3, **arguments)
    check_vector_env(native, lambda: TokenGenerationEnv(**arguments), steps=40)
    assert native.single_observation_space == TokenGenerationEnv(**arguments).observation_space


REWARDS: dict[str, Callable[[Task], Any]] = {
    "gold": lambda _: "gold",
    "proxy": lambda _: "proxy",
    "both, weighted": lambda _: [("gold", 0.3), ("proxy", -1.7)],
    "a machine beside gold": lambda task: ["gold", (task.machine_source("cc", keyword([C, C], 4)), 0.1)],
    "no machine": lambda _: LetterShare(),
    "no machine, at the end": lambda _: [(LetterShare(timing="end"), 2.0), "gold"],
}
every_reward = pytest.mark.parametrize("reward_of", REWARDS.values(), ids=REWARDS)


@every_reward
def test_sub_environments_are_the_scalar_environment_for_every_reward(
    reward_of: Callable[[Task], Any],
) -> None:
    task = small_task()
    arguments = {"task": task, "reward": reward_of(task), "metrics": (LetterShare(name="metric"),)}
    native = TokenGenerationVectorEnv(4, **arguments)
    check_vector_env(native, lambda: TokenGenerationEnv(**arguments), steps=60)
    assert native.task is task


@pytest.mark.parametrize("limit", [1, H - 1, H, H + 1])
def test_a_limit_truncates_the_sub_environments_as_gymnasiums_time_limit_does(limit: int) -> None:
    native = TokenGenerationVectorEnv(4, max_episode_steps=limit, task=small_task())
    check_vector_env(native, lambda: gym.wrappers.TimeLimit(make(), limit), steps=60)
    assert native.max_episode_steps == limit


# What is rewarded and logged


@every_reward
def test_every_entry_of_info_is_what_the_whole_batch_scorer_says(reward_of: Callable[[Task], Any]) -> None:
    task = small_task()
    env = make(task=task, reward=reward_of(task), metrics=[LetterShare(name="metric")])
    composition = env.model.composition
    weights = {source.name: weight for source, weight in composition.train}
    for actions, steps in random_episodes(env, 60):
        prompt = steps[0][0][None, : task.prompt_length]
        tokens = np.array([actions[: len(steps)] + [PAD] * (H - len(steps))])
        scores = score_tokens(composition.sources, prompt, tokens, np.array([len(steps)]), ABC)
        for time, (_, reward, _, _, info) in enumerate(steps):
            said = {name: score[0, time] for name, score in scores.items()}
            total = 0.0
            for name, weight in weights.items():
                assert info[f"reward/{name}/weighted"] == weight * said[name]
                total += weight * said[name]
            assert reward == total  # exactly: the float64 sum of the weighted terms in their order
            assert type(reward) is float
            assert {name: info[f"reward/{name}"] for name in said} == said
            assert (info["gold"], info["proxy"]) == (said["gold"], said["proxy"])


def test_the_has_horizon_reward_the_token_that_it_ends_with() -> None:
    assert [step[1] for step in episode(make(), [C])] == [0, 0, 0, 0, 0.3]
    assert [step[1] for step in episode(make(), [C, EOS])] == [0, 0]


def test_gold_and_proxy_are_logged_whatever_the_training_reward_is() -> None:
    keys = {"gold", "proxy", "reward/gold", "reward/proxy", "action_mask"}
    assert episode(make(), [A])[0][4].keys() == keys | {"reward/gold/weighted"}
    assert episode(make(reward="proxy"), [A])[0][4].keys() == keys | {"reward/proxy/weighted"}
    assert "proxy" not in episode(TokenGenerationEnv("Keyword"), [A])[0][4]


def test_the_scalar_environment_tells_the_text_at_the_end() -> None:
    assert [step[4].get("text") for step in episode(make(), [A, C, EOS])] == [None, None, "ac"]
    assert episode(make(), [A, B])[-1][4]["text"] == "ababa"
    flattery = episode(TokenGenerationEnv("Flattery"), [0, 1, 5])
    assert flattery[-1][4]["text"] == "because evidence"


def test_the_vector_environment_never_decodes() -> None:
    env = TokenGenerationVectorEnv(3, task=small_task())
    for step in roll(env, 0, np.full((7, 3), A)).steps:
        assert not {key for key in (*step.info, *step.info.get("final_info", {})) if "text" in key}


def test_the_sub_environments_log_the_step_just_taken_with_the_masks_of_gymnasium() -> None:
    native = TokenGenerationVectorEnv(3, task=small_task(), reward="proxy")
    scalars = [make(reward="proxy") for _ in range(3)]
    native.reset(seed=5)
    for env_index, env in enumerate(scalars):
        env.reset(seed=5 + env_index)
    for row in np.random.default_rng(0).integers(4, size=(80, 3)):
        _, _, terminated, _, info = native.step(row)
        for env_index, env in enumerate(scalars):
            said = env.step(row[env_index])[4]
            place = info["final_info"] if terminated[env_index] else info
            for key in said.keys() - {"text", "action_mask"}:
                assert place[key][env_index] == info[key][env_index] == said[key]
                assert (place[f"_{key}"][env_index], info[f"_{key}"][env_index]) == (
                    True,
                    not terminated[env_index],
                )
            if terminated[env_index]:
                env.reset()


def test_each_returned_mask_and_observation_is_its_own() -> None:
    env = make()
    observation, info = env.reset(seed=0)
    observation[:], info["action_mask"][:] = 0, 0
    later, _, _, _, later_info = env.step(A)
    assert later[env.task.prompt_length + 1] == PAD
    assert later_info["action_mask"].tolist() == [1, 1, 1, 1]
    assert not np.shares_memory(later, env.step(A)[0])


@every_task
def test_a_reward_lies_in_the_range_that_its_source_states(name: str) -> None:
    env = TokenGenerationEnv(name)
    seen: dict[str, list[float]] = {source.name: [] for source in env.model.composition.sources}
    for _, steps in random_episodes(env, 100):
        for step in steps:
            for name, values in seen.items():
                values.append(step[4][f"reward/{name}"])
    for source in env.model.composition.sources:
        assert source.low <= min(seen[source.name]) <= max(seen[source.name]) <= source.high


# Sources that are no machines


@pytest.mark.parametrize("name", ["gold", "proxy"])
def test_a_machine_and_a_plain_class_of_it_make_the_same_environment(name: str) -> None:
    task = small_task()
    source = task.sources[name]
    assert isinstance(source, MachineSource)
    plain = replace(task, **{name: AsPlainClass(source)})
    for reward in ("gold", "proxy"):
        pairs = zip(
            random_episodes(make(task=task, reward=reward), 40),
            random_episodes(make(task=plain, reward=reward), 40),
            strict=True,
        )
        for (_, steps), (_, plain_steps) in pairs:
            assert [(step[1], step[2]) for step in steps] == [(step[1], step[2]) for step in plain_steps]
            assert [step[4]["proxy"] for step in steps] == [step[4]["proxy"] for step in plain_steps]


@pytest.mark.parametrize("role", ["reward", "metrics"])
def test_a_source_that_breaks_stops_the_run_with_its_name_and_the_text(role: str) -> None:
    given: Any = BreaksAt(3) if role == "reward" else [BreaksAt(3)]
    env = TokenGenerationEnv(small_task(prompt_weights=[0, 1.0, 0]), **{role: given})
    env.reset(seed=0)
    env.step(C)
    env.step(B)
    with pytest.raises(
        SourceContractError, match="source 'broken' returned nan for prompt 'ab', completion 'cba'"
    ):
        env.step(A)
    envs = TokenGenerationVectorEnv(2, task=small_task(prompt_weights=[0, 1.0, 0]), **{role: given})
    envs.reset(seed=0)
    envs.step([C, EOS])
    envs.step([B, A])
    with pytest.raises(SourceContractError, match="completion 'cbc'"):
        envs.step([C, A])


def test_without_machines_there_are_no_tables_and_no_machine_to_observe() -> None:
    with pytest.raises(ValueError, match="'share' is LetterShare: use observation='tokens'"):
        make(reward=LetterShare(), observation="machine")
    with pytest.raises(ValueError, match="'share' is LetterShare, not a machine, so Small has no tables"):
        make(reward=LetterShare()).tabular_mdp()
    # A metric that is no machine leaves the machine of the training reward observable.
    assert make(metrics=[LetterShare()], observation="machine").observation_space.n == 2 * (H + 1)  # type: ignore[attr-defined]


def test_environments_with_sources_survive_pickling() -> None:
    env = make(reward=[LetterShare(), ("gold", 0.5)])
    twin = pickle.loads(pickle.dumps(env))
    assert [step[1] for step in episode(env, [A, B])] == [step[1] for step in episode(twin, [A, B])]


# Tables and the machine that is observed


def walk_tables(
    env: TokenGenerationEnv, actions: list[int], prompt: int
) -> list[tuple[int, dict[str, float]]]:
    """Return the states and the channels along ``actions`` in the tables, from the ``prompt``-th prompt's state."""
    mdp = env.tabular_mdp()
    alone = replace(env.task, prompt_weights=np.eye(len(env.task.prompts))[prompt])
    state = int(TokenGenerationEnv(alone).tabular_mdp().start.argmax())
    walked = []
    for time, action in enumerate(actions):
        rewards = {name: table[state, action, 0] for name, table in mdp.rewards.items()}
        if time == env.task.horizon - 1:
            rewards = {
                name: value + mdp.last_rewards.get(name, np.zeros(mdp.available.shape))[state, action]
                for name, value in rewards.items()
            }
        walked.append((state, rewards))
        assert mdp.terminated[state, action, 0] == (action == env.task.vocabulary.eos)
        state = int(mdp.next_state[state, action, 0])
    return walked


@every_task
def test_the_tables_pay_what_the_environment_pays(name: str) -> None:
    env = TokenGenerationEnv(name)
    prompts = [row.tolist() for row in env.task.prompt_ids]
    for actions, steps in random_episodes(env, 12):
        prompt = prompts.index(steps[0][0][: env.task.prompt_length].tolist())
        walked = walk_tables(env, actions[: len(steps)], prompt)
        for (_, rewards), step in zip(walked, steps, strict=True):
            assert rewards == {name: step[4][f"reward/{name}"] for name in rewards}


def test_the_tables_have_named_channels_the_reference_and_the_horizon_as_a_field() -> None:
    task = small_task()
    env = make(task=task, reward=["gold", (task.machine_source("cc", keyword([C, C], 4)), 2.0)])
    mdp = env.tabular_mdp()
    assert set(mdp.rewards) == {"gold", "cc", "proxy"}
    assert set(mdp.last_rewards) == {"gold"}
    assert (mdp.horizon, mdp.horizon_terminates, mdp.next_state.shape[2]) == (H, True, 1)
    assert sorted(mdp.start[mdp.start > 0].tolist()) == [0.25, 0.25, 0.5]
    assert np.array_equal(
        np.unique(mdp.log_reference, axis=0), np.unique(task.reference.log_probability, axis=0)
    )
    with pytest.raises(ValueError, match="more than the limit of 10"):
        env.tabular_mdp(max_entries=10)


@every_task
def test_the_observed_machine_is_the_tables_state_of_that_time(name: str) -> None:
    reward = "proxy" if find_task(name).proxy else "gold"
    env = TokenGenerationEnv(name, reward=reward, observation="machine")
    observations = env.machine_observations()
    assert observations.shape == (env.task.horizon + 1, env.tabular_mdp().n_states)
    assert env.observation_space.n == observations.max() + 1  # type: ignore[attr-defined]
    twin = TokenGenerationEnv(name, reward=reward)
    ids = [row.tolist() for row in env.task.prompt_ids]
    for number in range(8):
        tokens, _ = twin.reset(seed=number)
        observation, _ = env.reset(seed=number)
        actions = (
            np.random.default_rng(number).integers(env.task.vocabulary.eos, size=env.task.horizon).tolist()
        )
        walked = walk_tables(env, actions, ids.index(tokens[: env.task.prompt_length].tolist()))
        for time, action in enumerate(actions):
            assert observation == observations[time, walked[time][0]]
            observation = env.step(action)[0]


def test_the_observed_machine_knows_gold_only_where_gold_is_a_training_reward() -> None:
    pay = token_weights([0.5, 0.0, 0.0, 0.0])
    plain, rich = (Task("T", ABC, H, gold, proxy=pay) for gold in (pay, keyword([A, B, C, A], 4)))
    walks = []
    for task in (plain, rich):
        env = TokenGenerationEnv(task, reward="proxy", observation="machine")
        assert env.observation_space == gym.spaces.Discrete(H + 1)
        walks.append([step[0] for step in episode(env, [A, B, C, A])])
    assert walks[0] == walks[1] == [1, 2, 3, 4, 5]
    assert TokenGenerationEnv(rich, observation="machine").observation_space == gym.spaces.Discrete(
        4 * (H + 1)
    )


def test_the_observed_machine_of_several_sources_is_their_product() -> None:
    task = small_task(prompts=("",), prompt_weights=None, proxy=keyword([C, C], 4))
    both = TokenGenerationEnv(task, reward=["gold", "proxy"], observation="machine")
    states = both.observation_space.n // (H + 1)  # type: ignore[attr-defined]
    assert states == 3  # nothing begun, an a, a c


def test_the_machine_is_a_state_that_predicts_every_future_reward() -> None:
    """Whatever texts lead to the same observation, the same tokens have the same rewards from there on."""
    env = TokenGenerationEnv(
        small_task(prompts=("",), prompt_weights=None, proxy=None), observation="machine"
    )
    future: dict[int, tuple[float, ...]] = {}
    for text in tuples(range(3), repeat=3):
        env.reset(seed=0)
        observation = [env.step(token)[0] for token in text][-1]
        kept = pickle.dumps(env)
        rewards: list[float] = []
        for end in tuples(range(3), repeat=2):
            copy = pickle.loads(kept)
            rewards.extend(copy.step(token)[1] for token in end)
        assert future.setdefault(observation, tuple(rewards)) == tuple(rewards)
    assert len(future) == 2


def test_a_large_task_is_tabulated_in_time() -> None:
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary.of_characters(f"w{number}" for number in range(49))
    gold = RewardMachine(
        rng.integers(200, size=(200, 50)), rng.normal(size=(200, 50)), np.zeros((200, 50)), np.array([0])
    )
    text = [rng.integers(49, size=20).tolist() for _ in range(50)]
    mdp = TokenGenerationEnv(Task("Large", vocabulary, 50, gold, reference=fit_ngram(text, 50))).tabular_mdp()
    assert 5_000 < mdp.n_states <= 200 * 50
    assert mdp.n_actions == 50


# Masks


def test_a_masked_token_is_refused_and_the_mask_follows_the_text() -> None:
    env = TokenGenerationEnv(Task("T", ABC, H, keyword([A, B], 4), reference=no_doubles()))
    _, info = env.reset(seed=0)
    assert info["action_mask"].tolist() == [1, 1, 1, 1]
    observation, _, _, _, info = env.step(B)
    assert info["action_mask"].tolist() == [1, 0, 1, 1]
    assert info["action_mask"].dtype == np.int8
    assert env.action_masks().tolist() == [True, False, True, True]
    for _ in range(2):
        with pytest.raises(InvalidActionError, match="action 1 is masked"):
            env.step(B)
    following = env.step(A)
    assert following[0].tolist() == [B, A, PAD, PAD, PAD]
    assert observation.tolist() == [B, PAD, PAD, PAD, PAD]
    assert following[4]["action_mask"].tolist() == [0, 1, 1, 1]


def test_masks_in_sub_environments_are_those_of_the_scalar_environment() -> None:
    task = Task("T", ABC, H, keyword([A, B], 4), reference=no_doubles())
    native, scalars = TokenGenerationVectorEnv(3, task=task), [TokenGenerationEnv(task) for _ in range(3)]
    _, info = native.reset(seed=0)
    for env_index, env in enumerate(scalars):
        env.reset(seed=env_index)
    rng = np.random.default_rng(0)
    for _ in range(40):
        assert np.array_equal(native.action_masks(), info["action_mask"].astype(bool))
        row = np.array([rng.choice(np.flatnonzero(mask)) for mask in native.action_masks()])
        _, rewards, terminated, _, info = native.step(row)
        for env_index, env in enumerate(scalars):
            _, reward, ended, _, said = env.step(int(row[env_index]))
            assert (rewards[env_index], terminated[env_index]) == (reward, ended)
            if ended:
                assert info["final_info"]["action_mask"][env_index].tolist() == said["action_mask"].tolist()
                _, said = env.reset()
            assert info["action_mask"][env_index].tolist() == said["action_mask"].tolist()
    native.reset(seed=0)
    native.step([A, B, C])
    with pytest.raises(InvalidActionError, match="action 1 of sub-environment 1 is masked"):
        native.step([B, B, B])
    assert native.step([B, A, A])[1].tolist() == [1.0, 0.0, 0.0]


def test_a_mask_is_part_of_the_machine_and_of_the_tables() -> None:
    env = TokenGenerationEnv(
        Task("T", ABC, H, token_weights([1.0, 0, 0, 0]), reference=no_doubles()), observation="machine"
    )
    assert env.observation_space == gym.spaces.Discrete(4 * (H + 1))
    mdp = env.tabular_mdp()
    assert sorted(mdp.available.sum(axis=1).tolist()) == [3, 3, 3, 4]
    assert np.array_equal(mdp.available, np.isfinite(mdp.log_reference))
    unmasked = TokenGenerationEnv(
        Task("T", ABC, H, token_weights([1.0, 0, 0, 0]), reference=uniform(4)), observation="machine"
    )
    assert unmasked.observation_space == gym.spaces.Discrete(H + 1)


# Prompts


def test_prompts_are_drawn_by_their_weights() -> None:
    weights = np.array([0.1, 0.0, 0.6, 0.3])
    task = small_task(prompts=("", "a", "b", "c"), prompt_weights=weights, proxy=None)
    n = 4_000
    observation, _ = TokenGenerationVectorEnv(n, task=task).reset(seed=1)
    drawn = np.array([(observation[:, 0] == token).mean() for token in (PAD, A, B, C)])
    assert drawn[1] == 0.0
    assert (np.abs(drawn - weights) <= 4 * np.sqrt(weights * (1 - weights) / n)).all()


def test_each_sub_environment_draws_a_new_prompt_for_each_episode() -> None:
    env = TokenGenerationVectorEnv(200, task=small_task())
    env.reset(seed=0)
    seen = [tuple(env.step(np.full(200, EOS))[0][:, 1].tolist()) for _ in range(5)]
    assert len(set(seen)) == 5


# What a person sees


def test_the_picture_shows_the_reward_of_each_token() -> None:
    env = TokenGenerationEnv("Flattery", reward=["gold", ("proxy", 0.5)], render_mode="ansi")
    env.reset(seed=0)
    for token in (0, 1, 3):
        env.step(token)
    assert env.render() == (
        "completion  because evidence great\n"
        "                    ++++++++ -----\n"
        "gold        +0.5 x 1 = +0.5\n"
        "proxy       +1.7 x 0.5 = +0.85\n"
        "return      +1.35"
    )


def test_the_picture_shows_the_prompt_and_what_is_not_in_the_reward() -> None:
    task = small_task(prompt_weights=[0.0, 1.0, 0.0])
    env = TokenGenerationVectorEnv(2, task=task, render_mode="ansi")
    env.reset(seed=0)
    env.step([A, C])
    env.step([B, C])
    assert env.render() == (
        "prompt      ab\ncompletion  ab\n             +\n"
        "gold        +1 x 1 = +1\nproxy       +0.1, not in the reward\nreturn      +1",
        "prompt      ab\ncompletion  cc\ngold        +0 x 1 = +0\nproxy       +0.4, not in the reward\nreturn      +0",
    )


@every_task
def test_every_task_can_be_pictured_at_any_time(name: str) -> None:
    env = TokenGenerationEnv(name, render_mode="ansi")
    env.reset(seed=0)
    for _ in range(env.task.horizon):
        drawn = env.render()
        assert drawn is not None
        assert drawn.splitlines()[-1].startswith("return")
        env.step(0)


def test_without_a_render_mode_nothing_is_drawn() -> None:
    env = make()
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode='ansi'"):
        assert env.render() is None
    assert TokenGenerationVectorEnv(2).render() is None


# What is refused, and how environments are made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"task": "Keyword", "reward": "proxy"},
            "Keyword has no reward 'proxy': give gold, or a reward function",
        ),
        ({"reward": "silver"}, "Small has no reward 'silver': give gold or proxy, or a reward function"),
        ({"reward": []}, "the training reward is empty"),
        ({"reward": ["gold", "gold"]}, "there twice"),
        ({"reward": [("gold", float("nan"))]}, "the weight of 'gold' is nan"),
        ({"reward": 3.0}, "3.0 is no source"),
        ({"reward": LetterShare(name="gold")}, "two sources are called 'gold'"),
        ({"metrics": [LetterShare(name="proxy")]}, "two sources are called 'proxy'"),
        (
            {"reward": MachineSource("m", keyword([A], 4), H + 1)},
            "a horizon of 6 and 1 prompts: Small has 4, 5 and 3",
        ),
        ({"reward": MachineSource("m", keyword([A], 9), H)}, "machine over 9 tokens"),
        (
            {"reward": MachineSource("m", exact_answers([[A], [B]], 4), H, np.zeros((2, 1), int))},
            "and 2 prompts",
        ),
        ({"observation": "pixels"}, "observation is 'pixels': give 'tokens' or 'machine'"),
        ({"horizon": 0}, "horizon is 0"),
        ({"task": "Flatery"}, "did you mean Flattery"),
        ({"render_mode": "human"}, "render_mode is 'human'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    for build in (TokenGenerationEnv, TokenGenerationVectorEnv):
        with pytest.raises(ValueError, match=message):
            build(**({"task": small_task()} | arguments))


@pytest.mark.parametrize(
    "arguments", [{"horizon": 4}, {"reward": [["gold", 0.5]]}, {"observation": "machine"}]
)
def test_a_spec_with_arguments_survives_json(arguments: dict[str, Any]) -> None:
    env = gym.make("tokenwalk/Flattery-v0", **arguments)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.observation_space == env.observation_space
    again.reset(seed=0), env.reset(seed=0)
    assert again.step(3)[1] == env.step(3)[1]


def test_sb3s_checker_takes_both_observations_of_a_task_of_ones_own() -> None:
    for observation in ("tokens", "machine"):
        env = make(observation=observation)
        check_env_for_sb3(env, warn=True)
        assert env.observation_space.contains(env.reset(seed=0)[0])


def test_a_task_in_a_file_makes_an_environment(tmp_path: Any) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from tokenwalk.envs.tasks import find_task\nTASK = find_task('Keyword', 3)\n")
    env = gym.make("tokenwalk/TokenGeneration-v0", task=f"{file}:TASK")
    assert env.observation_space.shape == (3,)
