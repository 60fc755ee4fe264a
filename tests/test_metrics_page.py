"""docs/metrics.md defines every tag that a run logs."""

import re
from pathlib import Path
from typing import Any

import pytest

from tokenwalk.agents.backprop.configs import LMConfig, RewardModelConfig, TrainingConfig
from tokenwalk.agents.learners import language as language_learner
from tokenwalk.agents.policy_gradient.config import FineTuningConfig, PolicyGradientConfig
from tokenwalk.agents.runs.tracking import read_metrics
from tokenwalk.agents.training.model_run import ModelRequest
from tokenwalk.agents.training.train_agent import train
from tokenwalk.agents.training.train_lm import read_source, train_lm_run
from tokenwalk.agents.training.train_reward_model import train_reward_model_run

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
DEFINED = set(re.findall(r"`([a-z]+/[A-Za-z_/]+)`", PAGE))


def test_every_tag_of_every_kind_of_run_is_defined_and_every_defined_one_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small: dict[str, Any] = {"n_layers": 1, "n_heads": 2, "width": 16}
    quick = TrainingConfig(updates=4, evaluate_every=2)
    train("q-learning", "CounterWalk", steps=400, run_dir=tmp_path / "q")
    for agent in ("ppo", "a2c", "dqn"):
        train(agent, "CounterWalk", steps=2_000, run_dir=tmp_path / agent)
    config = PolicyGradientConfig(**small, groups=4, group_size=4)
    (tmp_path / "mine.py").write_text("def brevity(text):\n    return 1.0 - len(text) / 60\n")
    mixed = ["gold", f"{tmp_path / 'mine.py'}:brevity=1..2"]
    train("rloo", "Flattery", steps=600, config=config, reward=mixed, run_dir=tmp_path / "rloo")
    train(
        "sft", "Flattery", steps=2_000, config=FineTuningConfig(**small, texts=100), run_dir=tmp_path / "sft"
    )
    monkeypatch.setattr(language_learner, "default_training", lambda config, seed: quick)
    train("rloo", "Lexicon", steps=0, config=config, run_dir=tmp_path / "lexicon")
    source = read_source("Flattery", None, "characters", None)
    train_lm_run(
        ModelRequest("Flattery", run_dir=tmp_path / "lm"), source, LMConfig(**small, texts=50), quick
    )
    train_reward_model_run(
        ModelRequest("Flattery", run_dir=tmp_path / "rm"), RewardModelConfig(pairs=50), quick
    )
    logged = {
        re.sub(r"^reward/(brevity|gold|proxy)", "reward/NAME", tag)
        for run in tmp_path.iterdir()
        if run.is_dir()
        for _, _, tag, _ in read_metrics(run)
    }
    assert logged == DEFINED
