"""A language model as an agent of ``tokenwalk train``: where it begins, what it says of itself, what it keeps."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tokenwalk.agents.backprop.configs import LMConfig, TrainingConfig
from tokenwalk.agents.backprop.descent import NonFiniteLossError
from tokenwalk.agents.backprop.lm import TokenLM
from tokenwalk.agents.exact_tokens.token_evaluation import evaluate_tokens
from tokenwalk.agents.learners.language import best_by_gold, find_device
from tokenwalk.agents.policy_gradient import trainer
from tokenwalk.agents.policy_gradient.config import AGENTS, FineTuningConfig, PolicyGradientConfig
from tokenwalk.agents.runs.tracking import read_metrics
from tokenwalk.agents.study.commands.evaluate import evaluate_run
from tokenwalk.agents.training.model_run import ModelRequest
from tokenwalk.agents.training.train_agent import resume, train
from tokenwalk.agents.training.train_lm import read_source, train_lm_run
from tokenwalk.envs.tasks import find_task
from tokenwalk.envs.token_model import TokenModel, compose

TINY: dict[str, Any] = {"n_layers": 1, "n_heads": 2, "width": 16}
REWARD = {"groups": 8, "group_size": 8, "evaluate_every": 5}


def config(agent: str, **fields: Any) -> Any:
    if agent == "sft":
        return FineTuningConfig(**{**TINY, "texts": 300, **fields})
    return PolicyGradientConfig(**{**TINY, **REWARD, **fields})


def run(tmp_path: Path, agent: str = "rloo", env: str = "Flattery", **how: Any) -> dict[str, Any]:
    how = {"steps": 3_000, "config": config(agent), "run_dir": tmp_path / "run", **how}
    return train(agent, env, **how)


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_trains_says_what_is_left_after_the_kl_and_is_evaluated_the_same(
    agent: str, tmp_path: Path
) -> None:
    summary = run(tmp_path, agent)
    assert summary["exact"]
    assert summary["regularized_return"] == pytest.approx(summary["return"] - 0.1 * summary["kl"])
    assert summary["regularized_return"] < summary["optimal_regularized"] == pytest.approx(1.87778005)
    assert summary["gold"] > summary["reference_return"]
    again = evaluate_run(tmp_path / "run")
    for key in ("return", "gold", "proxy", "kl", "regularized_return", "optimal_regularized"):
        assert again[key] == summary[key]
    with pytest.raises(ValueError, match=f"a run of {agent}, which cannot go on"):
        resume(tmp_path / "run")


def test_its_curves_begin_at_the_reference_policy_and_hold_exact_looks_and_samples(tmp_path: Path) -> None:
    run(tmp_path)
    rows = read_metrics(tmp_path / "run")
    first = {tag: value for step, _, tag, value in rows if step == 0}
    assert first["eval/kl"] == pytest.approx(0.0, abs=1e-6)
    assert first["eval/gold"] == pytest.approx(0.1012662528, abs=1e-6)
    assert first["eval/regret"] == pytest.approx(1.87778005 - 0.1012662528, abs=1e-6)
    regret = [value for _, _, tag, value in rows if tag == "eval/regret"]
    assert regret[-1] < regret[0]
    assert {value for _, _, tag, value in rows if tag == "eval/exact"} == {1.0}
    tags = {tag for _, _, tag, _ in rows}
    assert tags >= {
        "eval/entropy",
        "eval/proxy",
        "train/kl",
        "train/dead_groups",
        "reward/gold",
        "reward/proxy",
    }
    events = next((tmp_path / "run").glob("events*")).read_bytes()
    assert b"samples" in events


def test_a_task_that_is_too_large_is_estimated_and_says_so(tmp_path: Path) -> None:
    summary = run(tmp_path, env="Keyword")
    assert not summary["exact"]
    assert summary["interval"][0] < summary["return"] < summary["interval"][1]
    assert summary["optimal_regularized"] > summary["regularized_return"]


def test_steps_of_none_leave_the_model_that_it_begins_with(tmp_path: Path) -> None:
    summary = run(tmp_path, steps=0)
    assert summary["kl"] == pytest.approx(0.0, abs=1e-6)
    assert summary["gold"] == pytest.approx(summary["reference_return"], abs=1e-6)


def pretrained(tmp_path: Path, task: str) -> Path:
    source = read_source(task, None, "characters", None)
    how = TrainingConfig(updates=60, batch_size=64, learning_rate=3e-3)
    train_lm_run(ModelRequest(task, run_dir=tmp_path / "lm"), source, LMConfig(**TINY, texts=500), how)
    return tmp_path / "lm"


def test_a_given_model_is_where_it_begins_and_the_kl_may_be_to_that(tmp_path: Path) -> None:
    start = pretrained(tmp_path, "Flattery")
    lm = TokenLM.load(start / "model.safetensors", find_task("Flattery"))
    model = TokenModel(find_task("Flattery"), compose(find_task("Flattery"), "gold"))
    given = config("rloo", model=str(start), kl_to="model")
    nothing = run(tmp_path, steps=0, config=given)
    assert nothing["kl"] == pytest.approx(0.0, abs=1e-9)
    assert nothing["gold"] == pytest.approx(evaluate_tokens(model, lm).gold)
    moved = run(tmp_path, config=given, run_dir=tmp_path / "moved")
    trained = TokenLM.load(tmp_path / "moved" / "model.safetensors", find_task("Flattery"))
    expected = evaluate_tokens(model, trained, kl_coef=0.1, reference=lm)
    assert moved["kl"] == pytest.approx(expected.kl)
    assert moved["optimal_regularized"] == pytest.approx(expected.optimum)
    assert evaluate_run(tmp_path / "moved")["kl"] == moved["kl"]
    assert evaluate_tokens(model, trained).kl != pytest.approx(moved["kl"], rel=1e-3)  # to the task's own


def test_a_reference_that_looks_back_is_learned_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenwalk.agents.learners import language as language_learner

    short = TrainingConfig(updates=150, batch_size=64, learning_rate=3e-3)
    monkeypatch.setattr(language_learner, "default_training", lambda config, seed: short)
    summary = run(tmp_path, env="Lexicon", steps=0)
    fresh = math.log(28) * 24  # about what a model that knows nothing would be off
    assert 0 < summary["kl"] < 0.1 * fresh


def test_fine_tuning_learns_from_texts_that_are_good_by_gold(tmp_path: Path) -> None:
    task = find_task("LengthBias")
    best = best_by_gold(task, 0.1)
    found = evaluate_tokens(TokenModel(task, compose(task, "gold")), best, kl_coef=0.1)
    assert found.regret == pytest.approx(0.0, abs=1e-9)
    summary = run(tmp_path, "sft", steps=60_000, config=config("sft", texts=2_000, learning_rate=1e-2))
    assert summary["regularized_return"] > 1.5


def test_the_weight_of_a_reward_component_can_change_while_it_learns(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def brevity(text):\n    return 1.0 - len(text) / 60\n")
    run(tmp_path, reward=["gold", f"{tmp_path / 'mine.py'}:brevity=1..3"])
    rows = read_metrics(tmp_path / "run")
    weights = [value for _, _, tag, value in rows if tag == "reward/brevity/weight"]
    assert weights[0] == 1.0
    assert weights[-1] == pytest.approx(3.0)
    late = {tag: value for _, _, tag, value in rows if tag.startswith("reward/brevity")}
    assert late["reward/brevity/weighted"] > 2 * late["reward/brevity"]


@pytest.mark.parametrize(
    ("agent", "env", "how", "message"),
    [
        ("rloo", "CounterWalk", {}, "rloo generates tokens and tokenwalk/CounterWalk-v0 is no token task"),
        ("rloo", "Flattery", {"env_args": {"observation": "machine"}}, "rloo reads tokens"),
        (
            "sft",
            "Flattery",
            {"reward": ["proxy"]},
            "sft learns texts that are good by gold, whatever the training reward is",
        ),
        ("grpo", "Flattery", {"config": config("grpo", group_size=1)}, "group_size is 1: grpo compares"),
        (
            "ppo-lm",
            "Flattery",
            {"config": config("rloo", device="cuda:7")},
            "device is 'cuda:7', which is not there",
        ),
        ("ppo-lm", "Flattery", {"config": config("rloo", device="gpu")}, "device is 'gpu': give one of cpu"),
        ("rloo", "Flattery", {"config": config("rloo", model="nowhere")}, "nowhere is no folder"),
        ("rloo", "Flattery", {"runs": 2}, "rloo trains one run at a time and was asked for 2"),
        ("rlo", "Flattery", {}, "no agent is called 'rlo': did you mean rloo"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    agent: str, env: str, how: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, agent, env, **how)
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_vocabulary_or_of_no_language_is_refused(tmp_path: Path) -> None:
    start = pretrained(tmp_path, "Keyword")
    with pytest.raises(ValueError, match=r"the model was trained for tokens = .*Flattery has"):
        run(tmp_path, config=config("rloo", model=str(start)))
    train("random", "Flattery", run_dir=tmp_path / "chance")
    with pytest.raises(ValueError, match="is a run of random, which holds no language model"):
        run(tmp_path, config=config("rloo", model=str(tmp_path / "chance")))


def test_ctrl_c_keeps_what_was_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = trainer.PolicyGradient.update

    def stopped(self: trainer.PolicyGradient, rollout: trainer.Rollout) -> dict[str, float]:
        if self.updates == 3:
            raise KeyboardInterrupt
        return update(self, rollout)

    monkeypatch.setattr(trainer.PolicyGradient, "update", stopped)
    summary = run(tmp_path)
    assert summary["interrupted"]
    assert 0 < summary["steps"] < 3_000
    assert evaluate_run(tmp_path / "run")["gold"] == summary["gold"]


def test_a_loss_that_is_not_finite_names_update_and_batch_and_keeps_the_last_good_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewards = trainer.PolicyGradient.rewards

    def broken(self: trainer.PolicyGradient, rollout: trainer.Rollout) -> torch.Tensor:
        return rewards(self, rollout) * (math.nan if self.updates == 7 else 1.0)

    monkeypatch.setattr(trainer.PolicyGradient, "rewards", broken)
    with pytest.raises(
        NonFiniteLossError, match=r"at update 8, of 64 completions, the first .*they are in .*run"
    ):
        run(tmp_path)
    kept = TokenLM.load(tmp_path / "run" / "model.safetensors", find_task("Flattery"))
    assert all(one.isfinite().all() for one in kept.network.parameters())


def test_a_device_is_found_by_its_name() -> None:
    assert find_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="device is ''"):
        find_device("")
