"""``tokenwalk benchmark``: the harness on fake contests, and the table of contests."""

import time
from collections.abc import Callable, Iterator
from typing import Any, get_args

import gymnasium as gym
import numpy as np
import pytest

from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.agents.study.benchmark import environments
from tokenwalk.agents.study.benchmark.environments import PARTS
from tokenwalk.agents.study.benchmark.harness import Contest, Row, run
from tokenwalk.envs.tasks import CATALOG
from tokenwalk.envs.token_model import TokenModel, compose
from tokenwalk.scripts.benchmark import Part, show, with_prefix

WALK, TASK = "tokenwalk/CounterWalk-v0", "tokenwalk/Keyword-v0"


class Clock:
    """A clock that only the work moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def work(self, name: str, units: int, seconds: list[float]) -> Callable[[], int]:
        """Return work of ``units`` units whose calls take the given seconds in turn."""
        durations: Iterator[float] = iter(seconds)

        def work() -> int:
            self.calls.append(name)
            self.now += next(durations)
            return units

        return work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return a clock that the harness reads."""
    found = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: found.now)
    return found


def test_a_row_holds_the_medians_and_the_median_of_the_ratios(clock: Clock) -> None:
    ours = clock.work("ours", 12, [99.0, 1.0, 2.0, 4.0])  # the warm-up, then 12, 6 and 3 units per second
    peer = clock.work("peer", 6, [99.0, 6.0, 1.0, 2.0])  # 1, 6 and 3
    names: list[str] = []
    (row,) = run([Contest("a / b", ours, peer, 1.5, "units/s")], 3, names.append)
    assert (row.ours, row.peer) == (6.0, 3.0)
    assert row.ratio == 1.0  # the median of 12, 1 and 1, not the ratio of the medians
    assert row.as_json() == {
        "name": "a / b", "ours": 6.0, "peer": 3.0, "ratio": 1.0, "target": 1.5, "unit": "units/s"
    }  # fmt: skip
    assert clock.calls == ["ours", "peer"] * 4  # in turns, with one warm-up each
    assert names == ["a / b"]


def test_a_required_rate_is_a_peer_that_takes_no_time(clock: Clock) -> None:
    ours = clock.work("ours", 10, [0.0, 1.0, 5.0])
    (row,) = run([Contest("a / 4 a second", ours, 4.0, 1.0)], 2)
    assert (row.ours, row.peer, row.ratio) == (6.0, 4.0, 1.5)  # 10 and 2 units per second
    assert clock.calls == ["ours"] * 3


def test_the_command_offers_every_part_of_the_table() -> None:
    assert set(get_args(Part)) == {*PARTS, "all"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(118_259_000.0, "118 M"), (1e6, "1 M"), (5_120.0, "5.12 k"), (999.0, "999"), (0.5, "0.5")],
)
def test_a_rate_is_printed_with_three_digits(value: float, text: str) -> None:
    assert with_prefix(value) == text


def test_a_row_is_met_if_its_ratio_is_at_least_the_target(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row(name, 1.0, 1.0, 1.0, target, "u/s") for name, target in (("x", 1.0), ("y", 1.1), ("z", None))]
    show(rows, as_json=False)
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert [lines[name][-1] for name in "xyz"] == ["yes", "no", "-"]


def test_each_contest_of_the_walk_and_of_the_solver_is_named_and_has_a_unit() -> None:
    walk = environments.walk_contests()
    assert len(walk) == 2 + 2 * 4  # scalar peers, and two peers at four widths
    assert {contest.unit for contest in walk} == {"steps/s"}
    targets = {contest.name: contest.target for contest in walk}
    assert targets["vector x1024 / SyncVectorEnv"] == 150.0
    assert targets["scalar / FrozenLake"] == 8.0
    solver = environments.solve_contests()
    assert len(solver) == len(CATALOG) + 1
    assert all(isinstance(contest.peer, float) for contest in solver)
    assert len({contest.name for contest in [*walk, *solver]}) == len(walk) + len(solver)


def test_work_returns_the_units_that_it_does() -> None:
    assert environments.scalar_steps(WALK, steps=250)() == 250
    assert environments.vector_steps(WALK, 8192, "sync")() == 4 * 8192
    assert environments.textbook_q_learning("FrozenLake-v1", steps=200)() == 200
    assert environments.python_q_learning(WALK, steps=200)() == 200
    assert environments.compiled_q_learning(WALK, runs=3, updates=100)() == 99  # 33 updates per run
    assert environments.compiled_q_learning(TASK, runs=2, updates=100, machine=True)() == 100


def test_scalar_steps_play_the_actions_of_one_seed_and_reset_at_each_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played: list[int] = []
    resets: list[int] = []

    class Short(gym.Env[int, int]):
        """Ends after every third step."""

        action_space: Any = gym.spaces.Discrete(5)
        observation_space: Any = gym.spaces.Discrete(1)

        def reset(self, **how: Any) -> tuple[int, dict[str, Any]]:
            resets.append(len(played))
            return 0, {}

        def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
            played.append(action)
            return 0, 0.0, False, len(played) % 3 == 0, {}

    monkeypatch.setattr(gym, "make", lambda name: Short())
    assert environments.scalar_steps("Short", steps=7)() == 7
    assert played == np.random.default_rng(0).integers(0, 5, 7).tolist()
    assert resets == [0, 0, 3, 6]  # at first, at the start of the work, and at each end


def test_the_newest_version_of_an_environment_is_chosen() -> None:
    versions = [spec.version or 0 for spec in gym.registry.values() if spec.name == "CliffWalking"]
    assert environments._newest("CliffWalking") == f"CliffWalking-v{max(versions)}"


def test_the_eight_metrics_count_the_tokens_that_are_no_end() -> None:
    sources = environments.eight_metrics(TASK)
    size = gym.make(TASK).unwrapped.task.vocabulary.size  # type: ignore[attr-defined]
    assert [source.name for source in sources] == [f"count {token}" for token in range(size - 1)]
    assert [source.high for source in sources] == [1.0] * (size - 1)


def test_a_solve_finds_two_optima_of_the_large_task_of_its_shape() -> None:
    task = environments.large_task(size=6, states=4)
    assert (task.vocabulary.size, task.horizon) == (6, 6)
    work = environments.solving(task)
    assert work() == 2
    model = TokenModel(task, compose(task, "gold"))
    hard = solve(model.tabular_mdp(), {"gold": 1.0}, discount=1.0)
    assert np.isfinite(hard.value).all()
