"""Shaping from potentials: it telescopes, it is one number however it is worked out, and it moves no optimum."""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tasks import random_task

import tokenwalk  # noqa: F401 - registers the ids
from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.invariance import compare_optima, reachable
from tokenwalk.agents.exact_tokens.completions import enumerate_completions
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.learned import LearnedSource
from tokenwalk.envs.rewards.log_prob import LogProbSource
from tokenwalk.envs.rewards.machine import RewardMachine
from tokenwalk.envs.rewards.potentials import (
    AutomatonPotential,
    ShapingSource,
    distance_potential,
    shape,
)
from tokenwalk.envs.rewards.shaping import shaping_reward
from tokenwalk.envs.rewards.source import MachineSource, Potential, TokenBatch, score_tokens
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import TokenModel, compose

seeds = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Hidden:
    """A potential that hides its automaton."""

    inner: Potential

    def value(self, batch: TokenBatch) -> FloatArray:
        return self.inner.value(batch)


def random_potential(task: Task, seed: int, timed: bool) -> AutomatonPotential:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(task.horizon + 1 if timed else 1, 2))
    return AutomatonPotential(
        rng.integers(2, size=(2, task.vocabulary.size)), rng.integers(2, size=2), table, task.prompt_ids
    )


@given(seeds, st.booleans(), st.sampled_from([1.0, 0.8]))
@settings(max_examples=30)
def test_the_machine_and_the_function_pay_the_same_and_it_telescopes(
    seed: int, timed: bool, discount: float
) -> None:
    task = random_task(seed)
    potential = random_potential(task, seed, timed)
    machine, function = (shape(one, task, discount) for one in (potential, Hidden(potential)))
    assert isinstance(machine, MachineSource)
    assert isinstance(function, ShapingSource)
    every = enumerate_completions(task)
    batch = every.batch(task)
    rewards, same = (
        score_tokens([one], batch.prompt, batch.completion, batch.length, task.vocabulary)["shaping"]
        for one in (machine, function)
    )
    assert rewards == pytest.approx(same, abs=1e-12)
    none = np.zeros(len(every), np.int64)
    start = potential.value(TokenBatch(batch.prompt, batch.completion, none, np.zeros(len(every), bool)))
    assert (rewards * discount ** np.arange(task.horizon)).sum(axis=1) == pytest.approx(-start, abs=1e-12)


@given(seeds, st.booleans(), st.sampled_from([0.0, 0.5]))
@settings(max_examples=25)
def test_no_optimum_moves(seed: int, timed: bool, kl_coef: float) -> None:
    task = random_task(seed)
    shaping = shape(random_potential(task, seed, timed), task)
    mdp = TokenModel(task, compose(task, "gold", shaping=shaping)).tabular_mdp()
    plain = solve(mdp, {"gold": 1.0}, discount=1.0, kl_coef=kl_coef)
    shaped = solve(mdp, {"gold": 1.0, "shaping": 1.0}, discount=1.0, kl_coef=kl_coef)
    met = reachable(mdp)
    assert shaped.policy[met] == pytest.approx(plain.policy[met], abs=1e-9)
    found = compare_optima(mdp, {"gold": 1.0}, {"shaping": 1.0}, discount=1.0)
    assert found.unchanged
    assert (found.changed_states, found.states) == (0, met.sum())
    assert found.gold_lost == pytest.approx(0.0, abs=1e-12)


def test_a_terminal_potential_that_is_not_0_moves_the_optimum() -> None:
    task = find_task("Flattery")
    shorter = np.arange(6.0)[:, None] * -2.0  # two less for each word
    potential = AutomatonPotential(
        np.zeros((1, 6), np.int64), np.zeros(1, np.int64), shorter, task.prompt_ids
    )
    shaping = potential.shaping_machine(1.0, 5)
    stay = np.zeros((1, 6), np.int64)
    twin = RewardMachine(
        stay, np.full((1, 6), -2.0), np.zeros((1, 6)), np.zeros(1, np.int64)
    )  # Phi(end) = Phi
    found = []
    for machine in (shaping, twin):
        source = task.machine_source("shaping", machine)
        mdp = TokenModel(task, compose(task, "gold", shaping=source)).tabular_mdp()
        found.append(compare_optima(mdp, {"gold": 1.0}, {"shaping": 1.0}, discount=1.0))
    assert found[0].unchanged
    assert found[0].gold_before == pytest.approx(2.5)
    assert not found[1].unchanged
    assert 0 < found[1].changed_states < found[1].states
    assert found[1].gold_after == pytest.approx(0.0)


def test_the_distance_of_password_is_the_share_of_the_word_that_stands() -> None:
    task = find_task("Password")
    assert isinstance(task.gold, RewardMachine)
    potential = distance_potential(task.gold, task.prompt_ids)
    texts = ["", "f", "fa", "fac", "faca", "facad", "facade", "facadef", "g"]
    completion = np.full((len(texts), 8), task.vocabulary.pad)
    for row, text in enumerate(texts):
        completion[row, : len(text)] = task.vocabulary.encode(text)
    length = np.array([len(text) for text in texts])
    batch = TokenBatch(np.zeros((len(texts), 0), int), completion, length, np.zeros(len(texts), bool))
    assert potential.value(batch) == pytest.approx([*(np.arange(1, 8) / 8), 0.0, 0.0])


def test_the_distance_is_to_the_largest_payment_and_none_is_refused() -> None:
    cab = find_task("Keyword").gold
    assert isinstance(cab, RewardMachine)
    assert sorted(distance_potential(cab).table[0].tolist()) == pytest.approx([0.25, 0.5, 0.75])
    with pytest.raises(ValueError, match="has no positive reward"):
        distance_potential(-1.0 * cab)


def test_the_environment_adds_shaping_to_the_reward_and_to_no_return() -> None:
    task = find_task("Password")
    assert isinstance(task.gold, RewardMachine)
    shaping = shape(distance_potential(task.gold, task.prompt_ids), task)
    env = gym.make("tokenwalk/Password-v0", shaping=shaping, observation="machine", render_mode="ansi")
    env.reset(seed=0)
    rewards, infos = [], []
    for token in [*task.vocabulary.encode("facade"), task.vocabulary.eos]:
        _, reward, terminated, _, info = env.step(token)
        rewards.append(reward)
        infos.append(info)
    assert terminated
    assert rewards == pytest.approx([1 / 8] * 6 + [1 - 7 / 8])
    assert [info["gold"] for info in infos] == [0.0] * 6 + [1.0]
    assert infos[-1]["reward/shaping/weighted"] == -7 / 8
    assert "not in the return" in str(env.render())
    model = env.unwrapped.model  # type: ignore[attr-defined]
    tables, _ = model.machine_tables()
    assert set(tables.rewards) == {"train", "shaping"}
    best = solve(tables, model.walk_weights, discount=1.0)
    assert best.start_value(tables) == pytest.approx(1 - 1 / 8)  # less the potential of the start


def test_the_native_sub_environments_get_the_shaping_of_any_potential() -> None:
    task = random_task(4)
    hidden = shape(Hidden(random_potential(task, 0, timed=True)), task, 0.9)
    rewards = {}
    for mode in ("sync", "vector_entry_point"):
        env = gym.make_vec(
            "tokenwalk/TokenGeneration-v0",
            num_envs=4,
            vectorization_mode=mode,
            task=task,
            shaping=(hidden, 0.5),
        )
        env.reset(seed=1)
        allowed = [np.flatnonzero(row) for row in task.reference.available]  # type: ignore[union-attr]
        common = [token for token in range(3) if all(token in row for row in allowed)]
        rewards[mode] = np.array([env.step(np.full(4, common[0]))[1] for _ in range(1)])
    assert rewards["sync"] == pytest.approx(rewards["vector_entry_point"], abs=1e-12)
    assert np.abs(rewards["sync"]).max() > 0


def test_a_weight_is_annealed_through_one_method_and_a_machines_is_not() -> None:
    task = find_task("Flattery")
    bonus = LearnedSource("bonus", lambda batch: np.ones(len(batch.length)))
    for make in (gym.make, gym.make_vec):
        env = make("tokenwalk/Flattery-v0", reward=["gold", (bonus, 2.0)])  # type: ignore[operator]
        inner = env.unwrapped
        for weight in (2.0, 0.5):
            inner.set_weight("bonus", weight)
            env.reset(seed=0)
            action = np.full(env.action_space.shape, task.vocabulary.eos) if make is gym.make_vec else 5  # type: ignore[type-var]
            assert np.all(env.step(action)[1] == weight)
        with pytest.raises(ValueError, match="'gold' is a machine"):
            inner.set_weight("gold", 0.5)
        with pytest.raises(ValueError, match="has no component 'bonus2'"):
            inner.set_weight("bonus2", 0.5)
        with pytest.raises(ValueError, match="give a finite number"):
            inner.set_weight("bonus", float("nan"))


def test_a_learned_source_has_golds_mean_and_spread_and_is_copied_by_no_spec() -> None:
    raw = np.array([3.0, 5.0, 7.0])
    source = LearnedSource("model", lambda batch: raw[np.asarray(batch.length) - 1], 5.0, 0.25, 1.5)
    batch = TokenBatch(np.zeros((3, 0), int), np.zeros((3, 4), int), np.arange(1, 4), np.ones(3, bool))
    assert source.score(batch).tolist() == [1.0, 1.5, 2.0]
    assert source.value(batch).tolist() == [1.0, 1.5, 2.0]
    env = gym.make("tokenwalk/Flattery-v0", reward=source)
    assert env.spec is not None
    assert env.spec.kwargs["reward"] is source
    assert gym.make(env.spec).unwrapped.model.composition.train[0][0] is source  # type: ignore[attr-defined]
    for scale in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="a scale above 0"):
            LearnedSource("model", lambda batch: raw, scale=scale)


def test_the_log_probability_source_adds_up_to_that_of_the_completion() -> None:
    from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens

    task = find_task("Flattery")
    source = LogProbSource("fluency", reference_on_tokens(task).log_probs, task.vocabulary)
    every = enumerate_completions(task)
    total = every.scores(task, [source])["fluency"]
    assert total == pytest.approx(every.log_reference, abs=1e-12)
    machine = task.machine_source("fluency", task.reference.as_machine())
    assert every.scores(task, [machine])["fluency"] == pytest.approx(total, abs=1e-12)


def test_the_one_formula_does_not_read_what_comes_after_the_end() -> None:
    now, after = np.array([1.0, 1.0]), np.array([3.0, np.nan])
    assert shaping_reward(0.5, np.array([False, True]), now, after).tolist() == [0.5, -1.0]
    with pytest.raises(ValueError, match="the agent's own"):
        shape(Hidden(random_potential(random_task(0), 0, timed=False)), random_task(0), 0.0)
