"""``import tokenwalk`` is the front door: its names, what they take, and what it says of a wrong one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import tokenwalk
from tokenwalk.agents.api.moved import MOVED, where_is

ROOT = Path(__file__).resolve().parents[3]


def test_every_public_name_is_there_and_the_lists_agree() -> None:
    assert set(tokenwalk._DOOR) | {"register"} == set(tokenwalk.__all__)
    assert [name for name in tokenwalk.__all__ if not hasattr(tokenwalk, name)] == []
    assert dir(tokenwalk) == sorted([*tokenwalk.__all__, "__version__"])


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match="no attribute 'solv': did you mean solve"):
        tokenwalk.solv  # noqa: B018
    with pytest.raises(AttributeError, match="it offers solve, evaluate"):
        tokenwalk.xyzzy  # noqa: B018


@pytest.mark.parametrize("old", ["tokenwalk.agents.study.training", "tokenwalk.envs.lanes"])
def test_an_old_import_path_says_where_the_module_is_now(old: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", f"import {old}"], capture_output=True, text=True, check=False
    )
    assert f"{old} is now {where_is(old)}" in result.stderr


def test_every_module_that_moved_is_where_the_table_says() -> None:
    places = [ROOT / (new.replace(".", "/") + ".py") for new in MOVED.values()]
    assert [str(place) for place in places if not place.exists() and not place.with_suffix("").is_dir()] == []
    assert [old for old in MOVED if (ROOT / (old.replace(".", "/") + ".py")).exists()] == []


def test_an_id_an_environment_and_tables_are_solved_alike() -> None:
    mdp = tokenwalk.tabular_mdp("Flattery")
    by_id, by_env = tokenwalk.solve("Flattery"), tokenwalk.solve(gym.make("tokenwalk/Flattery-v0"))
    assert by_id.start_value(mdp) == by_env.start_value(mdp) == tokenwalk.solve(mdp).start_value(mdp) == 2.5
    # V(0) of the counter-walk at discount 0.9 is 10/19 without its time limit.
    walk = tokenwalk.tabular_mdp("CounterWalk").without_time_limit()
    assert tokenwalk.solve(walk, discount=0.9).value[0] == pytest.approx([10 / 19, -10 / 19, 10 / 19])


def test_a_function_is_a_reward_at_every_door() -> None:
    env = gym.make("tokenwalk/Flattery-v0", reward=lambda text: float(len(text)))
    env.reset(seed=0)
    rewards = [float(env.step(0)[1]) for _ in range(5)]
    assert rewards == [0, 0, 0, 0, len("because because because because because")]
    tables = tokenwalk.tabular_mdp("Flattery", reward=praise)
    assert tokenwalk.solve("Flattery", reward=praise).start_value(tables) == 5.0  # five tokens, each "great"


def test_a_policy_on_tables_is_evaluated_and_a_wrong_argument_is_named(tmp_path: Path) -> None:
    uniform = np.full((3, 2), 0.5)
    found = tokenwalk.evaluate("CounterWalk", uniform.tolist())
    reference = tokenwalk.evaluate("CounterWalk")
    assert not isinstance(found, dict)
    assert not isinstance(reference, dict)
    assert found.returns["gold"] == reference.returns["gold"] == pytest.approx(-33.1, abs=0.1)
    with pytest.raises(ValueError, match="episodes"):
        tokenwalk.evaluate("CounterWalk", episodes=3)
    with pytest.raises(ValueError, match="give an id such as 'Flattery'"):
        tokenwalk.solve(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="holds no run"):
        tokenwalk.evaluate(tmp_path)


@pytest.mark.parametrize(
    "how", [{"config": {"epsilon": 0.5}}, {"epsilon": 0.5}, {"epsilon": np.float64(0.5)}]
)
def test_settings_come_as_keywords_or_as_a_mapping(how: dict[str, Any], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    summary = tokenwalk.train("q-learning", "CounterWalk", steps=np.int64(2_000), run_dir=run_dir, **how)
    run = tokenwalk.load_run(run_dir)
    assert run.config["config"]["epsilon"] == 0.5
    assert run.summary["normalized_score"] == summary["normalized_score"] == 1.0
    assert tokenwalk.evaluate(run_dir)["return"] == summary["return"]  # type: ignore[index]
    assert run.metrics[0][0] == 0
    assert tokenwalk.solve(run_dir).start_value(tokenwalk.tabular_mdp(run_dir)) == 0.0


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"epsilom": 0.5}, "no setting 'epsilom': did you mean epsilon"),
        ({"config": 3}, "config is int: q-learning takes a QLearningConfig"),
        ({"epsilon": 2.0}, "epsilon is 2.0"),
        ({"steps": 0.5}, "steps is 0.5"),
        ({"agent": "q-lerning"}, "did you mean q-learning"),
    ],
)
def test_what_training_cannot_take_is_named(how: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments = {"agent": "q-learning", "env": "CounterWalk", "run_dir": tmp_path / "run", **how}
    with pytest.raises(ValueError, match=message):
        tokenwalk.train(**arguments)
    assert not (tmp_path / "run").exists()


def praise(text: str) -> float:
    """Return how often "great" is said."""
    return float(text.count("great"))


def brevity(text: str) -> float:
    """Return more for a shorter text."""
    return 1.0 - len(text) / 60


def test_a_run_trained_on_a_function_says_how_it_can_be_opened_again(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    summary = tokenwalk.train("q-learning", "Flattery", steps=2_000, reward=(brevity, 2.0), run_dir=run_dir)
    assert summary["return"] == pytest.approx(2.0)  # the empty text
    with pytest.raises(ValueError, match="put the function into a file and name it"):
        tokenwalk.evaluate(run_dir)


def test_a_custom_task_gets_an_id() -> None:
    task = tokenwalk.Task(
        "Ab", tokenwalk.Vocabulary.of_characters("ab"), 3, tokenwalk.token_weights([1.0, 0.0, 0.0])
    )
    env_id = tokenwalk.register("Ab-v0", task)
    assert env_id == tokenwalk.register("Ab-v0", task) == "tokenwalk/Ab-v0"
    assert tokenwalk.solve("Ab").start_value(tokenwalk.tabular_mdp("Ab")) == 3.0
    with pytest.raises(ValueError, match="with its version"):
        tokenwalk.register("Ab", task)
    gym.registry.pop(env_id)
