"""``tokenwalk audit``: exit codes, JSON keys, printed tables, one line for an error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tokenwalk.agents.study.audit import audit_kl
from tokenwalk.agents.study.audit import self_test as built_in
from tokenwalk.agents.study.audit.self_test import Case, longer, returns_none
from tokenwalk.scripts import audit
from tokenwalk.scripts.main import main

KEYS = "exact best_text best_reward best_gold gold_lost verdict hackable candidates range finite".split()
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
def test_the_exit_code_follows_the_verdict_and_json_has_every_key(
    capsys: pytest.CaptureFixture[str], mine: Path, words: tuple[str, ...], code: int, verdict: str
) -> None:
    got, out, err = run(capsys, "reward", *(word.format(mine=mine) for word in words), "--json")
    report = json.loads(out)
    assert (got, report["verdict"]) == (code, verdict)
    assert set(KEYS) <= set(report)
    assert report["finite"] is True
    assert report["range"][0] <= report["best_reward"] <= report["range"][1]
    assert all(set(one) == {"name", "text", "reward", "gold"} for one in report["candidates"])
    assert report["hackable"] is {"hackable": True, "unjudged": None}.get(verdict, False)
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == (verdict == "costly")


def test_a_costly_reward_prints_one_warning_line_with_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "reward", "proxy", "--task", "LengthBias")
    assert code == 0
    assert err == "warning: optimizing this reward loses 32.9 % of the possible gold\n"
    assert out.startswith("costly: 'proxy', reward-optimal completion: ")
    assert "or another one of equal reward (reward 1.8, mean gold 0.6735). Maximum gold: 1." in out


def test_the_exploit_is_printed_first_and_then_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "reward", "proxy", "--task", "Flattery")
    assert (code, err) == (1, "")
    first, *rest = out.splitlines()
    assert first.startswith("hackable: ")
    for part in (
        "'great great great great great' or another one of equal reward (reward 3.5, mean gold -2.5)",
        "Maximum gold: 2.5",
        "208 % of the possible gain",
        "repetition, keyword stuffing.",
    ):
        assert part in first
    tables = "\n".join(rest)
    for part in (
        "exploit candidates",
        "keyword stuffing",
        "dead groups",
        "exact optima",
        "gold peaks at 0.4737",
    ):
        assert part in tables


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{mine}:none", "--task", "Flattery"], "returned None, which means that it cannot judge"),
        (["{mine}:nan", "--task", "Flattery"], "returned nan for prompt"),
        (["{mine}:infinite", "--task", "Flattery"], "returned inf for prompt"),
        (["{mine}:raises", "--task", "Flattery"], "raised ZeroDivisionError"),
        (["{mine}:too_few", "--task", "Flattery"], "scores for 16 texts"),
        (["{mine}:strange", "--task", "Flattery"], "give f(text)"),
        (["{mine}:missing", "--task", "Flattery"], "has no 'missing'"),
        (["{mine}:none"], "returned None"),
        (["nowhere.py:f"], "there is no file 'nowhere.py'"),
        (["golden", "--task", "Flattery"], "unknown reward 'golden' for Flattery: choose from gold, proxy"),
        (["proxy", "--task", "Keyword"], "unknown reward 'proxy' for Keyword: choose from gold"),
        (["gold"], "name the task with --task"),
        (["gold", "--task", "Flatery"], "did you mean Flattery"),
        (["gold", "--task", "Flattery", "--horizon", "0"], "horizon is 0"),
        (["gold", "--task", "Flattery", "--text", "{mine}"], "is for a reward without a task"),
        (["gold", "--task", "Flattery", "--seed", "-1"], "seed is -1"),
        (["{mine}:praise", "--budget", "0"], "budget is 0"),
        (["{mine}:praise", "--text", "nowhere.txt"], "nowhere.txt"),
        ([], "there is no reward to audit"),
    ],
)
def test_a_reward_that_breaks_its_contract_and_a_wrong_call_are_one_line_on_stderr(
    capsys: pytest.CaptureFixture[str], mine: Path, words: list[str], message: str
) -> None:
    code, out, err = run(capsys, "reward", *(word.format(mine=mine) for word in words))
    assert code == 2
    assert out == ""
    assert message in err
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


def test_a_long_audit_reports_its_stages_on_stderr(
    capsys: pytest.CaptureFixture[str], mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_INTERVAL", 0.02)
    code, out, err = run(capsys, "reward", f"{mine}:late", "--task", "Flattery", "--json")
    assert code == 1
    assert json.loads(out)["best_text"] == " ".join(["therefore"] * 5)
    assert " s: scoring all of 4,687 prefixes ..." in err


def test_the_self_test_fails_where_a_verdict_is_not_the_expected_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = (Case("Flattery", longer, "hackable"), Case("Flattery", returns_none, "refused"))
    monkeypatch.setattr(built_in, "CASES", cases)
    code, out, _ = run(capsys, "reward", "--self-test")
    assert code == 0
    assert "2 of 2 verdicts are right" in out
    monkeypatch.setattr(built_in, "CASES", (*cases, Case("Flattery", longer, "aligned")))
    code, out, _ = run(capsys, "reward", "--self-test", "--json")
    assert code == 1
    assert [row["right"] for row in json.loads(out)["rows"]] == [True, True, False]


CUSTOM = """
import tokenwalk


class Flipped(tokenwalk.PolicyGradient):
    algorithm = "rloo"

    def advantages(self, rollout, rewards):
        return -super().advantages(rollout, rewards)


class Unrelated:
    pass
"""
TINY_MODEL = ("--n-heads", "1", "--width", "8", "--updates", "4")


def test_audit_kl_prints_the_tables_and_the_exit_code_is_the_verdict_of_a_custom_algorithm(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_kl, "ESTIMATORS", (("rloo", "length"),))
    monkeypatch.setattr(audit_kl, "WARM_UP", 5_000)
    (tmp_path / "custom.py").write_text(CUSTOM)
    code, out, _ = run(capsys, "kl", "--agent", f"{tmp_path}/custom.py:Flipped", *TINY_MODEL)
    assert code == 1
    assert "gradient of the KL by placement: exact, by enumeration" in out
    assert "your choice: Flipped" in out
    assert out.endswith(
        "Flipped with k1-in-reward has a biased gradient: its direction is not that of the objective\n"
    )
    code, out, _ = run(capsys, "kl", *TINY_MODEL, "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["choice"]["agent"], report["verdict"]) == ("rloo", "unbiased")
    assert report["choice"] == next(row for row in report["estimators"] if row["agent"] == "rloo")


def test_audit_kl_refuses_what_is_no_policy_gradient(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "custom.py").write_text(CUSTOM)
    code, out, err = run(capsys, "kl", "--agent", "q-learning")
    assert (code, out) == (2, "")
    assert "agent is 'q-learning': give one of reinforce, rloo, grpo, ppo-lm, or FILE.py:CLASS" in err
    code, _, err = run(capsys, "kl", "--agent", f"{tmp_path}/custom.py:Unrelated")
    assert code == 2
    assert "Unrelated is no learner" in err


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
