"""``tokenwalk evaluate`` and ``tokenwalk envs``: exact figures, played episodes, stored completions."""

import json
from pathlib import Path

import pytest

from tokenwalk.agents.runs.checkpoint import read_json
from tokenwalk.agents.study.commands.envs import list_environments
from tokenwalk.agents.study.commands.evaluate import evaluate_run
from tokenwalk.agents.training.train_agent import train


@pytest.fixture(scope="module")
def flattery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of the exact optimum of Flattery: gold 2.5."""
    run = tmp_path_factory.mktemp("runs") / "exact"
    train("exact", "Flattery", run_dir=run)
    return run


def test_the_evaluation_of_a_run_repeats_its_summary(flattery: Path) -> None:
    report, summary = evaluate_run(flattery), read_json(flattery / "summary.json")
    for name in ("agent", "env", "steps", "return", "gold", "kl", "normalized_score", "exact"):
        assert report[name] == pytest.approx(summary[name]), name
    assert (report["gold"], report["normalized_score"], report["exact"]) == (2.5, 1.0, True)
    assert report["estimate"] is None
    assert not {"stored", "best_of"} & set(report)


def test_played_episodes_of_the_optimum_all_earn_its_return(flattery: Path, tmp_path: Path) -> None:
    report = evaluate_run(flattery, episodes=7, trajectories=tmp_path / "played.jsonl")
    assert report["estimate"] == {"episodes": 7, "return": 2.5, "interval": (2.5, 2.5)}
    rows = [json.loads(line) for line in (tmp_path / "played.jsonl").read_text().splitlines()]
    assert [sum(row["gold"]) for row in rows] == [2.5] * 7


def test_trajectories_alone_play_200_episodes(flattery: Path, tmp_path: Path) -> None:
    assert evaluate_run(flattery, trajectories=tmp_path / "played.jsonl")["estimate"]["episodes"] == 200


def test_stored_completions_are_scored_by_each_named_reward(flattery: Path) -> None:
    stored = evaluate_run(flattery, reward=["gold", "proxy"])["stored"]
    assert list(stored) == ["gold", "proxy"]
    assert stored["gold"]["mean"] == 2.5
    assert (stored["gold"]["low"], stored["gold"]["high"]) == (2.5, 2.5)


def test_the_best_of_n_of_the_optimum_is_the_optimum(flattery: Path) -> None:
    best = evaluate_run(flattery, best_of=4)["best_of"]
    assert best["n"] == 4
    assert best["exact"]["gold"] == pytest.approx(2.5)


def test_impossible_requests_are_refused_with_the_reason(flattery: Path, tmp_path: Path) -> None:
    train("random", "CounterWalk", run_dir=tmp_path / "walk")
    with pytest.raises(ValueError, match="episodes is 0: give 1 or more"):
        evaluate_run(flattery, episodes=0)
    with pytest.raises(ValueError, match="is no token task, so it has no completions for best-of-n"):
        evaluate_run(tmp_path / "walk", best_of=2)
    with pytest.raises(ValueError, match="is no run of a token task, so it has no completions to score"):
        evaluate_run(tmp_path / "walk", reward=["gold"])


def test_each_environment_is_listed_with_its_exact_returns() -> None:
    rows = {row["env"]: row for row in list_environments()}
    walk, flattery = rows["tokenwalk/CounterWalk-v0"], rows["tokenwalk/Flattery-v0"]
    assert (walk["observation"], walk["action"], walk["horizon"]) == ("Discrete(3)", "Discrete(2)", 100)
    assert walk["optimal_return"] == pytest.approx(0.0, abs=1e-12)
    assert (flattery["horizon"], flattery["discount"], flattery["optimal_return"]) == (5, 1.0, 2.5)
    assert all(row["exact"] for row in rows.values())
