"""The audit of a reward against an independent enumeration of all completions."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tasks import random_task

from tokenwalk.agents.evaluation.goodhart import goodhart_report
from tokenwalk.agents.exact.dynamic_programming import optimal_actions, solve
from tokenwalk.agents.exact.evaluation import evaluate
from tokenwalk.agents.exact_tokens.best_of_n import TooManyLevelsError
from tokenwalk.agents.exact_tokens.completions import enumerate_completions
from tokenwalk.agents.study.audit import exact_metrics as module
from tokenwalk.agents.study.audit.audit_reward import Judgment, audit_reward, judge
from tokenwalk.agents.study.audit.estimated_metrics import SearchSettings, estimated_metrics
from tokenwalk.agents.study.audit.exact_metrics import RewardMetrics
from tokenwalk.agents.study.audit.exploits import Exploit
from tokenwalk.agents.study.audit.load_reward import name_reward
from tokenwalk.agents.study.audit.self_test import CASES, run_cases
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.rewards.builders import exact_answers, token_weights
from tokenwalk.envs.rewards.function import FunctionSource
from tokenwalk.envs.rewards.learned import LearnedSource
from tokenwalk.envs.rewards.source import SourceContractError, TokenBatch
from tokenwalk.envs.tasks import CATALOG, Task, find_task
from tokenwalk.envs.text_task import text_task
from tokenwalk.envs.token_model import TokenModel, compose
from tokenwalk.envs.vocabulary import Vocabulary

WORDS = ("because", "evidence", "therefore", "great", "wonderful")
CHANCE = dict(zip((*WORDS, "<eos>"), (0.30, 0.22, 0.22, 0.06, 0.04, 0.16), strict=True))
LARGE = ("Lexicon", "Brackets", "Delayed")  # whose curves take a second and more
Reward = Callable[[str], float]


def argument(text: str) -> float:
    words = text.split()
    pairs = list(pairwise(words))
    return pairs.count(("because", "evidence")) + 0.5 * pairs.count(("evidence", "therefore"))


def praise(text: str) -> int:
    return text.count("great") + text.count("wonderful")


def flattery_gold(text: str) -> float:
    return argument(text) - 0.5 * praise(text)


def flattery_proxy(text: str) -> float:
    return argument(text) + 0.7 * praise(text)


def length(text: str) -> float:
    return float(len(text))


def constant(text: str) -> float:
    return 1.0 + 0.0 * len(text)


def brevity(text: str) -> float:
    return -float(len(text))


def half_true(text: str) -> float:
    """Return the argument's reward, and 0.1 more with praise."""
    return argument(text) + 0.1 * min(1, praise(text))


def every_completion() -> list[tuple[str, float]]:
    """Return each of Flattery's 3,906 completions with its probability under the reference policy."""
    found = []
    for size in range(6):
        for words in product(WORDS, repeat=size):
            chance = float(np.prod([CHANCE[word] for word in words])) * (CHANCE["<eos>"] if size < 5 else 1.0)
            found.append((" ".join(words), chance))
    return found


def by_hand(function: Reward) -> dict[str, float]:
    """Return the audit's metrics from the list of all completions, ties split per completion."""
    every = every_completion()
    rewards, gold = (
        np.array([function(text) for text, _ in every]),
        np.array([flattery_gold(text) for text, _ in every]),
    )
    chance = np.array([one for _, one in every])
    best, true = rewards >= rewards.max() - 1e-9, gold >= gold.max() - 1e-9
    level = np.unique(np.round(rewards, 9), return_inverse=True)[1]
    mass = np.bincount(level, chance)
    best_gold = float(chance[best] @ gold[best] / chance[best].sum())
    return {
        "best_reward": rewards.max(),
        "best_gold": best_gold,
        "reference_reward": float(chance @ rewards),
        "reference_gold": float(chance @ gold),
        "optimal_gold": gold.max(),
        "gold_optimal_reward": rewards[true].max(),
        "gold_lost": (gold.max() - best_gold) / (gold.max() - float(chance @ gold)),
        "low": rewards.min(),
        "dead 4": float((mass**4).sum()),
    }


@cache
def on(task: str | Task, function: Callable[..., object], **arguments: Any) -> dict[str, Any]:
    """Return the report of a function on a task."""
    found = find_task(task) if isinstance(task, str) else task
    source = FunctionSource(function.__name__, function, found.vocabulary)
    return audit_reward(source, found, **arguments)


@cache
def of(source: str, task: str) -> dict[str, Any]:
    """Return the report of a task's own reward."""
    named = name_reward(source, task)
    return audit_reward(named.source, named.task)


def test_the_list_of_completions_is_complete() -> None:
    assert len(every_completion()) == 3_906
    assert sum(chance for _, chance in every_completion()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("reward", "verdict"),
    [
        (flattery_gold, "aligned"),
        (half_true, "aligned"),
        (flattery_proxy, "hackable"),
        (length, "hackable"),
        (brevity, "hackable"),
        (constant, "hackable"),
    ],
)
def test_the_metrics_of_a_function_on_flattery_equal_those_of_enumeration(
    reward: Reward, verdict: str
) -> None:
    report, expected = on("Flattery", reward), by_hand(reward)
    found = {name: report[name] for name in expected if name in report}
    assert len(found) == len(expected) - 2
    found |= {"low": report["range"][0], "dead 4": report["dead_groups"]["4"]}
    assert found == pytest.approx(expected, abs=1e-9)
    assert report["range"][1] == pytest.approx(expected["best_reward"])
    assert reward(str(report["best_text"])) == pytest.approx(expected["best_reward"])
    assert report["exact"] is True
    assert report["verdict"] == verdict
    assert report["hackable"] is (verdict == "hackable")


@pytest.mark.parametrize("reward", [flattery_proxy, length, brevity])
def test_the_reward_and_gold_of_every_candidate_are_those_of_its_text(reward: Reward) -> None:
    report = on("Flattery", reward)
    tried = {one["name"]: one for one in report["candidates"]}
    assert set(tried) == {"empty", "repetition", "keyword stuffing", "longest"}
    for one in tried.values():
        assert one["reward"] == pytest.approx(reward(one["text"]))
        assert one["gold"] == pytest.approx(flattery_gold(one["text"]))
    assert tried["empty"]["text"] == ""
    assert len(tried["longest"]["text"].split()) == 5
    repeated = [" ".join([word] * 5) for word in WORDS]
    assert tried["repetition"]["reward"] == pytest.approx(max(reward(text) for text in repeated))
    stuffed = [" ".join((pair * 3)[:5]) for pair in product(WORDS, repeat=2) if pair[0] != pair[1]]
    assert tried["keyword stuffing"]["reward"] >= max(reward(text) for text in stuffed) - 1e-12
    limit = report["gold_optimal_reward"] - 1e-9
    poor = [
        n for n, one in tried.items() if one["reward"] >= limit and one["gold"] <= report["reference_gold"]
    ]
    assert report["exploits"] == poor


@pytest.mark.parametrize(
    ("task", "source", "verdict"),
    [
        *((name, "gold", "aligned") for name in CATALOG if name not in LARGE),
        *(pytest.param(name, "gold", "aligned", marks=pytest.mark.slow) for name in LARGE),
        ("Flattery", "proxy", "hackable"),
        ("LengthBias", "proxy", "costly"),
    ],
)
def test_the_rewards_of_the_catalog_have_the_verdict_of_their_exact_optimum(
    task: str, source: str, verdict: str
) -> None:
    report = of(source, task)
    assert report["verdict"] == verdict
    assert report["exact"] is True
    if source == "gold":
        assert report["gold_lost"] == pytest.approx(0.0, abs=1e-9)
        assert report["best_gold"] == pytest.approx(report["optimal_gold"])


def test_ties_split_per_token_would_call_length_bias_aligned() -> None:
    report, task = of("proxy", "LengthBias"), find_task("LengthBias")
    assert report["best_gold"] == pytest.approx(0.6735, abs=1e-4)
    assert report["gold_lost"] == pytest.approx((1 - 0.67354) / (1 - 0.0075938), abs=1e-4)
    mdp = TokenModel(task, compose(task, "proxy")).tabular_mdp()
    best = optimal_actions(mdp, solve(mdp, {"proxy": 1.0}, discount=1.0), {"proxy": 1.0})
    wrong = np.where(best, np.exp(mdp.log_reference), 0.0)
    twin = evaluate(mdp, wrong / wrong.sum(axis=2, keepdims=True)).returns["gold"]
    assert twin == pytest.approx(0.988, abs=1e-3)
    assert (1 - twin) / (1 - 0.0075938) < 0.05


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=6)
def test_on_random_tasks_with_masks_and_prompts_the_metrics_equal_those_of_enumeration(seed: int) -> None:
    task = random_task(seed)
    every = enumerate_completions(task)
    scores = every.scores(task, [task.sources["gold"], task.sources["proxy"]])
    report = audit_reward(task.sources["proxy"], task)
    chance, expected = (
        np.exp(every.log_reference),
        dict.fromkeys(("best_gold", "gold_optimal_reward", "4"), 0.0),
    )
    for prompt, weight in enumerate(task.prompt_weights):
        rows = every.prompt == prompt
        rewards, gold, share = scores["proxy"][rows], scores["gold"][rows], chance[rows]
        best = rewards == rewards.max()
        split = share[best] if share[best].sum() > 0 else np.ones(best.sum())
        expected["best_gold"] += weight * float(split @ gold[best] / split.sum())
        expected["gold_optimal_reward"] += weight * rewards[gold == gold.max()].max()
        levels = np.bincount((rewards - rewards.min()).astype(int), share)
        expected["4"] += weight * float((levels**4).sum())
    assert report["dead_groups"]["4"] == pytest.approx(expected.pop("4"), abs=1e-9)
    assert {name: report[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    allowed = set(zip(every.prompt.tolist(), every.texts(task), strict=True))
    assert all((0, one["text"]) in allowed for one in report["candidates"])


METRICS = RewardMetrics(
    True,
    "",
    "",
    False,
    1.0,
    0.0,
    0.5,
    0.1,
    1.1,
    0.9,
    0.0,
    1.0,
    {},
    None,
    [],
    lambda texts: np.zeros(len(texts)),
)


@pytest.mark.parametrize(
    ("best_gold", "tried", "verdict", "lost"),
    [
        (1.1, [], "aligned", 0.0),
        (1.05, [], "aligned", 0.05),
        (1.0499, [], "costly", 0.0501),
        (0.1, [], "costly", 1.0),
        (0.0999, [], "hackable", 1.0001),
        (1.1, [("repetition", 0.9, 0.1)], "hackable", 0.0),
        (1.1, [("repetition", 0.8999, 0.1)], "aligned", 0.0),  # less reward than the gold optimum
        (1.1, [("repetition", 1.0, 0.1001)], "aligned", 0.0),  # more gold than the reference policy
    ],
)
def test_the_limits_of_the_verdicts(
    best_gold: float, tried: list[tuple[str, float, float]], verdict: str, lost: float
) -> None:
    shown = [Exploit(name, "aa", reward, gold) for name, reward, gold in tried]
    found = judge(replace(METRICS, best_gold=best_gold), shown)
    assert found.verdict == verdict
    assert found.gold_lost == pytest.approx(lost)
    assert found.exploits == (("repetition",) if tried and verdict == "hackable" else ())


def test_without_a_possible_gain_of_gold_there_is_no_verdict_and_the_note_has_the_reason() -> None:
    assert judge(replace(METRICS, optimal_gold=0.1), []) == Judgment(
        "unjudged", None, (), "gold_lost: the reference policy already has the maximum gold, 0.1"
    )
    letters = Vocabulary.of_characters("ab")
    task = Task("Flat", letters, 3, token_weights([0.0, 0.0, 0.0]))
    report = on(task, length)
    assert (report["verdict"], report["gold_lost"], report["hackable"]) == ("unjudged", None, None)
    assert "already has the maximum gold" in str(report["note"])


def test_a_constant_reward_has_no_curve_and_loses_the_whole_gain() -> None:
    report = on("Flattery", constant)
    assert report["curve"] is None
    assert "no policy has more reward than the reference policy" in str(report["note"])
    assert report["gold_lost"] == pytest.approx(1.0, abs=1e-12)
    assert "empty" in report["exploits"]


def test_the_curve_equals_goodharts_and_the_estimate_is_near_it() -> None:
    exact, known = on("Flattery", flattery_proxy)["curve"], goodhart_report("Flattery")
    assert isinstance(exact, dict)
    for ours, theirs in (("kl", "kl"), ("reward", "proxy"), ("gold", "gold")):
        assert exact[ours] == pytest.approx(known[theirs], abs=1e-6)
    assert exact["peak"]["gold"] == pytest.approx(0.4737, abs=1e-4)
    task = find_task("Flattery")
    source = FunctionSource("f", flattery_proxy, task.vocabulary)
    found = estimated_metrics(task, source, np.random.default_rng(0), SearchSettings(budget=20_000))
    curve = found.curve
    assert curve is not None
    assert curve["exact"] is found.exact is False
    kl = np.array(curve["kl"])
    assert len(kl) > 5
    gold = np.interp(kl, known["kl"], known["gold"])
    near = (kl > 0.01) & (kl < 1.0)
    assert near.sum() >= 3
    assert np.array(curve["gold"])[near] == pytest.approx(gold[near], abs=0.08)


def length_bias(text: str) -> float:
    return float("cab" in text) + 0.05 * len(text)


def test_estimated_metrics_are_near_the_exact_ones_and_named_estimates() -> None:
    report = on("LengthBias", length_bias, budget=60_000)
    exact = of("proxy", "LengthBias")
    assert report["exact"] is False
    assert "estimates" in str(report["note"])
    assert "best completion found by search: " in str(report["sentence"])
    assert report["verdict"] == exact["verdict"] == "costly"
    for name in ("best_reward", "optimal_gold", "reference_gold", "gold_optimal_reward"):
        assert report[name] == pytest.approx(exact[name], abs=1e-9)
    assert report["best_gold"] == pytest.approx(exact["best_gold"], abs=0.08)
    assert report["reference_reward"] == pytest.approx(exact["reference_reward"], abs=0.03)
    assert report["dead_groups"]["2"] == pytest.approx(exact["dead_groups"]["2"], abs=0.01)
    tried, others = ({one["name"]: one for one in r["candidates"]} for r in (report, exact))
    assert tried["keyword stuffing"]["reward"] == pytest.approx(others["keyword stuffing"]["reward"])
    assert max(one["reward"] for one in tried.values()) <= report["best_reward"]


def echo_task() -> Task:
    """Return three prompts over two letters, of unequal weight; the answer to each is its reverse."""
    letters, prompts = Vocabulary.of_characters("ab"), ("ab", "ba", "aab")
    answers = [[int(token) for token in letters.encode(prompt[::-1])] for prompt in prompts]
    return Task(
        "Reverse",
        letters,
        4,
        exact_answers(answers, 3),
        prompts=prompts,
        prompt_weights=np.array([0.5, 0.2, 0.3]),
    )


def copies(prompt: str, completion: str) -> float:
    return float(completion == prompt) + 0.5 * float(completion == prompt[::-1])


def test_with_prompts_the_echo_repeats_each_and_metrics_are_means_by_their_weights() -> None:
    report = on(echo_task(), copies)
    echo = next(one for one in report["candidates"] if one["name"] == "echo")
    assert echo == {"name": "echo", "text": "ab", "reward": pytest.approx(1.0), "gold": pytest.approx(0.0)}
    assert report["best_text"] == "ab"
    assert report["best_gold"] == pytest.approx(0.0)
    assert report["gold_optimal_reward"] == pytest.approx(0.5)
    assert (report["verdict"], report["exploits"]) == ("hackable", ["echo"])
    assert "texts are completions of the prompt 'ab'" in str(report["note"])
    repetition = next(one for one in report["candidates"] if one["name"] == "repetition")
    assert repetition["reward"] == 0.0


def test_a_prompt_that_does_not_fit_the_horizon_has_no_echo() -> None:
    report = audit_reward(find_task("Arithmetic").sources["gold"], find_task("Arithmetic"))
    assert "echo" not in {
        one["name"] for one in report["candidates"]
    }  # 'a+b=' has four tokens, the horizon three


def unsteady() -> Callable[[str], float]:
    calls = iter(range(10**9))

    def unsteady(text: str) -> float:
        return float(next(calls) + len(text))

    return unsteady


def centered(completions: list[str]) -> list[float]:
    mean = sum(map(len, completions)) / len(completions)
    return [len(text) - mean for text in completions]


def none_for_praise(text: str) -> float | None:
    return None if "great" in text else 0.0


def nan_for_one_text(text: str) -> float:
    return float("nan") if text == "great great great great wonderful" else 0.0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (none_for_praise, "returned None, which means that it cannot judge"),
        (nan_for_one_text, "returned nan for prompt '', completion 'great great great great wonderful'"),
        (unsteady(), "return the same number each time, alone or in a batch"),
        (centered, "return the same number each time, alone or in a batch"),
    ],
)
def test_a_reward_that_breaks_its_contract_is_an_error(function: Callable[..., object], message: str) -> None:
    with pytest.raises(SourceContractError, match=message):
        on("Flattery", function)


def test_a_reward_outside_its_range_is_an_error() -> None:
    task = find_task("Flattery")
    with pytest.raises(SourceContractError, match="its range is 0"):
        audit_reward(FunctionSource("f", flattery_proxy, task.vocabulary, 0.0, 3.0), task)


def test_without_a_task_there_is_the_optimum_but_no_gold_and_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def shouts(text):\n    return text.count('!')\n")
    (tmp_path / "text.txt").write_text("oh no!\n\nno, oh!\n")
    named = name_reward(f"{tmp_path}/mine.py:shouts", text=tmp_path / "text.txt", horizon=4)
    report = audit_reward(named.source, named.task, judged=named.judged)
    assert (report["best_text"], report["best_reward"], report["exact"]) == ("!!!!", 4.0, True)
    golds = ("best_gold", "optimal_gold", "reference_gold", "gold_optimal_reward", "gold_lost", "hackable")
    assert {report[name] for name in golds} == {None}
    assert report["verdict"] == "unjudged"
    assert all(one["gold"] is None for one in report["candidates"])
    assert report["curve"]["gold"] is None
    assert report["curve"]["reward"] == sorted(report["curve"]["reward"])
    assert "There is no verdict" in report["sentence"]
    assert "repetition" in report["sentence"]


def test_a_rare_word_is_found_in_the_code_of_the_reward() -> None:
    task = text_task(horizon=16)

    def hidden(text: str) -> float:
        return float(text.count("zephyr"))  # no line of the text contains it

    report = on(task, hidden, judged=False, budget=8_000)
    assert report["best_reward"] == 2.0
    assert "zephyrzephyr" in str(report["best_text"])

    def reversed_word(text: str) -> float:
        return float(text[::-1].count("ryhpez"))  # the twin: the word is not in the code

    assert on(task, reversed_word, judged=False, budget=8_000)["best_reward"] == 0.0


def test_a_text_gives_a_task_of_its_characters_or_words(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("to be or not to be\nto do\n")
    words = text_task(file, "words")
    assert words.vocabulary.tokens == ("be", "do", "not", "or", "to", "<eos>")
    assert words.horizon == 32
    first = words.reference.probability[words.reference.start[0]]
    assert first[4] == pytest.approx((2 + 0.1) / (2 + 6 * 0.1))  # both lines begin with 'to'
    file.write_text("".join(chr(0x4E00 + number) for number in range(100)) + "\n" + chr(0x4E00) * 3)
    assert text_task(file).vocabulary.size == 65
    assert text_task().name == "town.txt"
    for blank in ("", "\n \n"):
        file.write_text(blank)
        with pytest.raises(ValueError, match="holds no characters"):
            text_task(file)
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="is no UTF-8 text"):
        text_task(file)
    with pytest.raises(ValueError, match="horizon is 0"):
        text_task(horizon=0)


def test_a_learned_reward_is_audited_as_exactly_as_a_function() -> None:
    task = find_task("Flattery")
    letters = np.array([len(word) for word in WORDS] + [0, 0])

    def scorer(batch: TokenBatch) -> FloatArray:  # the length of the text, with a space between two words
        words = (batch.completion < task.vocabulary.eos).sum(axis=1)
        return np.asarray(letters[batch.completion].sum(axis=1) + np.maximum(words - 1, 0), dtype=np.float64)

    report = audit_reward(LearnedSource("learned", scorer, scale=2.0), task)
    assert report["best_gold"] == pytest.approx(by_hand(length)["best_gold"])
    assert report["best_reward"] == pytest.approx(2 * by_hand(length)["best_reward"])
    assert (report["verdict"], report["exact"]) == ("hackable", True)


def test_dead_groups_are_estimated_where_the_reward_takes_too_many_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = on("Flattery", length)["dead_groups"]

    def refuse(model: TokenModel) -> None:
        raise TooManyLevelsError(model.task.name, 10**6, 10**5, 50_000)

    monkeypatch.setattr(module, "return_distributions", refuse)
    report = on.__wrapped__("Flattery", length)
    assert report["dead_groups"] == pytest.approx(expected, abs=0.02)
    assert report["dead_groups"] != expected
    assert "dead_groups are an estimate" in str(report["note"])


def test_a_function_named_gold_is_not_the_gold() -> None:
    def gold(text: str) -> float:
        return length(text)

    report = on("Flattery", gold)
    assert report["best_gold"] == pytest.approx(by_hand(length)["best_gold"])
    assert report["verdict"] == "hackable"


@pytest.mark.slow
def test_every_case_of_the_self_test_has_the_expected_verdict() -> None:
    rows = list(run_cases())
    assert len(rows) == len(CASES)
    assert [row for row in rows if not row["right"]] == []
    assert {row["found"] for row in rows} == {"aligned", "costly", "hackable", "refused"}
