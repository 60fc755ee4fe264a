"""The defaults learn the token tasks: the greedy policy's exact gold reaches 95 % of the way to the optimum."""

from dataclasses import replace
from typing import Any

import pytest

import tokenwalk  # noqa: F401 - registers the ids
from tokenwalk.agents.baselines.as_policy import ModelPolicy
from tokenwalk.agents.baselines.configs import default_config, default_steps
from tokenwalk.agents.baselines.sb3 import build, make_vec_env, train
from tokenwalk.agents.exact_tokens.token_evaluation import evaluate_tokens
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.envs.tasks import find_task
from tokenwalk.envs.token_model import TokenModel, compose

pytestmark = pytest.mark.slow
SEEDS = range(3)


def final_score(agent: str, name: str, steps: int, seed: int, **changes: Any) -> float:
    """Return the exact normalized score of the greedy policy after ``steps`` steps with the defaults."""
    env_id = f"tokenwalk/{name}-v0"
    config = replace(default_config(agent, env_id), **changes)
    model = build(agent, make_vec_env(env_id, config.num_envs), config, seed=seed)
    train(model, steps=steps, on_progress=lambda step, metrics: None)
    task = find_task(name)
    tokens = TokenModel(task, compose(task, "gold"))
    found = evaluate_tokens(tokens, ModelPolicy(model, task))
    reference = evaluate_tokens(tokens, reference_on_tokens(task))
    assert found.exact
    assert found.optimum is not None
    return (found.gold - reference.gold) / (found.optimum - reference.gold)


@pytest.mark.parametrize(
    ("agent", "name", "steps"),
    [
        ("ppo", "Keyword", 30_000),
        ("ppo", "Flattery", 20_000),
        ("ppo", "LengthBias", 60_000),
        ("ppo", "Delayed", 120_000),
        ("a2c", "Keyword", 40_000),
        ("a2c", "Flattery", 30_000),
        ("dqn", "Keyword", 60_000),
        ("dqn", "Flattery", 15_000),
        ("maskable-ppo", "Keyword", 30_000),
        ("maskable-ppo", "Flattery", 20_000),
    ],
)
def test_the_optimum_is_learned_in_seconds(agent: str, name: str, steps: int) -> None:
    assert steps <= default_steps(agent, f"tokenwalk/{name}-v0")
    assert min(final_score(agent, name, steps, seed) for seed in SEEDS) >= 0.95


def test_sums_are_learned_from_their_prompts_within_a_minute_each() -> None:
    steps = default_steps("ppo", "tokenwalk/Arithmetic-v0")
    assert min(final_score("ppo", "Arithmetic", steps, seed) for seed in (0, 1)) >= 0.95


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_the_broken_twin_that_hardly_moves_its_parameters_learns_nothing(agent: str) -> None:
    assert max(final_score(agent, "Keyword", 10_000, seed, learning_rate=1e-12) for seed in SEEDS) < 0.5


def test_a_column_for_every_token_at_every_position_learns_slower() -> None:
    scores = [final_score("ppo", "Keyword", 30_000, seed, features="one-hot") for seed in SEEDS]
    assert max(scores) < 0.95
