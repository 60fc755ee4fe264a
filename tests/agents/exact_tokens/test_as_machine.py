"""A function as a machine of the prefix tree: it has the same rewards, so it is exact wherever machines are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tasks import random_task

from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact_tokens.as_machine import unfolded
from tokenwalk.agents.exact_tokens.completions import TreeTooLargeError, count_prefixes, enumerate_completions
from tokenwalk.agents.exact_tokens.exact_tables import exact_tables, optimal_value
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.function import FunctionSource
from tokenwalk.envs.rewards.source import SourceContractError, TokenBatch, score_tokens
from tokenwalk.envs.tasks import find_task
from tokenwalk.envs.token_model import TokenModel, compose


class Restless:
    """A source whose reward for each token depends on all the tokens before it and the prompt."""

    name, low, high, timing = "restless", -10.0, 10.0, "token"

    def score(self, batch: TokenBatch) -> FloatArray:
        tokens = np.hstack([batch.prompt, batch.completion]).astype(np.float64)
        return np.sin(tokens @ np.arange(1.0, tokens.shape[1] + 1) + np.asarray(batch.length))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_it_rewards_every_token_as_the_source_does(seed: int) -> None:
    task, source = random_task(seed), Restless()
    batch = enumerate_completions(task).batch(task)
    direct = score_tokens([source], batch.prompt, batch.completion, batch.length, task.vocabulary)  # type: ignore[list-item]
    machine = unfolded(source, task)  # type: ignore[arg-type]
    same = score_tokens([machine], batch.prompt, batch.completion, batch.length, task.vocabulary)
    assert same["restless"] == pytest.approx(direct["restless"], abs=1e-15)
    assert machine.name == "restless"


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.4]))
@settings(max_examples=20)
def test_its_optimum_is_that_of_the_tree_of_whole_completions(seed: int, kl_coef: float) -> None:
    task, source = random_task(seed), Restless()
    tree = TokenModel(task, compose(task, source))  # type: ignore[arg-type]
    product = TokenModel(task, compose(task, unfolded(source, task)))  # type: ignore[arg-type]
    assert (exact_tables(tree).method, exact_tables(product).method) == ("tree", "product")
    assert optimal_value(product, kl_coef=kl_coef) == pytest.approx(
        optimal_value(tree, kl_coef=kl_coef), abs=1e-11
    )


def test_prefixes_with_the_same_rewards_are_one_state() -> None:
    task = find_task("Flattery")
    source = FunctionSource("praise", lambda text: text.count("great"), task.vocabulary)
    machine = unfolded(source, task).machine
    mdp = TokenModel(task, compose(task, task.machine_source("praise", machine))).tabular_mdp()
    assert solve(mdp, {"praise": 1.0}, discount=1.0).start_value(mdp) == pytest.approx(5.0)
    assert machine.n_states < 30 < 781  # of 781 unfinished texts: how many, and how often it was praised


def test_a_tree_that_is_too_large_and_a_source_that_fails_are_refused() -> None:
    task = find_task("Flattery")
    source = FunctionSource("mine", lambda text: {"": 0.0}[text], task.vocabulary)
    with pytest.raises(TreeTooLargeError, match="raise the limit"):
        unfolded(source, task, limit=int(count_prefixes(task)) - 1)
    with pytest.raises(SourceContractError, match="'mine' raised KeyError"):
        unfolded(source, task)


def test_the_largest_task_with_prompts_is_within_the_limit() -> None:
    task = find_task("Arithmetic")
    machine = unfolded(FunctionSource("length", lambda completion: len(completion), task.vocabulary), task)
    assert machine.machine.start.tolist() == [0] * 100  # the function does not read the prompt
    assert machine.high == 3.0
