"""The KL in the reward is the KL that is meant, and the gradient that comes of it is the exact one."""

from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import tokenwalk  # noqa: F401 - registers the ids
from tokenwalk.agents.baselines.as_policy import ModelPolicy
from tokenwalk.agents.baselines.callbacks import Model
from tokenwalk.agents.baselines.configs import default_config
from tokenwalk.agents.baselines.kl_penalty import KLPenalty
from tokenwalk.agents.baselines.sb3 import build, make_vec_env, train
from tokenwalk.agents.exact_tokens.completions import enumerate_completions
from tokenwalk.agents.exact_tokens.token_evaluation import TokenEvaluation, evaluate_tokens
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.reference import ReferencePolicy
from tokenwalk.envs.rewards.builders import token_weights
from tokenwalk.envs.rewards.source import TokenBatch
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import TokenModel, compose
from tokenwalk.envs.vocabulary import Vocabulary

FLATTERY, ANY = "tokenwalk/Flattery-v0", "tokenwalk/TokenGeneration-v0"
KL_COEF = 0.35


class Recording(BaseCallback):
    """Keeps the rewards of each rollout, before the buffer is read."""

    def __init__(self) -> None:
        super().__init__()
        self.rollouts: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer  # type: ignore[attr-defined]
        names = ("observations", "actions", "rewards", "log_probs")
        self.rollouts.append({name: getattr(buffer, name).copy() for name in names})


def masked_bigram() -> Task:
    """Return a task whose reference policy reads the prompt and the last token, and in which none is repeated."""
    vocabulary = Vocabulary.of_characters("abc")
    available = ~np.eye(4, dtype=np.bool_)
    weights = np.random.default_rng(0).uniform(1, 3, (4, 4)) * available
    reference = ReferencePolicy(
        np.tile(np.arange(4), (4, 1)),
        weights / weights.sum(axis=1, keepdims=True),
        np.array([3, 1]),
        available,
    )
    gold = token_weights([0.0, 1.0, 0.75, 0.0])
    return Task("Masked", vocabulary, 5, gold, reference=reference, prompts=("a", "bb"))


def every_env(env_id: str, num_envs: int, args: dict[str, Any], native: bool) -> VecEnv:
    if native:
        return make_vec_env(env_id, num_envs, args)
    return DummyVecEnv([partial(gym.make, env_id, **args)] * num_envs)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("agent", "task"),
    [
        ("ppo", "Flattery"),
        ("a2c", "Lexicon"),
        ("maskable-ppo", "Arithmetic"),
        ("maskable-ppo", masked_bigram()),
    ],
)
def test_each_token_costs_its_log_ratio_under_the_policy_that_took_it(
    agent: str, task: str | Task, native: bool
) -> None:
    # A weight of 0: the reward is the penalty alone.
    found = find_task(task)
    env = every_env(ANY, 8, {"task": found, "reward": [("gold", 0.0)]}, native)
    config = replace(default_config(agent, ANY), num_envs=8, rollout_steps=32, kl_coef=KL_COEF)
    model = build(agent, env, config, seed=0)
    recording = Recording()
    model.learn(512, callback=recording)
    reference = reference_on_tokens(found)
    for rollout in recording.rollouts:
        seen = rollout["observations"].reshape(256, -1).astype(found.vocabulary.dtype)
        prompt, completion = seen[:, : found.prompt_length], seen[:, found.prompt_length :]
        length = (completion != found.vocabulary.pad).sum(axis=1)
        logs = reference.log_probs(TokenBatch(prompt, completion, length, np.zeros(256, np.bool_)))
        log_ratio = (
            rollout["log_probs"].ravel() - logs[np.arange(256), rollout["actions"].ravel().astype(int)]
        )
        assert np.abs(log_ratio).max() > 1e-3
        assert rollout["rewards"].ravel() == pytest.approx(-KL_COEF * log_ratio, abs=2e-5)
    assert len(recording.rollouts) == 2


def test_the_reported_return_of_an_episode_is_the_environments() -> None:
    log: list[dict[str, float]] = []
    env = make_vec_env(ANY, 8, {"task": "Flattery", "reward": [("gold", 0.0)]})
    config = replace(default_config("ppo", FLATTERY), num_envs=8, kl_coef=KL_COEF)
    model = build("ppo", env, config, seed=0)
    train(model, steps=256, on_progress=lambda step, metrics: log.append(dict(metrics)))
    assert log[-1]["rollout/ep_rew_mean"] == 0


def test_the_penalized_kl_is_logged_and_is_that_of_the_sampling_policy() -> None:
    task, log = find_task("Flattery"), []
    config = replace(
        default_config("ppo", FLATTERY), learning_rate=1e-12, kl_coef=KL_COEF
    )  # stays what it is
    model = build("ppo", make_vec_env(FLATTERY, 64), config, seed=0)
    train(model, steps=8_192, on_progress=lambda step, metrics: log.append(metrics.get("train/kl")))
    exact = evaluate_tokens(TokenModel(task, compose(task, "gold")), ModelPolicy(model, task, False)).kl
    means = [one for one in log if one is not None]
    # Each is a mean of 100 completions; of five-token texts the log ratio spreads by less than 3 nats.
    assert abs(float(np.mean(means)) - exact) < 4 * 3 / (100 * len(means)) ** 0.5
    assert exact > 0.1
    plain = build("ppo", make_vec_env(FLATTERY, 64), replace(config, kl_coef=0.0), seed=0)
    seen: set[str] = set()
    train(plain, steps=1_024, on_progress=lambda step, metrics: seen.update(metrics))
    assert "train/kl" not in seen


def log_probs_of_completions(model: Model, tokens: Any, length: Any) -> torch.Tensor:
    """Return the log-probability of each token of each completion, with its gradient, [B, H]; 0 after the end."""
    policy: Any = model.policy
    columns = []
    for time in range(tokens.shape[1]):
        prefix = np.full_like(tokens, 6)
        prefix[:, :time] = tokens[:, :time]
        found = policy.get_distribution(torch.as_tensor(prefix))
        written = torch.as_tensor(np.where(time < length, tokens[:, time], 0).astype(np.int64))
        columns.append(torch.where(torch.as_tensor(time < length), found.log_prob(written), 0.0))
    return torch.stack(columns, dim=1)


def gradient(model: Model, value: torch.Tensor) -> FloatArray:
    model.policy.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    parts = [p.grad.ravel().double() for p in model.policy.parameters() if p.grad is not None]
    return np.asarray(torch.cat(parts).numpy())


def test_reinforce_on_the_penalized_rewards_ascends_the_exact_regularized_objective() -> None:
    task = find_task("Flattery")
    tokens, scores = (
        (every := enumerate_completions(task)).tokens,
        every.scores(task, [task.sources["proxy"]]),
    )
    length, count = every.length, len(every)
    config = replace(default_config("ppo", FLATTERY), num_envs=count, rollout_steps=2, kl_coef=KL_COEF)
    env = make_vec_env(FLATTERY, count, {"reward": "proxy"})
    model = build("ppo", env, config, seed=0)
    model.policy.action_net.weight.data.mul_(100)  # type: ignore[union-attr, operator]  # far from uniform
    vec_env = model.env
    assert vec_env is not None
    vec_env.reset()
    rewards = np.stack(
        [vec_env.step(np.where(time < length, tokens[:, time], 0).astype(int))[1] for time in range(5)],
        axis=1,
    )
    rewards = np.where(np.arange(5) < length[:, None], rewards, 0.0).astype(np.float64)

    def reinforce(plain: FloatArray) -> FloatArray:
        """Return the expectation of sum_t grad log pi(a_t|s_t) * return from t on."""
        logs = log_probs_of_completions(model, tokens, length).double()
        ahead = torch.as_tensor(plain[:, ::-1].cumsum(axis=1)[:, ::-1].copy())
        return gradient(model, (logs.sum(dim=1).exp().detach()[:, None] * logs * ahead).sum())

    logs = log_probs_of_completions(model, tokens, length).double().sum(dim=1)
    regularized = torch.as_tensor(scores["proxy"]) - KL_COEF * (logs - torch.as_tensor(every.log_reference))
    exact = gradient(model, (logs.exp() * regularized).sum())

    def error(found: FloatArray) -> float:
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    assert error(reinforce(rewards)) < 1e-5
    # The broken twins: the KL of each state alone, as a bonus that is not in the returns has it, and none at all.
    plain = make_proxy_rewards(tokens, length)
    own = rewards - plain
    logs_by_token = log_probs_of_completions(model, tokens, length).double()
    myopic = gradient(
        model, (logs_by_token.sum(dim=1).exp().detach()[:, None] * logs_by_token * torch.as_tensor(own)).sum()
    )
    assert error(reinforce(plain) + myopic) > 0.2
    assert error(reinforce(plain)) > 0.5


def make_proxy_rewards(tokens: Any, length: Any) -> FloatArray:
    """Return what the proxy pays each token, [B, H]."""
    machine = find_task("Flattery").proxy
    return np.asarray(machine.run(tokens, length))  # type: ignore[union-attr]


def test_where_there_is_no_kl_to_pay_the_reason_is_said() -> None:
    for env_id, args in (("tokenwalk/CounterWalk-v0", {}), (FLATTERY, {"observation": "machine"})):
        with pytest.raises(ValueError, match=r"kl_coef is 0\.5, and the environment observes Discrete"):
            KLPenalty(make_vec_env(env_id, 4, args), 0.5)
    never = ReferencePolicy(np.zeros((1, 4), int), np.array([[0.5, 0.0, 0.25, 0.25]]), np.zeros(1, int))
    task = Task(
        "Never", Vocabulary.of_characters("abc"), 3, token_weights([0.0, 1.0, 0.0, 0.0]), reference=never
    )
    with pytest.raises(
        ValueError, match="reference policy of Never never generates token 1 in context 0, so the KL"
    ):
        KLPenalty(make_vec_env(ANY, 4, {"task": task}), 0.5)
    model = build("dqn", make_vec_env(FLATTERY, 64), default_config("dqn", FLATTERY), seed=0)
    with pytest.raises(ValueError, match="DQN takes no kl_coef: it learns values"):
        KLPenalty(make_vec_env(FLATTERY, 64), 0.5).hold(model)


def learned(agent: str, seed: int, steps: int, reward: Any, **changes: Any) -> TokenEvaluation:
    """Return the exact evaluation, by the proxy, of the policy that is sampled after learning ``reward``."""
    task = find_task("Flattery")
    config = replace(default_config(agent, FLATTERY), learning_rate=1e-3, gae_lambda=1.0, **changes)
    model = build(agent, make_vec_env(FLATTERY, config.num_envs, {"reward": reward}), config, seed=seed)
    train(model, steps=steps, on_progress=lambda step, metrics: None)
    return evaluate_tokens(
        TokenModel(task, compose(task, "proxy")), ModelPolicy(model, task, False), kl_coef=KL_COEF
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("agent", "steps"), [("ppo", 60_000), ("a2c", 120_000), ("maskable-ppo", 60_000)])
def test_with_the_kl_in_the_reward_the_regularized_optimum_is_reached_and_with_entropy_coef_it_is_not(
    agent: str, steps: int, seed: int
) -> None:
    task = find_task("Flattery")
    reference = evaluate_tokens(
        TokenModel(task, compose(task, "proxy")), reference_on_tokens(task), kl_coef=KL_COEF
    )
    assert reference.regret is not None
    held = learned(agent, seed, steps, "proxy", kl_coef=KL_COEF, entropy_coef=0.0)
    assert held.regret is not None
    assert held.regret < 0.05 * reference.regret
    # The same objective, were the entropy in the returns: kl_coef log pi_ref is in the reward, entropy_coef is the rest.
    log_reference = task.machine_source("log_reference", task.reference.as_machine())
    bonus = learned(agent, seed, steps, ["proxy", (log_reference, KL_COEF)], entropy_coef=KL_COEF)
    assert bonus.regret is not None
    assert bonus.regret > 0.2 * reference.regret
