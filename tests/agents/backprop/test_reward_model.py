"""Learned rewards against their exact answers: the convex optimum, gold itself, the value of the sampling policy."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import tokenwalk  # noqa: F401 - registers the ids
from tokenwalk.agents.backprop.configs import RewardModelConfig, TrainingConfig, default_training
from tokenwalk.agents.backprop.datasets import Data, RewardDataset
from tokenwalk.agents.backprop.preferences import Preferences
from tokenwalk.agents.backprop.reward_model import RewardModel, reference_completions, train_reward_model
from tokenwalk.agents.backprop.scorers import (
    ForeignTextError,
    LinearScorer,
    TextShape,
    TransformerScorer,
    build_scorer,
)
from tokenwalk.agents.exact.dynamic_programming import evaluate_policy
from tokenwalk.agents.exact.evaluation import reference_policy
from tokenwalk.agents.exact_tokens.as_machine import unfolded
from tokenwalk.agents.exact_tokens.completions import (
    concatenate,
    enumerate_completions,
    log_prob_of,
    sample_completions,
)
from tokenwalk.agents.exact_tokens.encode import encode_completion
from tokenwalk.agents.exact_tokens.proxy_agreement import (
    correlation,
    gold_of_argmax,
    mean_and_std,
    pair_accuracy,
)
from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
from tokenwalk.agents.runs.checkpoint import DamagedFileError, DamagedFileWarning
from tokenwalk.envs.rewards.builders import token_weights
from tokenwalk.envs.rewards.source import TokenBatch, score_strictly, score_tokens
from tokenwalk.envs.tasks import Task, find_task
from tokenwalk.envs.token_model import TokenModel, compose

FLATTERY = find_task("Flattery")
QUICK = TrainingConfig(updates=300, batch_size=256, learning_rate=2e-2)


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return train_reward_model(
        RewardDataset(FLATTERY, RewardModelConfig()), default_training(RewardModelConfig())
    )[0]


@given(st.integers(0, 1_000))
@settings(max_examples=10)
def test_the_linear_score_is_the_sum_of_what_each_token_and_each_pair_weighs(seed: int) -> None:
    rng, shape = np.random.default_rng(seed), TextShape(("a", "b", "<eos>"), 2, 4)
    scorer = LinearScorer(shape)
    with torch.no_grad():
        for one in scorer.parameters():
            one.copy_(torch.as_tensor(rng.normal(size=one.shape)))
    single, double = (one.detach().numpy() for one in (scorer.alone, scorer.following))
    prompt, completion = rng.integers(0, 4, (5, 2)), rng.integers(0, 3, (5, 4))
    length = rng.integers(0, 5, 5)
    found = scorer(shape.ids(prompt, completion), torch.as_tensor(length)).detach().numpy()
    for row in range(5):
        tokens = [int(prompt[row, -1]), *completion[row, : length[row]].tolist()]
        by_hand = sum(single[b] + double[a * 4 + b] for a, b in pairwise(tokens))
        assert found[row] == pytest.approx(by_hand, abs=1e-5)


def test_what_comes_after_the_last_token_changes_no_score() -> None:
    shape = TextShape(("a", "b", "<eos>"), 1, 5)
    torch.manual_seed(0)
    for scorer in (TransformerScorer(shape, 16, 2), LinearScorer(shape)):
        prompt, length = np.zeros((2, 1), int), torch.tensor([2, 2])
        completion = np.array([[0, 1, 3, 3, 3], [0, 1, 1, 0, 2]])
        scores = scorer(shape.ids(prompt, completion), length)
        assert scores[0].item() == pytest.approx(scores[1].item(), abs=1e-6)
        other = scorer(shape.ids(prompt[:1], np.array([[0, 0, 3, 3, 3]])), torch.tensor([2]))
        assert isinstance(scorer, LinearScorer) or abs(other.item() - scores[0].item()) > 1e-4


def test_bradley_terry_on_a_linear_scorer_comes_to_the_optimum_of_its_convex_loss() -> None:
    dataset, shape = (
        RewardDataset(FLATTERY, RewardModelConfig(pairs=400, temperature=1.0)),
        TextShape.of(FLATTERY),
    )
    data = Data.of(dataset, shape, 0, held_out=False)
    scorer = LinearScorer(shape)
    rows = torch.arange(len(data))

    def loss(flat: Any) -> tuple[float, Any]:
        torch.nn.utils.vector_to_parameters(torch.as_tensor(flat, dtype=torch.float32), scorer.parameters())
        scorer.zero_grad()
        value = data.loss(scorer, rows, "preferences") + 1e-3 * sum(
            (one**2).sum() for one in scorer.parameters()
        )
        value.backward()
        gradient = torch.cat([one.grad.ravel() for one in scorer.parameters() if one.grad is not None])
        return value.item(), gradient.double().numpy()

    size = sum(one.numel() for one in scorer.parameters())
    best = minimize(loss, np.zeros(size), jac=True, method="L-BFGS-B").fun
    torch.nn.utils.vector_to_parameters(torch.zeros(size), scorer.parameters())
    optimizer = torch.optim.Adam(scorer.parameters(), lr=0.05)
    for _ in range(400):  # ours, on the same loss
        optimizer.zero_grad()
        (
            data.loss(scorer, rows, "preferences") + 1e-3 * sum((one**2).sum() for one in scorer.parameters())
        ).backward()
        optimizer.step()
    flat = torch.nn.utils.parameters_to_vector(scorer.parameters()).detach().double().numpy()
    assert loss(flat)[0] == pytest.approx(best, abs=2e-3)
    assert loss(np.zeros(size))[0] == pytest.approx(np.log(2), abs=1e-6)


def test_clean_preferences_give_a_reward_that_orders_texts_as_gold_does(model: RewardModel) -> None:
    every = enumerate_completions(FLATTERY)
    weight = every.weights(FLATTERY)
    gold = every.scores(FLATTERY, [FLATTERY.sources["gold"]])["gold"]
    proxy = model.score(every.batch(FLATTERY))
    out = RewardDataset(FLATTERY, RewardModelConfig()).split.held_out(every)
    accuracy = pair_accuracy(every.prompt[out], weight[out], gold[out], proxy[out])
    assert accuracy is not None
    assert accuracy > 0.99
    assert gold_of_argmax(every.prompt, weight, gold, proxy) == pytest.approx(2.5)
    found = correlation(weight, gold, proxy)
    assert found is not None
    assert found > 0.97


def test_it_has_golds_mean_and_standard_deviation_under_the_reference_exactly_and_states_its_range(
    model: RewardModel,
) -> None:
    every = enumerate_completions(FLATTERY)
    weight = every.weights(FLATTERY)
    gold = every.scores(FLATTERY, [FLATTERY.sources["gold"]])["gold"]
    scores = model.score(every.batch(FLATTERY))
    assert mean_and_std(weight, scores) == pytest.approx(mean_and_std(weight, gold), abs=1e-9)
    assert model.low < scores.min() < scores.max() < model.high
    assert model.high - model.low < 1.01 * np.ptp(scores)


def test_a_biased_annotator_gives_a_reward_with_the_same_bias() -> None:
    praise = (("great", 1.2), ("wonderful", 1.2))
    dataset = RewardDataset(FLATTERY, RewardModelConfig(spurious=praise))
    learned, _ = train_reward_model(dataset, QUICK)
    every = enumerate_completions(FLATTERY)
    gold = every.scores(FLATTERY, [FLATTERY.sources["gold"]])["gold"]
    proxy = learned.score(every.batch(FLATTERY))
    assert gold_of_argmax(every.prompt, every.weights(FLATTERY), gold, proxy) == pytest.approx(-2.5)
    with pytest.raises(ValueError, match="spurious names 'grea'"):
        train_reward_model(RewardDataset(FLATTERY, RewardModelConfig(spurious=(("grea", 1.0),))), QUICK)


def test_regression_finds_gold_itself_because_gold_is_linear_in_what_the_scorer_counts() -> None:
    learned, trained = train_reward_model(
        RewardDataset(FLATTERY, RewardModelConfig(objective="regression")),
        default_training(RewardModelConfig()),
    )
    every = enumerate_completions(FLATTERY)
    gold = every.scores(FLATTERY, [FLATTERY.sources["gold"]])["gold"]
    assert learned.score(every.batch(FLATTERY)) == pytest.approx(gold, abs=0.05)
    assert trained[0].held_out is not None
    assert trained[0].held_out < 1e-3


def test_a_model_of_values_comes_to_the_exact_value_of_the_sampling_policy() -> None:
    config = RewardModelConfig(objective="value", scorer="transformer", pairs=3_000, width=32)
    training = TrainingConfig(updates=400, batch_size=256, learning_rate=3e-3)
    learned, _ = train_reward_model(RewardDataset(FLATTERY, config), training)
    model = TokenModel(FLATTERY, compose(FLATTERY, "gold"))
    mdp = model.tabular_mdp()
    exact = evaluate_policy(mdp, reference_policy(mdp), {"gold": 1.0}, discount=1.0)
    words = {"": 0, "because": 1, "evidence": 2}
    state = int(mdp.start.argmax())
    states = {
        "": state,
        **{
            word: int(mdp.next_state[state, number, 0])
            for word, number in zip(words, (None, 0, 1), strict=True)
            if number is not None
        },
    }
    for word, where in states.items():
        ids = FLATTERY.vocabulary.encode(word)
        completion = np.full((1, 5), 6)
        completion[0, : len(ids)] = ids
        batch = TokenBatch(np.zeros((1, 0), int), completion, np.array([len(ids)]), np.zeros(1, bool))
        assert learned.value(batch)[0] == pytest.approx(exact[len(ids), where], abs=0.08), word


def test_the_minimum_of_an_ensemble_is_that_of_its_standardized_members() -> None:
    config = RewardModelConfig(pairs=200, members=3, combine="min")
    learned, trained = train_reward_model(RewardDataset(FLATTERY, config), QUICK)
    every = enumerate_completions(FLATTERY).batch(FLATTERY)
    ensemble = learned.ensemble
    raw = (ensemble.raw(every) - ensemble.calibration[:, :1]) / ensemble.calibration[:, 1:]
    assert ensemble(every) == pytest.approx(raw.min(axis=0))
    assert len(trained) == len(ensemble.members) == 3
    assert np.ptp(raw, axis=0).max() > 0.1  # each is trained on its own pairs


def test_the_same_seed_gives_the_same_reward_and_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    every = enumerate_completions(FLATTERY).batch(FLATTERY)
    config = RewardModelConfig(scorer="transformer", width=16, pairs=100)
    short = TrainingConfig(updates=20)
    first, again = (train_reward_model(RewardDataset(FLATTERY, config), short)[0] for _ in range(2))
    other = train_reward_model(RewardDataset(FLATTERY, config, seed=1), short)[0]
    assert (first.score(every) == again.score(every)).all()
    assert (first.score(every) != other.score(every)).any()
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_saved_comes_back_as_it_was_and_serves_as_a_reward(
    model: RewardModel, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    loaded = RewardModel.load(path)
    every = enumerate_completions(FLATTERY).batch(FLATTERY)
    assert (loaded.score(every) == model.score(every)).all()
    assert (loaded.low, loaded.high, loaded.about) == (model.low, model.high, model.about)
    env = gym.make("tokenwalk/Flattery-v0", reward=loaded)
    env.reset(seed=0)
    env.step(3)
    _, reward, _, _, info = env.step(FLATTERY.vocabulary.eos)
    great = every[
        [row for row, text in enumerate(enumerate_completions(FLATTERY).texts(FLATTERY)) if text == "great"]
    ]  # type: ignore[index]
    assert reward == pytest.approx(model.score(great)[0], abs=1e-5)
    assert info["gold"] == 0.0


def test_the_reward_is_the_same_alone_in_a_batch_and_as_a_machine(model: RewardModel) -> None:
    every = enumerate_completions(FLATTERY)
    batch = every.batch(FLATTERY)
    together = score_strictly(model, batch, FLATTERY.vocabulary)
    alone = np.array(
        [score_strictly(model, batch[[row]], FLATTERY.vocabulary)[0] for row in range(0, 3_906, 97)]
    )  # type: ignore[index]
    assert alone == pytest.approx(together[::97], abs=1e-5)
    machine = unfolded(model, FLATTERY)
    rewards = score_tokens([machine], batch.prompt, batch.completion, batch.length, FLATTERY.vocabulary)[
        machine.name
    ]
    assert rewards.sum(axis=1) == pytest.approx(together, abs=1e-5)


def test_texts_of_another_vocabulary_or_length_are_refused(model: RewardModel) -> None:
    for task, what in ((find_task("Keyword"), "tokens"), (find_task("Flattery", 6), "horizon")):
        with pytest.raises(ForeignTextError, match=f"was trained for {what} ="):
            model.ensemble.shape.check_task(task)
    short = TokenBatch(np.zeros((1, 0), int), np.full((1, 4), 6), np.zeros(1, int), np.ones(1, bool))
    with pytest.raises(ForeignTextError, match="the model was trained for"):
        model.score(short)
    strange = TokenBatch(np.zeros((1, 0), int), np.full((1, 5), 9), np.full(1, 5), np.ones(1, bool))
    with pytest.raises(ForeignTextError, match="token 9 is out of range"):
        model.score(strange)


def test_damaged_and_foreign_files_are_refused_by_name(model: RewardModel, tmp_path: Path) -> None:
    from tokenwalk.agents.runs.tensors import write_tensors

    path = tmp_path / "model.safetensors"
    model.save(path)
    whole = path.read_bytes()
    for data in (whole[:100], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"not at all"):
        path.write_bytes(data)
        with pytest.raises(DamagedFileError, match=r"model\.safetensors"):
            RewardModel.load(path)
    write_tensors(tmp_path / "other", {"weight": np.zeros(2)}, {"agent": "ppo"})
    with pytest.raises(DamagedFileError, match="holds a model of an agent, no reward-model"):
        RewardModel.load(tmp_path / "other")
    write_tensors(tmp_path / "odd", {"weight": np.zeros(2)}, {"kind": "reward-model"})
    with pytest.raises(DamagedFileError, match="does not fit this version"):
        RewardModel.load(tmp_path / "odd")
    with pytest.raises(FileNotFoundError):
        RewardModel.load(tmp_path / "absent")
    model.save(path)  # over a damaged one: the damaged one is kept as the one before
    assert RewardModel.load(path).about == model.about


def test_the_newest_sound_file_is_used(model: RewardModel, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    model.save(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.warns(DamagedFileWarning, match="the file before it is used"):
        assert RewardModel.load(path).about == model.about


def test_constant_gold_is_refused() -> None:
    with pytest.raises(ValueError, match="all have the score 0: there is nothing to learn"):
        train_reward_model(RewardDataset(find_task("Password"), RewardModelConfig(pairs=100)), QUICK)


def test_given_preferences_are_learned_from() -> None:
    texts = [("because evidence", "great"), ("because", "great great"), ("evidence", "wonderful")] * 20
    sides = [concatenate([encode_completion(FLATTERY, 0, pair[side]) for pair in texts]) for side in (0, 1)]
    dataset = RewardDataset(FLATTERY, RewardModelConfig(pairs=60), preferences=Preferences(*sides))
    learned, _ = train_reward_model(dataset, QUICK)
    both = concatenate([encode_completion(FLATTERY, 0, text) for text in ("because", "great")]).batch(
        FLATTERY
    )
    good, bad = learned.score(both)
    assert good > bad
    assert dataset.irreducible_loss() is None


def test_no_held_out_loss_is_expected_below_the_labels_own_entropy(model: RewardModel) -> None:
    dataset = RewardDataset(FLATTERY, RewardModelConfig(pairs=5_000))
    lowest = dataset.irreducible_loss()
    assert lowest is not None
    _, completions = dataset.sample(0, True, dataset.held_out_pairs)
    score = dataset.annotator_score(completions)
    probability = 1 / (1 + np.exp(-(score[0::2] - score[1::2]) / 0.25))
    entropy = -(probability * np.log(probability) + (1 - probability) * np.log(1 - probability + 1e-300))
    assert lowest == pytest.approx(np.nan_to_num(entropy).mean(), abs=1e-6)
    data = Data.of(dataset, TextShape.of(FLATTERY), 0, held_out=True)
    loss = data.whole_loss(model.ensemble.members[0], "preferences")
    standard_error = 0.6 / len(data) ** 0.5  # of the mean of n log losses
    assert loss > lowest - 4 * standard_error


def test_where_it_cannot_be_enumerated_it_is_scaled_by_samples_and_states_no_range() -> None:
    task: Task = find_task("Keyword")
    learned, _ = train_reward_model(
        RewardDataset(task, RewardModelConfig(objective="regression", pairs=500)), QUICK
    )
    completions, weight, exact = reference_completions(task)
    assert not exact
    gold = completions.scores(task, [task.sources["gold"]])["gold"]
    assert mean_and_std(weight, learned.score(completions.batch(task))) == pytest.approx(
        mean_and_std(weight, gold), abs=1e-9
    )
    assert (learned.low, learned.high) == (-np.inf, np.inf)


def test_prompts_are_held_out_whole() -> None:
    task = find_task("Arithmetic")
    dataset = RewardDataset(
        task, RewardModelConfig(objective="regression", scorer="transformer", width=16, pairs=200)
    )
    _, seen = dataset.sample(0, False, 200)
    _, fresh = dataset.sample(0, True, 100)
    assert set(seen.prompt.tolist()) & set(fresh.prompt.tolist()) == set()


def test_a_transformers_log_probability_is_a_reward() -> None:
    from tokenwalk.agents.exact_tokens.token_policy import reference_on_tokens
    from tokenwalk.envs.rewards.log_prob import LogProbSource

    every = enumerate_completions(FLATTERY)
    policy = reference_on_tokens(FLATTERY)
    source = LogProbSource("fluency", policy.log_probs, FLATTERY.vocabulary)
    assert every.scores(FLATTERY, [source])["fluency"] == pytest.approx(log_prob_of(FLATTERY, policy, every))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "gold"}, "objective is 'gold': give one of preferences, regression, value"),
        ({"temperature": 0.0}, "temperature is 0.0: give a finite number above 0"),
        ({"pairs": 0}, "pairs is 0"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"members": True}, "members is True"),
        ({"combine": "max"}, "combine is 'max': give mean or min"),
    ],
)
def test_a_field_out_of_range_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardModelConfig(**fields)


def prompted_task() -> Task:
    """Return a task with prompts whose last token changes the score of what follows it."""
    task = find_task("Arithmetic")
    return replace(task, gold=token_weights(np.linspace(-1, 1, task.vocabulary.size)))


@pytest.mark.parametrize(
    ("task", "config"),
    [
        (FLATTERY, RewardModelConfig()),
        (FLATTERY, RewardModelConfig(members=3, pairs=300)),
        (prompted_task(), RewardModelConfig(pairs=300)),
        (find_task("LengthBias"), RewardModelConfig()),
    ],
)
def test_a_linear_reward_is_a_machine_at_any_length(task: Task, config: RewardModelConfig) -> None:
    learned, _ = train_reward_model(RewardDataset(task, config), replace(QUICK, updates=50))
    machine = learned.as_machine(task.vocabulary, task.horizon, task.prompt_ids)
    assert machine is not None
    assert machine.machine.n_states <= 2 * (task.vocabulary.size + 1)
    texts = sample_completions(task, reference_on_tokens(task), 200, np.random.default_rng(0))
    assert texts.scores(task, [machine])["reward-model"] == pytest.approx(
        texts.scores(task, [learned])["reward-model"], abs=1e-5
    )


def test_the_minimum_of_several_and_a_transformer_are_no_machine() -> None:
    for config in (
        RewardModelConfig(members=2, combine="min", pairs=100),
        RewardModelConfig(scorer="transformer", width=16, n_layers=1, pairs=100),
    ):
        learned, _ = train_reward_model(RewardDataset(FLATTERY, config), replace(QUICK, updates=5))
        assert learned.as_machine(FLATTERY.vocabulary, FLATTERY.horizon, FLATTERY.prompt_ids) is None


def test_the_members_of_an_ensemble_have_their_own_seeds_and_their_own_data() -> None:
    config = RewardModelConfig(scorer="transformer", width=16, members=3, pairs=50)
    dataset, shape = RewardDataset(FLATTERY, config, seed=4), TextShape.of(FLATTERY)
    frozen = TrainingConfig(updates=1, learning_rate=1e-12)
    learned, _ = train_reward_model(dataset, frozen)
    for number, member in enumerate(learned.ensemble.members):
        fresh = build_scorer("transformer", shape, 16, config.n_layers, seed=4 + number)
        for found, expected in zip(member.parameters(), fresh.parameters(), strict=True):
            assert torch.allclose(found, expected, atol=1e-6)
    first, second = (Data.of(dataset, shape, number, held_out=False).ids for number in (0, 1))
    assert not torch.equal(first, second)


def test_members_are_standardized_by_their_moments_under_the_reference_policy() -> None:
    config = RewardModelConfig(members=2, pairs=200)
    learned, _ = train_reward_model(RewardDataset(FLATTERY, config), replace(QUICK, updates=50))
    every = enumerate_completions(FLATTERY)
    raw = learned.ensemble.raw(every.batch(FLATTERY))
    exact = np.array([mean_and_std(every.weights(FLATTERY), one) for one in raw])
    assert learned.ensemble.calibration == pytest.approx(exact, abs=1e-9)
    texts = sample_completions(FLATTERY, reference_on_tokens(FLATTERY), 400, np.random.default_rng(0))
    sampled = learned.ensemble.raw(texts.batch(FLATTERY))
    of_a_sample = np.array([[one.mean(), one.std()] for one in sampled])
    assert np.abs(of_a_sample - exact).max() > 1e-3  # 400 samples err by about std / 20
