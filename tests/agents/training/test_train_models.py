"""A learned reward from the command line: its run, its figures, and what agents do with it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tokenwalk.agents.backprop.configs import RewardModelConfig, TokenAutoencoderConfig, TrainingConfig
from tokenwalk.agents.backprop.descent import NonFiniteLossError
from tokenwalk.agents.backprop.scorers import ForeignTextError
from tokenwalk.agents.evaluation.goodhart import goodhart_report
from tokenwalk.agents.evaluation.solve import solve_problem
from tokenwalk.agents.exact_tokens.token_evaluation import evaluate_tokens
from tokenwalk.agents.problem.problem import open_problem
from tokenwalk.agents.problem.saved_models import load_learned, load_model
from tokenwalk.agents.runs.checkpoint import DamagedFileError
from tokenwalk.agents.study.commands.evaluate import evaluate_run
from tokenwalk.agents.training.model_run import ModelRequest
from tokenwalk.agents.training.train_agent import resume, train
from tokenwalk.agents.training.train_autoencoder import train_autoencoder_run
from tokenwalk.agents.training.train_reward_model import evaluate_model, mixed_policy, train_reward_model_run
from tokenwalk.envs.tasks import find_task
from tokenwalk.envs.token_model import TokenModel, compose

PRAISE = (("great", 1.2), ("wonderful", 1.2))
QUICK = TrainingConfig(updates=300, batch_size=256, learning_rate=2e-2)


@pytest.fixture(scope="module")
def praised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a reward model whose annotator likes praise."""
    folder = tmp_path_factory.mktemp("runs") / "praised"
    train_reward_model_run(
        ModelRequest("Flattery", run_dir=folder), RewardModelConfig(spurious=PRAISE), QUICK
    )
    return folder


def test_a_run_of_a_reward_model_says_how_it_agrees_with_gold(praised: Path) -> None:
    summary = json.loads((praised / "summary.json").read_text())
    assert {"accuracy", "correlation", "worst_exploit", "gold_of_argmax", "pairs", "temperature"} <= set(
        summary
    )
    assert summary["worst_exploit"]["gold"] == -2.5
    assert summary["worst_exploit"]["proxy"] > 2
    assert summary["gold_of_argmax"] == pytest.approx(-2.5)
    assert 0.5 < summary["accuracy"] < 0.65
    assert (summary["pairs"], summary["temperature"], summary["exact"]) == (2_000, 0.25, True)
    again = evaluate_model(praised)
    assert {key: again[key] for key in ("accuracy", "worst_exploit")} == {
        key: summary[key] for key in ("accuracy", "worst_exploit")
    }
    assert {"config.json", "metrics.csv", "model.safetensors", "optimum"} <= {
        path.name for path in praised.iterdir()
    }


def test_q_learning_on_it_generates_praise_and_the_run_outlives_the_models_folder(
    praised: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(praised, model)
    summary = train(
        "q-learning", "Flattery", steps=20_000, runs=2, reward=[str(model)], run_dir=tmp_path / "run"
    )
    assert summary["gold"] == pytest.approx(-2.5)
    assert summary["proxy"] == pytest.approx(3.5)
    shutil.rmtree(model)
    report = evaluate_run(tmp_path / "run", reward=["gold"])
    assert report["return"] == pytest.approx(summary["return"])
    assert report["stored"]["gold"]["mean"] == pytest.approx(-2.5)


def test_as_a_potential_it_moves_nothing_and_is_exact_where_the_tree_is_small(praised: Path) -> None:
    problem = open_problem("Flattery", shaping=[str(praised)])
    assert solve_problem(problem).report["shaping"]["unchanged"]
    bonus = solve_problem(open_problem("Flattery"), bonus=[str(praised)]).report["shaping"]
    assert not bonus["unchanged"]


def test_the_exact_rise_and_fall_of_a_learned_reward_is_drawn_as_a_proxys_is(praised: Path) -> None:
    report = goodhart_report("Flattery", [str(praised)])
    assert report["gold"][-1] < -1
    assert 0.3 < report["peak"]["gold"] < 1.0
    assert report["peak"]["kl"] < report["kl"][-1]


def test_an_autoencoder_says_its_errors_and_guards_a_proxy(tmp_path: Path) -> None:
    training = TrainingConfig(updates=1_000, batch_size=256)
    summary = train_autoencoder_run(
        ModelRequest("Flattery", run_dir=tmp_path / "ae"), TokenAutoencoderConfig(), training
    )
    assert 0 < summary["reconstruction_error"] < summary["error_without_code"]
    assert summary["reference_error"] == pytest.approx(summary["reconstruction_error"], abs=0.05)
    assert evaluate_model(tmp_path / "ae")["reference_error"] == pytest.approx(summary["reference_error"])
    guarded = solve_problem(open_problem("Flattery", reward=["proxy", f"{tmp_path / 'ae'}=-1"])).report
    assert guarded["gold"] > 0.4 > solve_problem(open_problem("Flattery", reward=["proxy"])).report["gold"]


@pytest.mark.slow
def test_an_autoencoder_that_lets_everything_through_says_that_its_bonus_is_noise(tmp_path: Path) -> None:
    training = TrainingConfig(updates=2_000, batch_size=256, learning_rate=3e-3)
    wide = TokenAutoencoderConfig(bottleneck=40)
    summary = train_autoencoder_run(ModelRequest("Flattery", run_dir=tmp_path / "wide"), wide, training)
    assert "is mostly noise; a narrower --bottleneck tells more" in summary["note"]


def test_a_model_for_another_task_is_refused(praised: Path) -> None:
    with pytest.raises(ForeignTextError, match="was trained for tokens"):
        load_learned(praised, find_task("Keyword"))
    with pytest.raises(ForeignTextError, match="was trained for horizon = 5, Flattery has 7"):
        open_problem("Flattery", {"horizon": 7}, reward=[str(praised)])


def test_a_run_that_is_no_learned_reward_or_lost_its_file_is_refused(praised: Path, tmp_path: Path) -> None:
    train("random", "Flattery", run_dir=tmp_path / "random")
    with pytest.raises(ValueError, match="is a run of random, which says nothing of a text"):
        open_problem("Flattery", reward=[str(tmp_path / "random")])
    shutil.copytree(praised, tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"")
    with pytest.raises(DamagedFileError, match="torn or no safetensors file"):
        load_model(tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").unlink()
    with pytest.raises(DamagedFileError, match="is missing"):
        load_model(tmp_path / "copy")
    with pytest.raises(ValueError, match="cannot go on"):
        resume(praised)


def test_a_loss_that_overflows_keeps_the_last_good_model_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenwalk.agents.backprop.datasets import Data

    whole, calls = Data.loss, 0

    def breaks(self: Data, *given: object) -> object:
        nonlocal calls
        calls += 1
        return whole(self, *given) * (float("nan") if calls > 160 else 1.0)  # type: ignore[arg-type]

    monkeypatch.setattr(Data, "loss", breaks)
    config = TrainingConfig(updates=300, batch_size=64, learning_rate=2e-2, evaluate_every=50)
    with pytest.raises(NonFiniteLossError, match=r"at update \d+: .*they are in"):
        train_reward_model_run(
            ModelRequest("Flattery", run_dir=tmp_path / "run"), RewardModelConfig(pairs=200), config
        )
    monkeypatch.undo()
    figures = evaluate_model(tmp_path / "run")
    assert figures["accuracy"] > 0.9  # what it had learned by then


def test_the_mixed_writer_is_rewarded_now_and_then_where_the_reference_never_is() -> None:
    task = find_task("Password")
    found = evaluate_tokens(TokenModel(task, compose(task, "gold")), mixed_policy(task))
    assert found.gold == pytest.approx((0.5 + 0.5 / 9) ** 7)


@pytest.mark.slow
def test_a_potential_trained_on_mixed_texts_makes_password_easy(tmp_path: Path) -> None:
    config = RewardModelConfig(objective="value", scorer="transformer")
    train_reward_model_run(ModelRequest("Password", "mixed", run_dir=tmp_path / "value"), config)
    from tokenwalk.agents.tabular.config import QLearningConfig

    plain = QLearningConfig(discount=1.0, step_size=1.0, epsilon=0.1)
    results = [
        train(
            "q-learning",
            "Password",
            steps=8_000,
            shaping=shaping,
            config=plain,
            run_dir=tmp_path / name,
            runs=1,
        )["gold"]
        for name, shaping in (("shaped", [str(tmp_path / "value")]), ("bare", []))
    ]
    assert results[0] == 1.0
    assert results[1] < 1e-6


def test_a_trained_reward_is_learned_from_where_the_task_is_too_large_to_list(tmp_path: Path) -> None:
    for scorer, listed in (
        ("transformer", False),
        ("linear", True),
    ):  # the linear one is a machine at any length
        config = RewardModelConfig(objective="regression", pairs=1_000, scorer=scorer, width=16, n_layers=1)  # type: ignore[arg-type]
        summary = train_reward_model_run(ModelRequest("Keyword", run_dir=tmp_path / scorer), config, QUICK)
        assert not summary["exact"]
        problem = open_problem("Keyword", reward=[str(tmp_path / scorer)])
        assert (problem.mdp is not None) == listed
        assert problem.lines.optimal_return == pytest.approx(5.0)
    reward = [str(tmp_path / "transformer")]
    found = train("ppo", "Keyword", steps=2_048, reward=reward, run_dir=tmp_path / "run")
    assert np.isfinite(found["return"])
