"""The studies of docs/, with the smallest budget that shows the effect."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tokenwalk.agents.evaluation.goodhart import goodhart_report
from tokenwalk.scripts.studies import language_studies, overoptimization, password, policies
from tokenwalk.scripts.studies.charts import (
    plot_overoptimization,
    plot_password,
    plot_placements,
    plot_policies,
    plot_sizes,
)


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
    assert rows[-1]["episodes"] == [None, None]  # it needs millions of steps
    plot_password(rows, tmp_path / "password.svg")
    text = (tmp_path / "password.svg").read_text()
    assert text.startswith("<?xml")
    with pytest.raises(ValueError, match=r"give a \.png, \.svg or \.pdf file"):
        plot_password(rows, tmp_path / "password.txt")


@pytest.mark.slow
def test_from_a_zero_start_password_takes_millions_of_steps() -> None:
    found = password.time_to_solve(condition("zero start, no shaping", "machine"), runs=2)
    assert 1e6 < min(found.steps) <= max(found.steps) < 1e8


@pytest.mark.slow
def test_training_on_a_biased_annotator_loses_gold_and_on_an_unbiased_one_reaches_the_optimum(
    tmp_path: Path,
) -> None:
    clean, biased = overoptimization.measure((0.0, 1.2), seeds=1, steps=15_000)
    assert clean.alone.gold == pytest.approx(2.5)
    assert clean.q_learning.gold == pytest.approx(2.5)
    assert clean.ppo[0][-1, 2] > 2.3
    assert biased.alone.gold == pytest.approx(-2.5)
    assert biased.q_learning.gold < -2
    assert biased.ppo[0][-1, 2] < -2
    assert biased.ppo[0][-1, 1] > 2.5  # while the reward model rates it highly
    assert biased.peak_gold > 0.4  # with the best KL penalty
    # The members share the annotator's bias: the minimum does not reach the gold of the reference policy.
    assert biased.ensemble.gold < 0.1013
    assert biased.guarded.gold > 0.4
    assert clean.guarded.gold == pytest.approx(2.5)
    rows = [overoptimization.as_json(one) for one in (clean, biased)]
    plot_overoptimization(rows, tmp_path / "chart.svg")
    assert (tmp_path / "chart.svg").read_text().startswith("<?xml")
    assert np.diff(rows[0]["ppo"]["steps"]).min() > 0


@pytest.mark.slow
def test_a_policy_that_is_trained_on_the_proxy_lies_below_the_exact_path(tmp_path: Path) -> None:
    report = goodhart_report("Flattery", ["proxy"])
    runs = [
        policies.train_policy(policies.Job("Flattery", "proxy", kl_coef, 6_000, 0))
        for kl_coef in (2.0, 1.0, 0.5)
    ]
    for run in runs:
        assert run["exact"]
        assert (
            run["proxy"] <= np.interp(run["kl"], report["kl"], report["proxy"]) + 1e-3
        )  # the most at its KL
        assert run["gold"] <= np.interp(run["kl"], report["kl"], report["best_gold"]) + 1e-3
    assert runs[0]["kl"] < runs[-1]["kl"]
    fits = policies.fits_of(runs, report["reference_gold"])
    assert all(np.isfinite(fit["residual"]) for fit in fits.values())
    panel = {"task": "Flattery", "reward": "proxy", "report": report, "runs": runs}
    plot_policies([panel, {**panel, "report": {**report, "best_of_n": None}}], tmp_path / "policies.png")
    assert (tmp_path / "policies.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_run_of_each_placement_begins_at_the_same_exact_regret(tmp_path: Path) -> None:
    runs = [
        language_studies.train_placement((placement, 0), 6_000)
        for placement in ("k1-in-reward", "k3-token-loss")
    ]
    assert runs[0].regret[0] == pytest.approx(runs[1].regret[0], abs=1e-6)
    assert all(run.regret[-1] < run.regret[0] for run in runs)
    plot_placements([vars(run) for run in runs], tmp_path / "placements.png")
    assert (tmp_path / "placements.png").stat().st_size > 10_000


@pytest.mark.slow
def test_more_parameters_come_nearer_to_the_entropy_rate(tmp_path: Path) -> None:
    small, large = language_studies.model_sizes([(1, 16), (2, 32)])
    assert small.parameters < large.parameters
    assert 0 < large.excess < small.excess < 0.01
    plot_sizes([vars(small), vars(large)], tmp_path / "sizes.png")
    assert (tmp_path / "sizes.png").stat().st_size > 10_000
