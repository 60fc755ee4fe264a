"""The scorer on the model's device against ``score_tokens``, the definition, and against the environment's steps."""

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
import torch
from random_tasks import random_task

import tokenwalk  # noqa: F401 - registers the ids
from tokenwalk.agents.exact_tokens.completions import Completions, log_prob_of, sample_completions
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.agents.policy_gradient.reward_tables import Reference, Scorer
from tokenwalk.envs.rewards.function import FunctionSource
from tokenwalk.envs.rewards.source import SourceContractError, score_tokens
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import TokenModel, compose

CPU = torch.device("cpu")
TASKS: list[Callable[[], Task]] = [
    lambda name=name: find_task(name)
    for name in ("Flattery", "Delayed", "Arithmetic", "LengthBias", "Brackets")
]
TASKS += [lambda seed=seed: random_task(seed) for seed in range(4)]


def sampled(task: Task, count: int = 200) -> Completions:
    return sample_completions(task, reference_on_tokens(task), count, np.random.default_rng(0))


def tensors(found: Completions) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(found.prompt), torch.tensor(found.tokens.astype(np.int64))


@pytest.mark.parametrize("make", TASKS)
def test_every_token_has_the_reward_of_the_definition(make: Callable[[], Task]) -> None:
    task = make()
    model = TokenModel(
        task, compose(task, [("gold", 2.0), ("proxy", -0.5)] if task.proxy else [("gold", 2.0)])
    )
    found = sampled(task)
    scored = Scorer(model, CPU, torch.float64).score(*tensors(found))
    terms = score_tokens(
        model.composition.sources, task.prompt_ids[found.prompt], found.tokens, found.length, task.vocabulary
    )
    want = sum(weight * terms[source.name] for source, weight in model.composition.train)
    assert scored.reward.numpy() == pytest.approx(want, abs=1e-12)
    for name, term in terms.items():
        assert scored.terms[f"reward/{name}"].numpy() == pytest.approx(term.sum(axis=1), abs=1e-12)


@pytest.mark.parametrize("reward", ["gold", "proxy", [("gold", 1.0), ("proxy", 0.3)]])
def test_a_completion_has_the_rewards_of_the_environment_step_by_step(reward: object) -> None:
    env = gym.make("tokenwalk/Flattery-v0", reward=reward)
    model = env.unwrapped.model  # type: ignore[attr-defined]
    found = sampled(model.task, 30)
    scored = Scorer(model, CPU, torch.float64).score(*tensors(found))
    for row, (tokens, length) in enumerate(zip(found.tokens, found.length, strict=True)):
        env.reset(seed=0)
        rewards = [float(env.step(int(token))[1]) for token in tokens[:length]]
        assert scored.reward[row, :length].tolist() == pytest.approx(rewards, abs=1e-12)
        assert not scored.reward[row, length:].any()


def test_a_function_is_asked_once_for_the_whole_batch_and_its_weight_counts() -> None:
    task = find_task("Flattery")
    asked = []

    def words(completions: list[str]) -> list[float]:
        asked.append(len(completions))
        return [float(len(text.split())) for text in completions]

    source = FunctionSource("words", words, task.vocabulary, 0.0, 10.0)
    model = TokenModel(task, compose(task, [("gold", 1.0), (source, 0.5)]))
    found = sampled(task, 50)
    asked.clear()
    scored = Scorer(model, CPU, torch.float64).score(*tensors(found))
    want = found.scores(task, model.composition.sources)
    rewards = want["gold"] + 0.5 * want["words"]
    assert scored.reward.sum(dim=1).numpy() == pytest.approx(rewards, abs=1e-12)
    assert asked[0] == 50  # one call, not one for each length


def test_a_source_that_breaks_its_contract_stops_the_learner_by_name() -> None:
    task = find_task("Flattery")
    source = FunctionSource("nothing", lambda text: float("nan"), task.vocabulary)
    scorer = Scorer(TokenModel(task, compose(task, [(source, 1.0)])), CPU)
    with pytest.raises(SourceContractError, match="nothing"):
        scorer.score(*tensors(sampled(task, 5)))


@pytest.mark.parametrize("make", [*TASKS, lambda: find_task("Lexicon")])
def test_the_reference_policy_is_the_same_along_whole_completions(make: Callable[[], Task]) -> None:
    task = make()
    found = sampled(task, 100)
    reference = Reference(task, CPU, torch.float64)
    prompt, tokens = tensors(found)
    logs = reference.log_probs(prompt, tokens)
    assert logs.sum(dim=1).numpy() == pytest.approx(
        log_prob_of(task, reference_on_tokens(task), found), abs=1e-12
    )
    rows = reference.rows(prompt, tokens)
    assert rows.exp().sum(dim=2).numpy() == pytest.approx(np.ones(tokens.shape), abs=1e-12)
