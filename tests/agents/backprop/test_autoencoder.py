"""The token autoencoder: its error, its bottleneck, and what it does as a bonus, a penalty and a potential."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokenwalk.agents.backprop.autoencoder import (
    Reconstruction,
    ReconstructionError,
    TokenAutoencoder,
    error_without_code,
    read_texts,
    train_autoencoder,
)
from tokenwalk.agents.backprop.configs import TokenAutoencoderConfig, TrainingConfig, default_training
from tokenwalk.agents.backprop.preferences import PreferenceDataError
from tokenwalk.agents.backprop.reward_model import reference_completions
from tokenwalk.agents.backprop.scorers import TextShape
from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.exact.evaluation import evaluate
from tokenwalk.agents.exact.invariance import compare_optima
from tokenwalk.agents.exact_tokens.as_machine import unfolded
from tokenwalk.agents.exact_tokens.completions import concatenate, enumerate_completions
from tokenwalk.agents.exact_tokens.encode import encode_completion
from tokenwalk.agents.exact_tokens.proxy_agreement import mean_and_std
from tokenwalk.agents.runs.checkpoint import DamagedFileError
from tokenwalk.envs.rewards.potentials import shape
from tokenwalk.envs.rewards.source import TokenBatch
from tokenwalk.envs.tasks import find_task
from tokenwalk.envs.token_model import TokenModel, compose

FLATTERY = find_task("Flattery")
QUICK = TrainingConfig(updates=300, batch_size=256, learning_rate=3e-3)


@pytest.fixture(scope="module")
def trained() -> Reconstruction:
    config = TokenAutoencoderConfig()
    return train_autoencoder(FLATTERY, config, default_training(config))[0]


def test_the_error_is_the_mean_surprise_of_a_texts_own_tokens() -> None:
    form = TextShape(("a", "b", "<eos>"), 0, 4)
    torch.manual_seed(0)
    network = TokenAutoencoder(form, TokenAutoencoderConfig(bottleneck=2, embedding=3, width=5))
    completion = np.array([[0, 1, 2, 3], [1, 1, 0, 0]])
    ids = form.ids(np.zeros((2, 0), int), completion)
    errors = network.token_errors(ids, ids).detach()
    logits = network(ids).detach().log_softmax(dim=2)
    assert logits.shape == (2, 4, 3)
    for row, length in ((0, 3), (1, 4)):
        for time in range(4):
            expected = -logits[row, time, completion[row, time]].item() if time < length else 0.0
            assert errors[row, time].item() == pytest.approx(expected, abs=1e-6)
    # A broken twin in which padding is in the loss would learn to predict padding.
    assert errors[0, 3] == 0.0


def test_the_error_of_a_constant_code_is_the_entropy_of_each_position() -> None:
    every, weight, exact = reference_completions(FLATTERY)
    assert exact
    probability = np.array([0.30, 0.22, 0.22, 0.06, 0.04, 0.16])
    entropy = -(probability @ np.log(probability))  # the reference's tokens are independent
    assert error_without_code(FLATTERY, every, weight) == pytest.approx(entropy, abs=1e-12)


def test_a_narrow_bottleneck_lies_between_nothing_and_the_identity() -> None:
    every, weight, _ = reference_completions(FLATTERY)
    worst = error_without_code(FLATTERY, every, weight)
    errors = [
        train_autoencoder(FLATTERY, TokenAutoencoderConfig(bottleneck=size), replace(QUICK, updates=600))[
            1
        ].held_out
        for size in (1, 2, 8)
    ]
    assert all(one is not None for one in errors)
    assert worst > errors[0] > errors[1] > errors[2] > 0  # type: ignore[operator]
    assert errors[2] < 0.35 * worst  # type: ignore[operator]


def test_it_has_mean_0_and_standard_deviation_1_under_the_reference(trained: Reconstruction) -> None:
    every, weight, _ = reference_completions(FLATTERY)
    scores = trained.score(every.batch(FLATTERY))
    assert mean_and_std(weight, scores) == pytest.approx((0.0, 1.0), abs=1e-9)
    assert trained.low < scores.min() < scores.max() < trained.high


def test_it_is_surprised_by_praise_and_as_a_penalty_keeps_the_proxys_optimum_honest(
    trained: Reconstruction,
) -> None:
    every = enumerate_completions(FLATTERY)
    scores = trained.score(every.batch(FLATTERY))
    texts = every.texts(FLATTERY)
    praise = np.array([text.count("great") + text.count("wonderful") for text in texts])
    assert scores[praise >= 4].mean() > 2 + scores[praise == 0].mean()
    source, gold = unfolded(trained, FLATTERY), []
    for weight in (0.0, -1.0):
        mdp = TokenModel(FLATTERY, compose(FLATTERY, ["proxy", (source, weight)])).tabular_mdp()
        best = solve(mdp, {"proxy": 1.0, trained.name: weight}, discount=1.0)
        gold.append(evaluate(mdp, best.policy).returns["gold"])
    assert gold[0] == pytest.approx(-2.5)
    assert gold[1] > 1.0


def test_a_bonus_moves_the_optimum_and_the_same_error_as_a_potential_does_not(
    trained: Reconstruction,
) -> None:
    source = unfolded(trained, FLATTERY)
    mdp = TokenModel(FLATTERY, compose(FLATTERY, ["gold", (source, 1.0)])).tabular_mdp()
    bonus = compare_optima(mdp, {"gold": 1.0}, {trained.name: 1.0}, discount=1.0)
    shaping = unfolded(shape(trained, FLATTERY), FLATTERY)
    shaped = TokenModel(FLATTERY, compose(FLATTERY, "gold", shaping=shaping)).tabular_mdp()
    potential = compare_optima(shaped, {"gold": 1.0}, {"shaping": 1.0}, discount=1.0)
    assert not bonus.unchanged
    assert bonus.gold_lost > 0.5
    assert potential.unchanged


def test_it_knows_unfinished_texts_too_and_a_text_of_no_token_has_no_error(trained: Reconstruction) -> None:
    batch = TokenBatch(
        np.zeros((2, 0), int), np.array([[6] * 5, [0, 1, 6, 6, 6]]), np.array([0, 2]), np.zeros(2, bool)
    )
    errors = trained.scorer(batch)
    assert errors[0] == 0.0
    assert errors[1] < error_without_code(FLATTERY, *reference_completions(FLATTERY)[:2])


def test_denoising_and_another_seed_are_other_trainings_and_the_same_seed_is_the_same() -> None:
    every = enumerate_completions(FLATTERY).batch(FLATTERY)
    short = replace(QUICK, updates=30)
    before = torch.get_rng_state()
    first, again, noisy, other = (
        train_autoencoder(FLATTERY, TokenAutoencoderConfig(noise=noise), replace(short, seed=seed))[0].score(
            every
        )
        for noise, seed in ((0.0, 0), (0.0, 0), (0.3, 0), (0.0, 1))
    )
    assert (first == again).all()
    assert (first != noisy).any()
    assert (first != other).any()
    assert torch.equal(before, torch.get_rng_state())


def test_a_text_file_is_learned_from(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("because evidence\ntherefore great great great great great\n\n" * 20)
    texts = read_texts(path, FLATTERY)
    assert texts.texts(FLATTERY)[:3] == ["because evidence", "therefore great great great great", ""]
    model, trained = train_autoencoder(
        FLATTERY, TokenAutoencoderConfig(), replace(QUICK, updates=200), texts=texts
    )
    assert trained.held_out is not None
    assert trained.held_out < 0.2  # three texts, all memorized
    every = enumerate_completions(FLATTERY)
    scores = dict(zip(every.texts(FLATTERY), model.score(every.batch(FLATTERY)), strict=True))
    assert scores["because evidence"] < scores["wonderful evidence because"]


@pytest.mark.parametrize(
    ("text", "task", "message"),
    [
        ("", "Flattery", "is empty"),
        ("because\nof\n", "Flattery", r"line 2: 'of', number 1 of 'of', is not in the vocabulary"),
        ("1\n", "Arithmetic", "has 100 prompts"),
    ],
)
def test_a_bad_text_is_refused_with_its_line(tmp_path: Path, text: str, task: str, message: str) -> None:
    (tmp_path / "lines.txt").write_text(text)
    with pytest.raises(PreferenceDataError, match=message):
        read_texts(tmp_path / "lines.txt", find_task(task))
    with pytest.raises(PreferenceDataError, match="there is no file"):
        read_texts(tmp_path / "none.txt", FLATTERY)


def test_what_is_saved_comes_back_as_it_was(trained: Reconstruction, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    trained.save(path)
    loaded = Reconstruction.load(path)
    every = enumerate_completions(FLATTERY).batch(FLATTERY)
    assert (loaded.score(every) == trained.score(every)).all()
    assert (loaded.low, loaded.high, loaded.about) == (trained.low, trained.high, trained.about)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DamagedFileError, match=r"model\.safetensors"):
        Reconstruction.load(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bottleneck": 0}, "bottleneck is 0, a code of no numbers"),
        ({"bottleneck": -1}, "bottleneck is -1: give an integer of 1 or more"),
        ({"noise": 1.0}, "noise is 1.0: give a finite number of 0 or more and below 1"),
        ({"texts": 0}, "texts is 0"),
        ({"held_out": 0.0}, "held_out is 0.0"),
    ],
)
def test_a_field_out_of_range_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenAutoencoderConfig(**fields)


FROZEN = TrainingConfig(updates=1, batch_size=10_000, learning_rate=1e-12)


def fresh_network(config: TokenAutoencoderConfig) -> TokenAutoencoder:
    """Return the network before its first update."""
    torch.manual_seed(0)
    return TokenAutoencoder(TextShape.of(FLATTERY), config)


def test_a_texts_error_is_divided_by_its_own_length() -> None:
    network = fresh_network(TokenAutoencoderConfig())
    completion, length = np.array([[0, 1, 5, 6, 6], [3, 3, 3, 3, 3], [5, 6, 6, 6, 6]]), np.array([3, 5, 1])
    ids = network.shape.ids(np.zeros((3, 0), int), completion)
    logs = network(ids).log_softmax(dim=2).detach().numpy()
    batch = TokenBatch(np.zeros((3, 0), int), completion, length, np.ones(3, bool))
    for row, error in enumerate(ReconstructionError(network)(batch)):
        own = [-logs[row, time, completion[row, time]] for time in range(length[row])]
        assert error == pytest.approx(np.mean(own), rel=1e-5)


def test_the_losses_are_means_over_tokens_without_padding() -> None:
    config = TokenAutoencoderConfig(held_out=0.5)
    pair = [encode_completion(FLATTERY, 0, text) for text in ("", "because evidence")]
    texts = concatenate([pair[0], pair[0], pair[0], pair[1]])  # rows 0 and 2 are trained on, 1 and 3 held out
    _, trained = train_autoencoder(FLATTERY, config, FROZEN, texts=texts)
    network = fresh_network(config)
    ids = network.shape.ids(np.zeros((4, 0), int), texts.tokens)
    errors = network.token_errors(ids, ids).detach().double()
    assert trained.loss == pytest.approx(float(errors[0, 0]), rel=1e-5)  # one token each: <eos>
    assert trained.held_out == pytest.approx(float(errors[1].sum() + errors[3].sum()) / (1 + 3), rel=1e-5)


def test_noise_is_in_what_is_read_and_not_in_the_target() -> None:
    config, count, size = TokenAutoencoderConfig(noise=0.999), 8_000, FLATTERY.vocabulary.size
    texts = concatenate([encode_completion(FLATTERY, 0, "")] * count)
    _, trained = train_autoencoder(FLATTERY, config, FROZEN, texts=texts)
    network = fresh_network(config)
    read = np.full((size, FLATTERY.horizon), FLATTERY.vocabulary.pad)
    read[:, 0] = np.arange(size)  # noise replaces the only token by each of the others alike
    logs = (
        network(network.shape.ids(np.zeros((size, 0), int), read)).log_softmax(dim=2)[:, 0].detach().numpy()
    )
    expected, of_noise = -logs[:, FLATTERY.vocabulary.eos], -np.diagonal(logs)
    standard_error = max(expected.std() / (0.8 * count) ** 0.5, 1e-4)
    assert trained.loss == pytest.approx(expected.mean(), abs=5 * standard_error)
    assert abs(of_noise.mean() - expected.mean()) > 20 * standard_error
