"""Pre-training from the command line's side: what is read, what is said of it, and what it is good for."""

import json
from pathlib import Path

import pytest

from tokenwalk.agents.backprop.configs import LMConfig, TrainingConfig
from tokenwalk.agents.evaluation.solve import solve_problem
from tokenwalk.agents.problem.problem import open_problem
from tokenwalk.agents.training.model_run import ModelRequest
from tokenwalk.agents.training.train_lm import evaluate_lm, read_source, train_lm_run

SMALL = LMConfig(n_layers=1, n_heads=2, width=16, texts=2_000)
QUICK = TrainingConfig(updates=100, learning_rate=1e-2, evaluate_every=50)


def test_a_run_on_a_task_is_measured_against_the_entropy_rate(tmp_path: Path) -> None:
    source = read_source("Flattery", None, "characters", None)
    summary = train_lm_run(ModelRequest("Flattery", run_dir=tmp_path / "run"), source, SMALL, QUICK)
    assert summary["floor"] == pytest.approx(1.61818, abs=1e-5)
    assert 0 < summary["excess"] < 0.05
    assert summary["kl"] == pytest.approx(summary["loss"] - summary["floor"])
    assert summary["exact"]
    again = evaluate_lm(tmp_path / "run")
    assert again["loss"] == pytest.approx(summary["loss"])
    assert again["gold"] == pytest.approx(0.101, abs=0.05)
    assert {"optimum", "model.safetensors", "summary.json"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    events = b"".join(path.read_bytes() for path in (tmp_path / "run").glob("events*"))
    assert b"samples" in events
    report = solve_problem(open_problem("Flattery", reward=[str(tmp_path / "run")])).report
    assert report["best_text"] == ""  # the likeliest text is the empty one
    with pytest.raises(ValueError, match="is a language model, which is a reward and no potential"):
        open_problem("Flattery", shaping=[str(tmp_path / "run")])


def test_a_run_on_a_text_learns_its_lines(tmp_path: Path) -> None:
    text = tmp_path / "lines.txt"
    text.write_text("the cat sat\non the mat\n\n" * 30)
    source = read_source(None, str(text), "words", None)
    assert source.floor is None
    assert source.texts is not None
    assert source.texts.texts(source.task)[:2] == ["the cat sat", "on the mat"]
    summary = train_lm_run(ModelRequest("lines", run_dir=tmp_path / "run"), source, SMALL, QUICK)
    assert summary["loss"] < 0.25  # which of two lines, and then nothing is left open: log 2 / 4 tokens
    assert summary["perplexity"] == pytest.approx(2.718281828 ** summary["loss"])
    assert summary["sample"] in ("the cat sat", "on the mat")
    assert evaluate_lm(tmp_path / "run")["loss"] == pytest.approx(summary["loss"])
    assert json.loads((tmp_path / "run" / "config.json").read_text())["source"] == "text"


def test_a_long_line_goes_on_in_the_next_row(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("abcdefgh\nab")
    source = read_source(None, str(tmp_path / "long.txt"), "characters", 3)
    assert source.texts is not None
    assert source.texts.texts(source.task) == ["abc", "def", "gh", "ab"]
    assert source.texts.length.tolist() == [3, 3, 3, 3]


def test_the_text_that_ships_can_be_read() -> None:
    source = read_source(None, "bundled", "characters", None)
    assert source.texts is not None
    assert len(source.texts) > 200
    assert source.task.horizon == 64


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    for given, message in (
        ((None, None), "one of the two"),
        (("Flattery", "bundled"), "one of the two"),
        (("Flatery", None), "did you mean Flattery"),
        ((None, str(tmp_path / "empty.txt")), "holds no characters"),
    ):
        with pytest.raises(ValueError, match=message):
            read_source(*given, "characters", None)  # type: ignore[call-arg]
    with pytest.raises(OSError, match="none"):
        read_source(None, str(tmp_path / "none.txt"), "characters", None)


def test_what_a_text_has_beyond_the_vocabulary_is_counted_and_said(tmp_path: Path) -> None:
    text = tmp_path / "many.txt"
    text.write_text("".join(chr(0x4E00 + number) for number in range(100)) + "\nabc\n" * 3, encoding="utf-8")
    source = read_source(None, str(text), "characters", None)
    assert source.note == "39 characters (35.8%) are rarer than the 64 kept, and were left out"
    assert source.texts is not None
    assert (source.texts.tokens <= source.task.vocabulary.pad).all()
    text.write_text("abc\n" * 3, encoding="utf-8")
    assert read_source(None, str(text), "characters", None).note is None
