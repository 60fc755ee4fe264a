"""A language model of a task against what is exact: the entropy rate, the reference policy, the tree."""

from pathlib import Path

import numpy as np
import pytest
import torch
from random_tasks import random_task

from tokenwalk.agents.backprop.configs import LMConfig, TrainingConfig
from tokenwalk.agents.backprop.lm import TokenLM, entropy_rate, fresh_lm, pretrain, reference_lm
from tokenwalk.agents.backprop.scorers import ForeignTextError
from tokenwalk.agents.exact_tokens.completions import enumerate_completions, log_prob_of, sample_completions
from tokenwalk.agents.exact_tokens.token_evaluation import evaluate_tokens
from tokenwalk.agents.exact_tokens.token_policy import FastSampler, reference_on_tokens
from tokenwalk.agents.runs.checkpoint import DamagedFileError
from tokenwalk.agents.runs.tensors import write_tensors
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.log_prob import LogProbSource
from tokenwalk.envs.tasks import find_task
from tokenwalk.envs.token_model import TokenModel, compose

FLATTERY, ARITHMETIC = find_task("Flattery"), find_task("Arithmetic")
SMALL = LMConfig(n_layers=1, n_heads=2, width=16, texts=4_000)


def test_the_entropy_rate_is_that_of_every_completion() -> None:
    for task in (FLATTERY, random_task(3)):
        every = enumerate_completions(task)
        weight = every.weights(task)
        generated = weight > 0
        entropy = -(weight[generated] @ every.log_reference[generated])
        assert entropy_rate(task) == pytest.approx(entropy / (weight @ every.length), abs=1e-12)


def test_a_model_that_is_given_the_reference_policy_has_no_kl_to_it_at_all() -> None:
    lm = reference_lm(FLATTERY, SMALL, seed=0)
    found = evaluate_tokens(TokenModel(FLATTERY, compose(FLATTERY, "gold")), lm)
    assert found.method == "tree"
    assert found.kl == pytest.approx(0.0, abs=1e-6)
    assert found.gold == pytest.approx(0.10126625, abs=1e-6)
    fresh = evaluate_tokens(
        TokenModel(FLATTERY, compose(FLATTERY, "gold")), fresh_lm(FLATTERY, SMALL, seed=0)
    )
    assert fresh.kl > 0.1  # a twin without the bias
    with pytest.raises(ValueError, match="depends on the prefix: pre-train"):
        reference_lm(find_task("Lexicon"), SMALL, seed=0)


def test_its_probabilities_of_prefixes_and_of_completions_are_the_same() -> None:
    lm = fresh_lm(ARITHMETIC, SMALL, seed=1)
    every = enumerate_completions(ARITHMETIC)[::997]
    by_prefixes = log_prob_of(ARITHMETIC, lm, every)
    ids = lm.ids(ARITHMETIC.prompt_ids[every.prompt], every.tokens)
    at_once = lm.network.log_probs(ids, lm.first).sum(dim=1).detach().double().numpy()
    assert by_prefixes == pytest.approx(at_once, abs=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 3])  # two of them have a mask
def test_what_the_mask_forbids_it_never_generates_and_has_probability_0(seed: int) -> None:
    task = random_task(seed)
    lm = fresh_lm(task, SMALL, seed=0)
    every = enumerate_completions(task, lm)
    assert np.exp(every.log_prob) @ task.prompt_weights[every.prompt] == pytest.approx(1.0, abs=1e-5)
    assert len(every) == len(enumerate_completions(task))
    prompt = np.random.default_rng(0).integers(2, size=300)
    generated = lm.generate(task.prompt_ids[prompt], torch.Generator().manual_seed(0), lm.mask(prompt))
    allowed = {(int(p), *map(int, t)) for p, t in zip(every.prompt, every.tokens, strict=True)}
    assert {(int(p), *map(int, t)) for p, t in zip(prompt, generated.tokens, strict=True)} <= allowed


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_what_it_samples_by_the_cache_follows_its_own_probabilities(seed: int) -> None:
    task, count = random_task(seed), 20_000
    lm = fresh_lm(task, SMALL, seed=2)
    assert isinstance(lm, FastSampler)
    sampled, exact = (
        sample_completions(task, lm, count, np.random.default_rng(0)),
        enumerate_completions(task, lm),
    )
    assert sampled.log_prob == pytest.approx(log_prob_of(task, lm, sampled), abs=1e-4)
    assert sampled.log_reference == pytest.approx(
        log_prob_of(task, reference_on_tokens(task), sampled), abs=1e-12
    )
    keys = {(p, *t.tolist()): row for row, (p, t) in enumerate(zip(exact.prompt, exact.tokens, strict=True))}
    rows = [keys[p, *t.tolist()] for p, t in zip(sampled.prompt, sampled.tokens, strict=True)]
    seen, weight = np.bincount(rows, minlength=len(exact)), exact.weights(task)

    def too_far(weight: FloatArray) -> bool:
        often = count * weight >= 5
        found = float(((seen - count * weight) ** 2 / (count * weight))[often].sum())
        return found > often.sum() + 4 * np.sqrt(2 * often.sum())

    assert not too_far(weight)
    assert too_far(weight**1.2 / (weight**1.2).sum())  # a broken twin that samples at another temperature


def test_pre_training_comes_within_one_in_a_hundred_of_the_entropy_rate_exactly() -> None:
    training = TrainingConfig(updates=250, batch_size=128, learning_rate=1e-2)
    lm, trained = pretrain(FLATTERY, SMALL, training)
    every = enumerate_completions(FLATTERY)
    weight = every.weights(FLATTERY)
    surprise = -(weight @ log_prob_of(FLATTERY, lm, every)) / (weight @ every.length)
    floor = entropy_rate(FLATTERY)
    assert floor <= surprise < 1.01 * floor
    assert trained.held_out is not None
    assert trained.held_out == pytest.approx(surprise, rel=0.03)
    untrained = -(weight @ log_prob_of(FLATTERY, fresh_lm(FLATTERY, SMALL, 0), every)) / (
        weight @ every.length
    )
    assert untrained > 1.05 * floor


def test_given_texts_are_learned_and_their_own_statistics_alone() -> None:
    texts = sample_completions(FLATTERY, reference_on_tokens(FLATTERY), 1_000, np.random.default_rng(0))
    short = texts[texts.length <= 2]
    lm, _ = pretrain(FLATTERY, SMALL, TrainingConfig(updates=150, learning_rate=1e-2), texts=short)
    found = evaluate_tokens(TokenModel(FLATTERY, compose(FLATTERY, "gold")), lm)
    assert found.length < 2.2
    with pytest.raises(ValueError, match="there are 1 texts"):
        pretrain(FLATTERY, SMALL, TrainingConfig(), texts=short[:1])


def test_the_same_seed_gives_the_same_model() -> None:
    short = TrainingConfig(updates=5)
    models = [pretrain(FLATTERY, SMALL, TrainingConfig(updates=5, seed=seed))[0] for seed in (0, 0, 1)]
    weights = [one.network.head.weight for one in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert short.seed == 0


def test_it_comes_back_from_its_file_as_it_was_and_serves_as_a_reward(tmp_path: Path) -> None:
    lm, _ = pretrain(FLATTERY, SMALL, TrainingConfig(updates=20))
    lm.save(tmp_path / "model")
    loaded = TokenLM.load(tmp_path / "model", FLATTERY)
    every = enumerate_completions(FLATTERY)
    assert (log_prob_of(FLATTERY, loaded, every) == log_prob_of(FLATTERY, lm, every)).all()
    assert dict(loaded.about) == dict(lm.about)
    source = LogProbSource("fluency", loaded.log_probs, FLATTERY.vocabulary)
    some = every[::97]
    assert some.scores(FLATTERY, [source])["fluency"] == pytest.approx(
        log_prob_of(FLATTERY, lm, some), abs=1e-5
    )
    with pytest.raises(ForeignTextError, match="was trained for tokens"):
        TokenLM.load(tmp_path / "model", find_task("Keyword"))
    with pytest.raises(ForeignTextError, match="was trained for horizon = 5"):
        TokenLM.load(tmp_path / "model", find_task("Flattery", 4))
    write_tensors(tmp_path / "other", {"a": np.zeros(1)}, {"kind": "reward-model"})
    with pytest.raises(DamagedFileError, match="holds a reward-model, no lm"):
        TokenLM.load(tmp_path / "other")
    (tmp_path / "model").write_bytes(b"no")
    with pytest.raises(DamagedFileError, match="torn or no safetensors"):
        TokenLM.load(tmp_path / "model")


@pytest.mark.slow
def test_a_bigrams_entropy_rate_is_come_near_too() -> None:
    lexicon = find_task("Lexicon")
    _, trained = pretrain(lexicon, LMConfig(width=32), TrainingConfig(updates=500, learning_rate=5e-3))
    floor = entropy_rate(lexicon)
    assert trained.held_out is not None
    assert 0.99 * floor < trained.held_out < 1.01 * floor
