"""The Goodhart picture and its numbers."""

from pathlib import Path

import pytest

from tokenwalk.agents.evaluation.goodhart import goodhart_report
from tokenwalk.agents.study.report.charts import plot_goodhart


def test_flatterys_report_has_arrays_of_one_length_the_peak_and_the_sentence(tmp_path: Path) -> None:
    report = goodhart_report("Flattery")
    lengths = {len(report[name]) for name in ("kl_coef", "kl", "proxy", "gold", "best_gold")}
    assert len(lengths) == 1
    assert lengths.pop() >= 30
    assert report["peak"]["gold"] == pytest.approx(0.4737, abs=1e-4)
    assert report["peak"]["kl_coef"] == pytest.approx(0.3474, rel=1e-3)
    assert "KL of 2.15" in report["sentence"]
    assert "-2.5 by gold" in report["sentence"]
    plot_goodhart(report, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_task_without_a_proxy_and_a_picture_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no proxy reward"):
        goodhart_report("Keyword")
    with pytest.raises(ValueError, match=r"give a \.png"):
        plot_goodhart({}, tmp_path / "picture.gif")


def test_arguments_of_the_environment_change_the_path() -> None:
    assert goodhart_report("Flattery", env_args={"horizon": 2})["proxy_optimum"] == pytest.approx(1.4)
