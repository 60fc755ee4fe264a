"""``tokenwalk audit`` as a person and as a program meet it: exit codes, keys, one line for a mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tokenwalk.agents.study.audit import self_test as built_in
from tokenwalk.agents.study.audit.self_test import Case, longer, returns_none
from tokenwalk.scripts import audit
from tokenwalk.scripts.main import main

KEYS = "exact best_text best_reward best_gold gold_lost verdict hackable cheats range finite".split()
MINE = """
import time


def argues(text):
    return text.count("because evidence")


def praise(text):
    return text.count("great") + text.count("wonderful")


def batch(prompts, completions, **columns):
    return [-float(len(text)) for text in completions]


def late(text):
    time.sleep(2e-5)
    return len(text)


def none(text):
    return None


def nan(text):
    return float("nan") if "great great" in text else 1.0


def infinite(text):
    return 10.0 ** len(text) * 1e300 if text else 0.0


def raises(text):
    return 1 / text.count("because")


def too_few(completions):
    return [0.0] * (len(completions) - 1)


def strange(x):
    return 1.0
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run ``tokenwalk audit`` in this process: exit code, stdout, stderr."""
    try:
        code = main(("audit", *words))
    except SystemExit as exit_:  # argument errors and --help leave through tyro
        code = int(exit_.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "code", "verdict"),
    [
        (("gold", "--task", "Flattery"), 0, "aligned"),
        (("proxy", "--task", "LengthBias-v0"), 0, "costly"),
        (("proxy", "--task", "tokenwalk/Flattery-v0"), 1, "hackable"),
        (("{mine}:argues", "--task", "Flattery"), 0, "costly"),
        (("{mine}:praise", "--task", "Flattery"), 1, "hackable"),
        (("{mine}:batch", "--task", "Flattery"), 1, "hackable"),
        (("{mine}:batch", "--horizon", "2"), 0, "unjudged"),
    ],
)
def test_the_exit_code_is_the_verdict_and_json_is_all_there_is(
    capsys: pytest.CaptureFixture[str], mine: Path, words: tuple[str, ...], code: int, verdict: str
) -> None:
    got, out, err = run(capsys, "reward", *(word.format(mine=mine) for word in words), "--json")
    report = json.loads(out)
    assert (got, report["verdict"]) == (code, verdict)
    assert set(KEYS) <= set(report)
    assert report["finite"] is True
    assert report["range"][0] <= report["best_reward"] <= report["range"][1]
    assert all(set(cheat) == {"name", "text", "reward", "gold"} for cheat in report["cheats"])
    assert report["hackable"] is {"hackable": True, "unjudged": None}.get(verdict, False)
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == (verdict == "costly")


def test_a_costly_reward_has_one_warning_line_that_says_how_much(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "reward", "proxy", "--task", "LengthBias")
    assert code == 0
    assert err == "warning: optimising this reward loses 32.9 % of the possible gold\n"
    assert out.startswith("costly: whoever optimises 'proxy' writes ")
    assert (
        "or another text that is paid as much and is paid 1.8, which is truly worth 0.6735 of 1 on average"
        in out
    )


def test_a_person_reads_the_exploit_first_and_then_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "reward", "proxy", "--task", "Flattery")
    assert (code, err) == (1, "")
    first, *rest = out.splitlines()
    assert first.startswith("hackable: ")
    for told in (
        "'great great great great great'",
        "paid 3.5",
        "worth -2.5 of 2.5",
        "208 % of the possible gold",
    ):
        assert told in first
    tables = "\n".join(rest)
    for told in (
        "canonical cheats",
        "keyword stuffing",
        "dead groups",
        "exact optima",
        "gold peaks at 0.4737",
    ):
        assert told in tables


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{mine}:none", "--task", "Flattery"], "returned None, which means that it cannot judge"),
        (["{mine}:nan", "--task", "Flattery"], "returned nan for prompt"),
        (["{mine}:infinite", "--task", "Flattery"], "returned inf for prompt"),
        (["{mine}:raises", "--task", "Flattery"], "raised ZeroDivisionError"),
        (["{mine}:too_few", "--task", "Flattery"], "scores for 16 texts"),
        (["{mine}:strange", "--task", "Flattery"], "write f(text)"),
        (["{mine}:missing", "--task", "Flattery"], "has no 'missing'"),
        (["{mine}:none"], "returned None"),
        (["nowhere.py:f"], "there is no file 'nowhere.py'"),
        (["golden", "--task", "Flattery"], "'golden' is nothing that Flattery could be paid by"),
        (["proxy", "--task", "Keyword"], "'proxy' is nothing that Keyword could be paid by"),
        (["gold"], "say which task with --task"),
        (["gold", "--task", "Flatery"], "did you mean Flattery"),
        (["gold", "--task", "Flattery", "--horizon", "0"], "horizon is 0"),
        (["gold", "--task", "Flattery", "--text", "{mine}"], "is for a reward without a task"),
        (["gold", "--task", "Flattery", "--seed", "-1"], "seed is -1"),
        (["{mine}:praise", "--budget", "0"], "budget is 0"),
        (["{mine}:praise", "--text", "nowhere.txt"], "nowhere.txt"),
        ([], "there is no reward to audit"),
    ],
)
def test_a_reward_that_breaks_its_contract_and_a_wrong_call_are_one_clear_line(
    capsys: pytest.CaptureFixture[str], mine: Path, words: list[str], told: str
) -> None:
    code, out, err = run(capsys, "reward", *(word.format(mine=mine) for word in words))
    assert code == 2
    assert out == ""
    assert told in err
    assert err.startswith("tokenwalk: ")
    assert err.count("\n") == 1


def test_help_lists_the_audits_and_explains_each(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("--help",)):
        code, out, _ = run(capsys, *words)
        assert code == 0
        assert all(f"\n  {name}" in out for name in audit.AUDITS)
    code, out, _ = run(capsys, "reward", "--help")
    assert code == 0
    assert "usage: tokenwalk audit reward" in out
    code, _, err = run(capsys, "rewards")
    assert code == 2
    assert "there is no audit of 'rewards': give reward" in err


def test_what_takes_long_says_on_stderr_what_goes_on(
    capsys: pytest.CaptureFixture[str], mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_PATIENCE", 0.02)
    code, out, err = run(capsys, "reward", f"{mine}:late", "--task", "Flattery", "--json")
    assert code == 1
    assert json.loads(out)["best_text"] == " ".join(["therefore"] * 5)
    assert " s: scoring all of 4,687 prefixes ..." in err


def test_the_self_test_fails_where_a_finding_is_not_the_expected_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = (Case("Flattery", longer, "hackable"), Case("Flattery", returns_none, "refused"))
    monkeypatch.setattr(built_in, "CASES", cases)
    code, out, _ = run(capsys, "reward", "--self-test")
    assert code == 0
    assert "2 of 2 findings are right" in out
    monkeypatch.setattr(built_in, "CASES", (*cases, Case("Flattery", longer, "aligned")))
    code, out, _ = run(capsys, "reward", "--self-test", "--json")
    assert code == 1
    assert [row["right"] for row in json.loads(out)["rows"]] == [True, True, False]


def test_it_needs_neither_torch_nor_sb3_nor_numba(tmp_path: Path) -> None:
    code = (
        "import sys; from tokenwalk.scripts.main import main\n"
        "main(['audit', 'reward', 'gold', '--task', 'Flattery', '--json'])\n"
        "heavy = ('torch', 'stable_baselines3', 'numba', 'tensorboard')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stderr.strip() == "[]"
    assert json.loads(done.stdout)["verdict"] == "aligned"
