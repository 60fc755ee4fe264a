"""A model as the exact tools ask for it: the table and the probabilities are what it would really do."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats

import tokenwalk  # noqa: F401 - registers the ids
from tokenwalk.agents.baselines.as_policy import ModelPolicy, policy_table
from tokenwalk.agents.baselines.callbacks import Model
from tokenwalk.agents.baselines.configs import AGENTS, default_config
from tokenwalk.agents.baselines.sb3 import build, make_vec_env, train
from tokenwalk.agents.exact_tokens.token_evaluation import evaluate_tokens
from tokenwalk.agents.learners.registry import find_agent
from tokenwalk.agents.problem.problem import open_problem
from tokenwalk.envs.checks import InvalidActionError
from tokenwalk.envs.reference import ReferencePolicy
from tokenwalk.envs.rewards.builders import token_weights
from tokenwalk.envs.rewards.source import TokenBatch
from tokenwalk.envs.tasks import Task
from tokenwalk.envs.token_model import TokenModel, compose
from tokenwalk.envs.vocabulary import Vocabulary

TASK_ID = "tokenwalk/TokenGeneration-v0"


def small_model(agent: str, env_id: str, task: Task | None = None, seed: int = 0) -> Model:
    config = replace(default_config(agent, env_id), num_envs=4)
    return build(agent, make_vec_env(env_id, 4, {} if task is None else {"task": task}), config, seed=seed)


def forbidding_task() -> Task:
    """Return a task in which no token may follow itself and ``<eos>`` may not come first; prompts decide the start.

    Without the masks the best text would be "bbbb": with them it is "bcbc" or "cbcb", by the prompt.
    """
    vocabulary = Vocabulary.of_characters("abc")
    available = ~np.eye(4, dtype=np.bool_)  # the context is the last token, or 3 where there is none
    reference = ReferencePolicy(
        np.tile(np.arange(4), (4, 1)),
        available / available.sum(axis=1, keepdims=True),
        np.array([3, 1]),
        available,
    )
    gold = token_weights([0.0, 1.0, 0.75, 0.0])
    return Task("Forbidding", vocabulary, 4, gold, reference=reference, prompts=("a", "b"))


def test_the_greedy_table_is_what_the_model_would_do_state_by_state() -> None:
    for agent in AGENTS:
        model = small_model(agent, "FrozenLake-v1")
        table = policy_table(model, 16)
        alone = [int(model.predict(np.int64(state), deterministic=True)[0]) for state in range(16)]
        assert table.shape == (1, 16, 4)
        assert table.sum() == 16
        assert table[0].argmax(axis=1).tolist() == alone


def test_masked_actions_are_not_in_a_maskable_agents_table() -> None:
    masks = np.zeros((16, 4), dtype=np.bool_)
    masks[np.arange(16), np.arange(16) % 4] = True
    table = policy_table(small_model("maskable-ppo", "FrozenLake-v1"), 16, masks)
    assert np.array_equal(table[0].astype(np.bool_), masks)


@pytest.mark.parametrize("agent", AGENTS)
def test_one_greedy_rollout_per_prompt_earns_what_the_exact_evaluation_says(agent: str) -> None:
    model = small_model(agent, "tokenwalk/Arithmetic-v0")
    env = gym.make("tokenwalk/Arithmetic-v0").unwrapped
    policy = ModelPolicy(model, env.task)  # type: ignore[attr-defined]
    found = evaluate_tokens(env.model, policy)  # type: ignore[attr-defined]
    returns, seen = 0.0, set()
    for seed in range(2_000):
        observation, _ = env.reset(seed=seed)
        if (prompt := observation[:4].tobytes()) in seen:
            continue
        seen.add(prompt)
        terminated = False
        while not terminated:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, *_ = env.step(action)
            returns += reward / 100
    assert len(seen) == 100
    assert found.exact
    assert found.gold == pytest.approx(returns, abs=1e-12)
    assert found.entropy == 0


@pytest.mark.parametrize("agent", ["ppo", "a2c", "maskable-ppo"])
def test_a_stochastic_policy_has_the_probabilities_that_are_sampled_from(agent: str) -> None:
    model = small_model(agent, "tokenwalk/Flattery-v0")
    model.policy.action_net.weight.data.mul_(100)
    task = make_vec_env("tokenwalk/Flattery-v0", 1).get_attr("task")[0]
    blank = TokenBatch(
        np.empty((1, 0), np.uint8), np.full((1, 5), 6, np.uint8), np.zeros(1, int), np.zeros(1, bool)
    )
    logs = ModelPolicy(model, task, greedy=False).log_probs(blank)
    model.set_random_seed(0)
    sampled, _ = model.predict(np.full((4_000, 5), 6, np.uint8))
    counts = np.bincount(sampled, minlength=6)
    assert np.exp(logs).sum() == pytest.approx(1, abs=1e-6)
    assert stats.chisquare(counts, 4_000 * np.exp(logs[0]) / np.exp(logs[0]).sum()).pvalue > 1e-4
    assert stats.chisquare(counts, np.full(6, 4_000 / 6)).pvalue < 1e-4  # the twin that knows no logits
    assert ModelPolicy(model, task).log_probs(blank).argmax() == logs.argmax()


def test_dqn_has_no_policy_to_sample_from() -> None:
    model = small_model("dqn", "tokenwalk/Flattery-v0")
    with pytest.raises(ValueError, match="DQN learns values and no policy to sample from"):
        ModelPolicy(model, make_vec_env("tokenwalk/Flattery-v0", 1).get_attr("task")[0], greedy=False)


def test_masks_are_honoured_from_the_first_step_of_learning_to_the_evaluation() -> None:
    task = forbidding_task()
    tokens = TokenModel(task, compose(task, "gold"))
    model = small_model("maskable-ppo", TASK_ID, task)
    for greedy in (True, False):
        untrained = evaluate_tokens(
            tokens, ModelPolicy(model, task, greedy)
        )  # raises where a masked token is
        assert untrained.exact
        assert untrained.kl < np.inf
    train(model, steps=6_000, on_progress=lambda step, metrics: None)  # the environment refuses masked tokens
    found = evaluate_tokens(tokens, ModelPolicy(model, task))
    assert found.optimum == 3.5
    assert found.gold == 3.5
    assert evaluate_tokens(tokens, ModelPolicy(model, task, greedy=False)).kl < np.inf


@pytest.mark.parametrize(("agent", "taken"), [("ppo", False), ("dqn", False), ("maskable-ppo", True)])
def test_an_agent_that_knows_no_masks_is_refused_a_task_that_has_some(agent: str, taken: bool) -> None:
    problem = open_problem("TokenGeneration", {"task": forbidding_task()})
    config = default_config(agent, problem.env_id)
    if taken:
        assert find_agent(agent).build(problem, config).steps == 0
        return
    with pytest.raises(ValueError, match=f"{agent} does not respect masks.*take maskable-ppo"):
        find_agent(agent).build(problem, config)


def test_an_agent_that_knows_no_masks_is_stopped_by_the_first_masked_token() -> None:
    task = forbidding_task()
    model = small_model("ppo", TASK_ID, task)
    with pytest.raises(InvalidActionError, match="is masked"):
        train(model, steps=64, on_progress=lambda step, metrics: None)
    with pytest.raises(ValueError, match="where it is masked"):
        evaluate_tokens(TokenModel(task, compose(task, "gold")), ModelPolicy(model, task, greedy=False))
