"""The command line as a person and as a program meet it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokenwalk.scripts.main import COMMANDS, main

SUMMARY = (
    "agent env steps seconds return gold proxy optimal_return reference_return normalized_score exact".split()
)
ROOT = Path(__file__).parents[2]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run ``tokenwalk`` in this process: exit code, stdout, stderr."""
    try:
        code = main(words)
    except SystemExit as exit_:  # tyro exits on argument errors and --help
        code = int(exit_.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_without_words_it_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert code == 0
    assert all(f"\n  {command}" in out for command in COMMANDS)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "usage: tokenwalk" in out


def test_envs_prints_every_environment_as_json_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "envs", "--json")
    rows = {row["env"]: row for row in json.loads(out)["envs"]}
    assert code == 0
    assert rows["tokenwalk/CounterWalk-v0"]["optimal_return"] == pytest.approx(0, abs=1e-12)
    assert rows["tokenwalk/CounterWalkLong-v0"]["horizon"] == 1000


def test_solve_prints_both_objectives_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "solve", "CounterWalk", "--json", "--out", str(tmp_path / "walk.npz"))
    report = json.loads(out)
    assert code == 0
    assert report["optimal_value"] == pytest.approx(10 / 19)
    assert report["optimal_return"] == pytest.approx(0, abs=1e-12)
    assert (tmp_path / "walk.npz").exists()
    assert "optimal_value" in run(capsys, "solve", "CounterWalk", "--env-arg", "slip=0.1")[1]


@pytest.mark.parametrize(
    "agent", ["q-learning", "sarsa", "expected-sarsa", "double-q", "soft-q", "exact", "random"]
)
def test_train_then_evaluate_agree_and_write_a_whole_run_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, agent: str
) -> None:
    folder = tmp_path / "run"
    code, out, _ = run(
        capsys, "train", agent, "CounterWalk", "--steps", "3000", "--run-dir", str(folder), "--json"
    )
    summary = json.loads(out)
    assert code == 0
    assert set(SUMMARY) <= set(summary)
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert {"config.json", "metrics.csv", "optimum", "reference"} <= {path.name for path in folder.iterdir()}
    code, out, _ = run(capsys, "evaluate", str(folder), "--json")
    assert code == 0
    assert json.loads(out)["return"] == pytest.approx(summary["return"], abs=1e-12)
    score = summary["normalized_score"]
    assert score == pytest.approx(0, abs=1e-9) if agent == "random" else score > 0.5


def test_a_resumed_run_equals_an_uninterrupted_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, steps in (("whole", "4000"), ("half", "2000")):
        run(
            capsys,
            "train",
            "q-learning",
            "FrozenLake",
            "--steps",
            steps,
            "--run-dir",
            str(tmp_path / name),
            "--runs",
            "2",
        )
    code, out, _ = run(
        capsys,
        "train",
        "q-learning",
        "FrozenLake",
        "--resume",
        str(tmp_path / "half"),
        "--steps",
        "2000",
        "--json",
    )
    assert code == 0
    assert json.loads(out)["steps"] == 4000
    whole = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert json.loads(out)["return"] == whole["return"]


def test_trajectories_hold_the_rewards_of_the_estimate(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run(capsys, "train", "exact", "CounterWalk", "--run-dir", str(tmp_path / "run"))
    file = tmp_path / "episodes.jsonl"
    code, out, _ = run(
        capsys, "evaluate", str(tmp_path / "run"), "--episodes", "5", "--trajectories", str(file), "--json"
    )
    report = json.loads(out)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert code == 0
    assert len(rows) == report["estimate"]["episodes"] == 5
    assert sum(sum(row["gold"]) for row in rows) / 5 == pytest.approx(report["estimate"]["return"])
    assert report["exact"] is True


def test_an_environment_without_tables_has_an_estimate_that_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(
        capsys,
        "train",
        "q-learning",
        "Blackjack",
        "--steps",
        "2000",
        "--run-dir",
        str(tmp_path / "run"),
        "--json",
    )
    summary = json.loads(out)
    assert code == 0
    assert summary["exact"] is False
    assert summary["interval"][0] < summary["return"] < summary["interval"][1]
    assert summary["optimal_return"] is None
    assert "no tables" in summary["note"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["slove"], "did you mean solve"),
        (["solve", "CountrWalk"], "did you mean CounterWalk"),
        (["train", "q-lerning", "CounterWalk"], "did you mean q-learning"),
        (["train", "q-learning", "CountWalk"], "did you mean CounterWalk"),
        (["train", "q-learning", "CounterWalk", "--steps", "-1"], "steps is -1"),
        (["train", "q-learning", "CounterWalk", "--seed", "-3"], "seed is -3"),
        (["train", "q-learning", "CounterWalk", "--run-dir", "."], "exists"),
        (["train", "q-learning", "CounterWalk", "--run-dir", "/dev/null/run"], "cannot be written"),
        (["train", "q-learning", "CartPole"], "cannot take the observations"),
        (["train", "exact", "Blackjack"], "cannot solve"),
        (["train", "q-learning", "CounterWalk", "--env-arg", "n_states"], "key=value"),
        (["train", "q-learning", "CounterWalk", "--resume", "nowhere"], "is no folder"),
        (["evaluate", "nowhere"], "is no folder"),
        (["solve", "CounterWalk", "--discount", "2"], "discount is 2"),
    ],
)
def test_a_users_mistake_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("tokenwalk: ")
    assert err.count("\n") == 1


def test_a_seed_that_is_no_integer_is_refused_with_the_option_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = run(capsys, "train", "q-learning", "CounterWalk", "--seed", "many")
    assert code == 2
    assert "--seed" in err
    assert "Traceback" not in err


def test_a_damaged_model_or_config_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(capsys, "train", "q-learning", "CounterWalk", "--steps", "100", "--run-dir", str(folder))
    (folder / "agent.npz").write_bytes((folder / "agent.npz").read_bytes()[:-7])
    code, _, err = run(capsys, "evaluate", str(folder))
    assert code == 2
    assert "agent.npz is damaged" in err
    (folder / "config.json").write_text("{")
    code, _, err = run(capsys, "evaluate", str(folder))
    assert code == 2
    assert "config.json is not readable" in err


def test_ctrl_c_saves_what_was_learned(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenwalk.agents.tabular.q_learning import QLearning

    learn = QLearning.learn_mdp

    def interrupted(self: QLearning, *args: object, **kwargs: object) -> None:
        if self.steps > 300:
            raise KeyboardInterrupt
        learn(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(QLearning, "learn_mdp", interrupted)
    code, out, err = run(
        capsys,
        "train",
        "q-learning",
        "CounterWalk",
        "--steps",
        "2000",
        "--run-dir",
        str(tmp_path / "run"),
        "--json",
    )
    monkeypatch.undo()
    assert code == 130
    assert json.loads(out)["interrupted"] is True
    assert "what was learned is in" in err
    code, out, _ = run(
        capsys,
        "train",
        "q-learning",
        "CounterWalk",
        "--resume",
        str(tmp_path / "run"),
        "--steps",
        "500",
        "--json",
    )
    assert code == 0
    assert json.loads(out)["steps"] > 800


def test_the_scripts_of_a_checkout_do_the_same(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "solve.py"), "CounterWalk", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["optimal_value"] == pytest.approx(10 / 19)


def test_help_needs_neither_torch_nor_sb3_nor_numba(tmp_path: Path) -> None:
    code = (
        "import sys; from tokenwalk.scripts.main import main\n"
        "for words in (['train', 'q-learning', '--help'], ['train', 'ppo', '--help'], ['solve', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "heavy = ('torch', 'stable_baselines3', 'numba', 'tensorboard')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stderr.strip().endswith("[]")


def test_quiet_prints_only_errors_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenwalk.scripts.console import note

    monkeypatch.setenv("TOKENWALK_QUIET", "0")
    note("a remark")
    assert capsys.readouterr().err == "a remark\n"
    code, out, err = run(capsys, "solve", "CounterWalk", "--quiet", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["optimal_value"] == pytest.approx(10 / 19)
    note("another remark")
    assert capsys.readouterr().err == ""
    code, _, err = run(capsys, "solve", "CounterWlk", "--quiet")
    assert code == 2
    assert err.startswith("tokenwalk: ")
