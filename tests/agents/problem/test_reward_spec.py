"""What a person names as a reward or a potential, and what becomes of it in a run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tokenwalk.agents.evaluation.solve import solve_problem
from tokenwalk.agents.evaluation.stored_completions import read_completions
from tokenwalk.agents.exact.invariance import compare_optima
from tokenwalk.agents.problem.problem import open_problem
from tokenwalk.agents.problem.reward_spec import Named, reward_components, shaping_sources, value_potential
from tokenwalk.agents.runs.tracking import read_metrics
from tokenwalk.agents.study.commands.evaluate import evaluate_run
from tokenwalk.agents.training.train_agent import train
from tokenwalk.envs.rewards.function import FunctionSource
from tokenwalk.envs.rewards.source import MachineSource, SourceContractError
from tokenwalk.envs.tasks import find_task
from tokenwalk.envs.token_model import TokenModel, compose

MINE = """
def praise(text: str) -> float:
    return 1.0 * (text.count("great") + text.count("wonderful"))


def length(text: str) -> float:
    return 0.1 * len(text)


def breaks(text: str) -> float:
    return {"": 1.0}[text]


number = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def test_a_name_has_a_weight_or_two() -> None:
    assert Named.of("gold") == Named("gold", 1.0, 1.0)
    assert Named.of("a=b=0.5") == Named("a=b", 0.5, 0.5)
    assert Named.of("runs/3=1..0").annealed
    for text in ("gold=", "gold=x", "gold=nan", "gold=1..", "gold=1..inf"):
        with pytest.raises(ValueError, match="give a finite number"):
            Named.of(text)


def test_a_small_tasks_sources_are_machines_and_a_large_ones_stay_functions(mine: Path) -> None:
    small, large = (
        reward_components([f"{mine}:praise=0.5", "gold"], find_task(name)) for name in ("Flattery", "Keyword")
    )
    assert isinstance(small[0].learning, MachineSource)
    assert small[0].learning is small[0].scoring
    assert (small[0].weight, small[1].learning.name) == (0.5, "gold")
    assert isinstance(large[0].learning, FunctionSource)
    annealed = reward_components([f"{mine}:praise=0.5..0"], find_task("Flattery"))[0]
    assert isinstance(annealed.learning, FunctionSource)  # a machine's weight stays
    assert isinstance(annealed.scoring, MachineSource)
    assert (annealed.weight, annealed.final) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["golden"], "unknown reward 'golden' for Flattery: choose from gold, proxy, a run folder"),
        (["gold=1..0"], "'gold' is a machine, whose weight stays"),
        (["{mine}:nothing"], "has no 'nothing': it has"),
        (["{mine}:number"], "is int: name a function"),
        (["none.py:f"], "there is no file 'none.py'"),
        (["{mine}:breaks"], "source 'breaks' raised KeyError"),
    ],
)
def test_a_name_that_is_none_says_what_may_be_given(mine: Path, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_problem("Flattery", reward=[name.format(mine=mine) for name in names])


@pytest.mark.parametrize("name", ["Password", "Keyword", "Brackets", "Flattery", "Delayed"])
@pytest.mark.parametrize("potential", ["machine", "value"])
def test_the_potentials_by_name_move_no_optimum(name: str, potential: str) -> None:
    problem = open_problem(name, shaping=[potential])
    assert problem.mdp is not None
    found = compare_optima(problem.mdp, problem.weights, {"shaping": 1.0}, discount=1.0)
    assert found.unchanged
    assert found.gold_lost == pytest.approx(0.0, abs=1e-9)
    assert problem.lines.optimal_train_return == pytest.approx(open_problem(name).lines.optimal_train_return)
    assert "rollout/ep_rew_mean" not in problem.lines.charts["optimum"]  # the learner's curve is shaped


def test_with_the_exact_value_as_its_potential_every_best_token_pays_nothing_and_no_other_does() -> None:
    model = TokenModel(find_task("Flattery"), compose(find_task("Flattery"), "proxy"))
    (shaping, weight), *none = shaping_sources(["value"], model, 1.0)
    shaped = TokenModel(model.task, compose(model.task, "proxy", shaping=shaping)).tabular_mdp()
    total, last = shaped.reward({"proxy": 1.0, "shaping": 1.0})
    assert (none, weight) == ([], 1.0)
    # r + V(s') - V(s) is the advantage: 0 for the best, below 0 for all else, wherever the value is that of the time.
    potential = value_potential(model, 1.0)
    start = shaped.start.argmax()
    assert total[start].max() == pytest.approx(0.0, abs=1e-12)
    assert (np.sort(total[start, :, 0])[:-2] < 0).all()
    assert (last == last).all()
    assert potential.table[0, potential.start[0]] == pytest.approx(3.5)


def test_a_bonus_moves_the_optimum_and_the_tool_says_by_how_much(mine: Path) -> None:
    problem = open_problem("Flattery")
    found = solve_problem(problem, bonus=[f"{mine}:praise=1.2"]).report["shaping"]
    assert not found["unchanged"]
    assert found["changed_states"] > 0
    assert found["gold_after"] == pytest.approx(-2.5)  # 1.2 makes the catalog's proxy
    assert found["gold_lost"] == pytest.approx(5.0)
    assert "goes from 2.5 to -2.5" in found["sentence"]
    little = solve_problem(problem, bonus=[f"{mine}:praise=0.01"]).report["shaping"]
    assert little["gold_lost"] == pytest.approx(0.0)
    with pytest.raises(ValueError, match="Keyword is too large to make it one"):
        solve_problem(open_problem("Keyword"), bonus=[f"{mine}:praise"])
    with pytest.raises(ValueError, match="'gold' is a reward component already"):
        solve_problem(problem, bonus=["gold"])


def test_a_learned_like_reward_has_exact_lines_on_a_small_task_and_only_golds_on_a_large_one(
    mine: Path,
) -> None:
    small, large = (open_problem(name, reward=[f"{mine}:length"]) for name in ("Flattery", "Keyword"))
    assert small.lines.optimal_train_return == pytest.approx(4.9)  # wonderful, five times, with its spaces
    assert small.lines.optimal_return == pytest.approx(2.5)
    assert large.mdp is None
    assert large.lines.optimal_return == pytest.approx(5.0)
    assert large.lines.optimal_train_return is None
    assert "not a machine" in str(large.lines.note)


def test_a_run_keeps_its_training_reward_and_is_evaluated_by_it_elsewhere(mine: Path, tmp_path: Path) -> None:
    summary = train(
        "q-learning",
        "Flattery",
        steps=20_000,
        runs=2,
        reward=[f"{mine}:praise=1.2", "gold"],
        shaping=["value"],
        run_dir=tmp_path / "run",
    )
    assert summary["return"] == pytest.approx(3.5)
    assert summary["gold"] == pytest.approx(-2.5)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    report = evaluate_run(tmp_path / "moved", reward=["gold", f"{mine}:length"])
    assert report["return"] == pytest.approx(summary["return"])
    assert report["stored"]["gold"]["mean"] == pytest.approx(-2.5)
    assert report["stored"]["length"]["low"] >= 0.1 * len("great great great great great")
    config = json.loads((tmp_path / "moved" / "config.json").read_text())
    assert config["reward"] == [f"{mine}:praise=1.2", "gold"]
    assert config["shaping"] == ["value"]


def test_stored_completions_are_read_back_as_they_were_and_a_torn_file_is_named(
    tmp_path: Path,
) -> None:
    train("random", "Arithmetic", run_dir=tmp_path / "run")
    task = find_task("Arithmetic")
    found = read_completions(tmp_path / "run", task)
    assert len(found) == 200
    assert found.ended(task).all()
    lines = [json.loads(line) for line in (tmp_path / "run" / "completions.jsonl").read_text().splitlines()]
    assert [task.prompts[prompt] for prompt in found.prompt] == [line["prompt"] for line in lines]
    assert found.texts(task) == [line["completion"] for line in lines]
    assert found.log_prob[0] == pytest.approx(found.length[0] * -np.log(13))
    with pytest.raises(ValueError, match="torn, or of another task"):
        read_completions(tmp_path / "run", find_task("Flattery"))
    (tmp_path / "run" / "completions.jsonl").write_text('{"prompt"')
    with pytest.raises(ValueError, match="torn"):
        read_completions(tmp_path / "run", task)
    (tmp_path / "run" / "completions.jsonl").unlink()
    with pytest.raises(ValueError, match="has stored no completions"):
        evaluate_run(tmp_path / "run", reward=["gold"])


def metrics_of(run: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in (run / "metrics.csv").read_text().splitlines()[1:]:
        _, _, tag, value = line.split(",")
        found.setdefault(tag, []).append(float(value))
    return found


@pytest.mark.parametrize(
    ("agent", "task", "extra"),
    [
        ("q-learning", "Flattery", {"runs": 2}),
        ("q-learning", "Keyword", {}),
        ("ppo", "Flattery", {}),
    ],
)
def test_every_agent_logs_each_term_raw_and_weighted_and_they_add_up_to_what_it_gets(
    mine: Path, tmp_path: Path, agent: str, task: str, extra: dict[str, int]
) -> None:
    reward = [f"{mine}:length=0.5", "gold"]
    train(
        agent,
        task,
        steps=2_048,
        reward=reward,
        shaping=["machine"] if agent == "ppo" else [],
        run_dir=tmp_path / "run",
        **extra,
    )  # type: ignore[arg-type]
    found = metrics_of(tmp_path / "run")
    total = "eval/return" if agent == "q-learning" and task == "Flattery" else "rollout/ep_rew_mean"
    weighted = [tag for tag in found if tag.endswith("/weighted")]
    assert len(weighted) == (3 if agent == "ppo" else 2)
    assert sum(found[tag][-1] for tag in weighted) == pytest.approx(found[total][-1], abs=1e-5)
    assert found["reward/length/weighted"][-1] == pytest.approx(0.5 * found["reward/length"][-1], abs=1e-9)


@pytest.mark.parametrize("agent", ["ppo", "q-learning"])
def test_an_annealed_bonus_goes_from_one_weight_to_the_other_and_is_scored_by_the_last(
    mine: Path, tmp_path: Path, agent: str
) -> None:
    summary = train(
        agent, "Flattery", steps=30_000, reward=["gold", f"{mine}:praise=1.2..0"], run_dir=tmp_path / "run"
    )
    weights = metrics_of(tmp_path / "run")["reward/praise/weight"]
    assert weights[0] >= 1.1
    assert weights[-1] == 0.0
    assert (np.diff(weights) <= 0).all()
    assert summary["return"] == pytest.approx(summary["gold"])
    assert summary["gold"] > 1.0


def test_an_agent_that_steps_its_tokens_is_looked_at_exactly_along_the_way(tmp_path: Path) -> None:
    how = {"observation": "tokens"}
    train("q-learning", "Flattery", steps=2_000, env_args=how, run_dir=tmp_path / "run")
    looks = [(tag, step, value) for step, _, tag, value in read_metrics(tmp_path / "run")]
    exact = {step: value for tag, step, value in looks if tag == "eval/exact"}
    assert len(exact) == 50
    assert set(exact.values()) == {1.0}
    gold = [value for tag, _, value in looks if tag == "eval/gold"]
    assert gold[-1] > gold[0]


def test_a_source_that_breaks_stops_the_run_with_its_traceback_in_the_runs_log(
    mine: Path, tmp_path: Path
) -> None:
    with pytest.raises(SourceContractError, match=r"'breaks' raised KeyError.*traceback: .*error\.log"):
        train("q-learning", "Keyword", steps=100, reward=[f"{mine}:breaks"], run_dir=tmp_path / "run")
    log = (tmp_path / "run" / "error.log").read_text()
    assert 'return {"": 1.0}[text]' in log
    assert (tmp_path / "run" / "agent.npz").exists()  # what was learned is not lost


def test_a_walk_has_nothing_to_score() -> None:
    for roles in ({"reward": ["gold"]}, {"shaping": ["machine"]}):
        with pytest.raises(ValueError, match="is no token task"):
            open_problem("CounterWalk", **roles)  # type: ignore[arg-type]
