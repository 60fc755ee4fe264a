"""The studies of docs/, on the smallest budget that shows the effect."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tokenwalk.agents.study import overoptimization, password
from tokenwalk.agents.study.pictures import draw_overoptimization, draw_password


def condition(name: str, observation: str) -> password.Condition:
    found = [
        one for one in password.conditions(Path("none")) if (one.name, one.observation) == (name, observation)
    ]
    return found[0]


def test_the_machines_potential_and_an_optimistic_start_solve_password_in_some_hundred_episodes(
    tmp_path: Path,
) -> None:
    rows = []
    for name in ("machine's potential", "optimistic start"):
        found = password.time_to_solve(condition(name, "machine"), runs=3)
        assert 20 < found.median_episodes < 400
        assert found.median_steps < 4_000
        rows.append(password.as_json(found))
    hopeless = replace(condition("zero start, no shaping", "machine"), most=100_000)
    rows.append(password.as_json(password.time_to_solve(hopeless, runs=2)))
    assert rows[-1]["episodes"] == [None, None]  # it needs millions
    draw_password(rows, tmp_path / "password.svg")
    text = (tmp_path / "password.svg").read_text()
    assert text.startswith("<?xml")
    with pytest.raises(ValueError, match=r"name a \.png, \.svg or \.pdf file"):
        draw_password(rows, tmp_path / "password.txt")


@pytest.mark.slow
def test_from_a_zero_start_password_takes_millions_of_steps() -> None:
    found = password.time_to_solve(condition("zero start, no shaping", "machine"), runs=2)
    assert 1e6 < min(found.steps) <= max(found.steps) < 1e8


@pytest.mark.slow
def test_a_labeller_who_likes_praise_ruins_what_is_learned_and_one_who_does_not_teaches_gold(
    tmp_path: Path,
) -> None:
    clean, liking = overoptimization.measure((0.0, 1.2), seeds=1, steps=15_000)
    assert clean.alone.gold == pytest.approx(2.5)
    assert clean.q_learning.gold == pytest.approx(2.5)
    assert clean.ppo[0][-1, 2] > 2.3
    assert liking.alone.gold == pytest.approx(-2.5)
    assert liking.q_learning.gold < -2
    assert liking.ppo[0][-1, 2] < -2
    assert liking.ppo[0][-1, 1] > 2.5  # paid well for it
    assert liking.peak_gold > 0.4  # a little of it would have helped
    # The members share the labeller's bias: their least stays below what the reference policy earns by itself.
    assert liking.ensemble.gold < 0.1013
    assert liking.guarded.gold > 0.4
    assert clean.guarded.gold == pytest.approx(2.5)
    rows = [overoptimization.as_json(one) for one in (clean, liking)]
    draw_overoptimization(rows, tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")
    assert np.diff(rows[0]["ppo"]["steps"]).min() > 0
