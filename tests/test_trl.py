"""TRL's GRPOTrainer trains on our sources: each is logged by its name, and the weighted sum is optimized."""

import ast
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import blocks

from tokenwalk.envs.tasks import find_task
from tokenwalk.envs.trl import reward_funcs


def test_each_source_is_a_function_under_its_own_name_and_what_is_not_trained_on_has_weight_zero() -> None:
    found = reward_funcs("Flattery", [("gold", 1.0), ("proxy", 0.5)])
    assert [one.__name__ for one in found.functions] == ["gold", "proxy"]
    assert found.weights == [1.0, 0.5]
    shown = reward_funcs("LengthBias", "proxy")
    assert [one.__name__ for one in shown.functions] == ["proxy", "gold"]
    assert shown.weights == [1.0, 0.0]


def test_texts_get_the_rewards_of_the_environment() -> None:
    gold, proxy = reward_funcs("Flattery", ["gold", "proxy"]).functions
    texts = [
        "because evidence therefore",
        "great great",
        "",
        "because because because because evidence evidence",
    ]
    assert gold([""] * 4, texts) == pytest.approx([1.5, -1.0, 0.0, 1.0])  # of the last, five tokens
    assert proxy(["anything"] * 4, texts)[1] == pytest.approx(1.4)
    said = [[{"role": "assistant", "content": f"{text} <eos>"}] for text in texts[:3]]
    assert gold([[{"role": "user", "content": "argue"}]] * 3, said) == pytest.approx([1.5, -1.0, 0.0])


def test_where_there_are_prompts_the_one_that_a_text_ends_with_is_meant() -> None:
    gold, *_ = reward_funcs("Arithmetic").functions
    assert gold(["What is 3+4=", "9+9="], ["7", "18"], answer=[7, 18]) == [1.0, 1.0]
    assert gold(["3+4="], ["8"]) == [0.0]
    with pytest.raises(ValueError, match="'three' ends with no prompt of Arithmetic, which has '0\\+0='"):
        gold(["three"], ["7"])
    with pytest.raises(ValueError, match="'x', number 1 of 'x', is not in the vocabulary"):
        gold(["3+4="], ["x"])


def test_a_completion_that_ends_early_is_finished_and_one_of_the_whole_horizon_is_scored_by_it() -> None:
    gold, *_ = reward_funcs("Delayed").functions
    assert gold([""], ["d"]) == [1.0]
    assert gold([""], ["d" + "a" * (find_task("Delayed").horizon - 1)]) == pytest.approx([1.19])


@pytest.mark.slow
def test_trl_takes_two_steps_with_every_source_logged_by_name(
    install_beside: Callable[..., Path], tmp_path: Path
) -> None:
    python = install_beside("trl", "trl", "torch")
    (shown,) = (block.text for block in blocks("docs/how-to.md") if block.options == "trl")
    (tmp_path / "shown.py").write_text(shown)
    offline = {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    said = subprocess.check_output([python, "shown.py"], cwd=tmp_path, env=offline, text=True).splitlines()
    steps = [ast.literal_eval(line) for line in said if line.startswith("{'reward")]
    assert len(steps) == 2
    for row in steps:
        total = row["rewards/gold/mean"] + 0.5 * row["rewards/proxy/mean"]
        assert row["reward"] == pytest.approx(total, abs=1e-5)
