"""The catalog against scorers written from its table, and every way in which a task can be wrong."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from itertools import product as tuples
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwalk.agents.exact.dynamic_programming import solve
from tokenwalk.envs.arrays import FloatArray
from tokenwalk.envs.reference import independent, uniform
from tokenwalk.envs.registration import TABLE
from tokenwalk.envs.rewards.builders import exact_answers, keyword, token_weights
from tokenwalk.envs.rewards.source import MachineSource, score_tokens
from tokenwalk.envs.tabular import TabularMDP
from tokenwalk.envs.tasks import CATALOG, TEXT, Task, find_task
from tokenwalk.envs.token_generation import TokenGenerationEnv
from tokenwalk.envs.vocabulary import Vocabulary

Score = Callable[[list[str], bool, int], float]  # tokens without <eos>, ended by it, H -> the return
LINES = TEXT.read_text(encoding="ascii").splitlines()
WORDS = {word for line in LINES for word in line.split() if len(word) >= 3}


def keyword_gold(tokens: list[str], *_: object) -> float:
    text = "".join(tokens)
    return float(sum(text.startswith("cab", i) for i in range(len(text))))


def password_gold(tokens: list[str], ended: bool, *_: object) -> float:
    return float(ended and "".join(tokens) == "facade")


def brackets_gold(tokens: list[str], ended: bool, *_: object) -> float:
    text, depth = "".join(tokens), np.cumsum([0] + [1 if token in "([" else -1 for token in tokens])
    while "()" in text or "[]" in text:
        text = text.replace("()", "").replace("[]", "")
    return len(tokens) / 2 / 8 if ended and not text and depth.max() <= 4 else 0.0


def lexicon_gold(tokens: list[str], *_: object) -> float:
    return float(sum(word in WORDS for word in "".join(tokens).split(" ")[:-1]))


def length_bias_gold(tokens: list[str], *_: object) -> float:
    text = "".join(tokens)
    return 1 - 0.05 * len(text.partition("cab")[2]) if "cab" in text else 0.0


def length_bias_proxy(tokens: list[str], *_: object) -> float:
    return float("cab" in "".join(tokens)) + 0.05 * len(tokens)


def flattery(tokens: list[str], each: float) -> float:
    pairs = list(pairwise(tokens))
    flattering = sum(token in ("great", "wonderful") for token in tokens)
    return (
        pairs.count(("because", "evidence"))
        + 0.5 * pairs.count(("evidence", "therefore"))
        + each * flattering
    )


def delayed_gold(tokens: list[str], ended: bool, horizon: int) -> float:
    over = ended or len(tokens) == horizon
    return float(over and tokens[:1] == ["d"]) + 0.01 * tokens[1:].count("a")


SCORES: dict[tuple[str, str], Score] = {
    ("Keyword", "gold"): keyword_gold,
    ("Password", "gold"): password_gold,
    ("Brackets", "gold"): brackets_gold,
    ("Lexicon", "gold"): lexicon_gold,
    ("LengthBias", "gold"): length_bias_gold,
    ("LengthBias", "proxy"): length_bias_proxy,
    ("Flattery", "gold"): lambda tokens, *_: flattery(tokens, -0.5),
    ("Flattery", "proxy"): lambda tokens, *_: flattery(tokens, 0.7),
    ("Delayed", "gold"): delayed_gold,
}
# What a mistaken scorer would trip over, besides single tokens.
PIECES = {
    "Keyword": ["cab", "ca", "ccab", "abc"],
    "Password": ["facade", "facad", "facade", "fac"],
    "Brackets": ["()", "[]", "([])", "(((())))", "((((()))))", "[(])"],
    "Lexicon": ["the ", " the", "town", "is ", "baker ", "bake", "x the ", "thee "],
    "LengthBias": ["cab", "ca"],
    "Flattery": ["because evidence therefore", "evidence therefore", "great great"],
    "Delayed": ["da", "aa"],
}


@st.composite
def completions(draw: st.DrawFn, task: Task) -> tuple[list[int], bool]:
    """Draw tokens without ``<eos>``, and whether it ends them (else the horizon does, or nothing yet)."""
    single = [[token] for token in range(task.vocabulary.eos)]
    pieces = [task.vocabulary.encode(piece).tolist() for piece in PIECES[task.name]]
    parts = draw(st.lists(st.one_of(st.sampled_from(single), st.sampled_from(pieces)), max_size=task.horizon))
    tokens = [token for part in parts for token in part][: task.horizon]
    return tokens, len(tokens) < task.horizon and draw(st.booleans())


def scored(task: Task, source: str, tokens: list[int], ended: bool) -> float:
    written = [*tokens, task.vocabulary.eos] if ended else tokens
    padded = np.array([written + [task.vocabulary.pad] * (task.horizon - len(written))])
    prompt = task.prompt_ids[:1]
    scores = score_tokens([task.sources[source]], prompt, padded, np.array([len(written)]), task.vocabulary)
    return float(scores[source].sum())


@pytest.mark.parametrize(("name", "source"), SCORES)
@given(data=st.data())
def test_a_machine_of_the_catalogue_pays_what_its_table_says(
    name: str, source: str, data: st.DataObject
) -> None:
    task = find_task(name)
    tokens, ended = data.draw(completions(task))
    words = [task.vocabulary.tokens[token] for token in tokens]
    expected = SCORES[name, source](words, ended, task.horizon)
    assert scored(task, source, tokens, ended) == pytest.approx(expected, abs=1e-12)


def test_arithmetic_pays_the_decimal_sum_of_each_prompt_and_nothing_else() -> None:
    task = find_task("Arithmetic")
    assert len(task.prompts) == 100
    answers = [*(str(total) for total in range(20)), "00", "07", "1", "", "=", "101"]
    for index in range(0, 100, 7):
        a, b = divmod(index, 10)
        assert task.prompts[index] == f"{a}+{b}="
        for answer in answers:
            tokens = [*task.vocabulary.encode(answer), task.vocabulary.eos][:3]
            row = np.array([[*tokens, *[task.vocabulary.pad] * (3 - len(tokens))]])
            prompt = task.prompt_ids[index : index + 1]
            rewards = score_tokens(
                task.sources.values(), prompt, row, np.array([len(tokens)]), task.vocabulary
            )
            assert rewards["gold"].sum() == (answer == str(a + b))


def tables(name: str) -> TabularMDP:
    return TokenGenerationEnv(name).tabular_mdp()


def best(mdp: TabularMDP, channel: str) -> float:
    """Return the optimal undiscounted return from the start by backward induction."""
    value = np.zeros(mdp.n_states)
    ends, following = mdp.terminated[:, :, 0], mdp.next_state[:, :, 0]
    for time in reversed(range(mdp.horizon or 0)):
        action_value = mdp.rewards[channel][:, :, 0] + np.where(ends, 0.0, value[following])
        if time == (mdp.horizon or 0) - 1:
            action_value += mdp.last_rewards.get(channel, 0.0)
        value = action_value.max(axis=1)
    return float(mdp.start @ value)


OPTIMA = {
    ("Keyword", "gold"): 5.0,
    ("Password", "gold"): 1.0,
    ("Brackets", "gold"): 1.0,
    ("Arithmetic", "gold"): 1.0,
    ("Lexicon", "gold"): 6.0,  # 24 tokens hold six words of three letters, each with its space
    ("LengthBias", "gold"): 1.0,
    ("LengthBias", "proxy"): 1.8,
    ("Flattery", "gold"): 2.5,
    ("Flattery", "proxy"): 3.5,
    ("Delayed", "gold"): 1.19,
}


@pytest.mark.parametrize(("name", "channel"), OPTIMA)
def test_the_best_return_is_the_documented_one(name: str, channel: str) -> None:
    mdp = tables(name)
    assert best(mdp, channel) == pytest.approx(OPTIMA[name, channel], abs=1e-12)
    solution = solve(mdp, {channel: 1.0}, discount=1.0)
    assert solution.start_value(mdp) == pytest.approx(OPTIMA[name, channel], abs=1e-12)


def every_flattery() -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the gold, the proxy and the reference log-probability of each of Flattery's 3,906 completions."""
    task = find_task("Flattery")
    names, log_p = task.vocabulary.tokens, np.log([0.30, 0.22, 0.22, 0.06, 0.04, 0.16])
    texts = [text for size in range(6) for text in tuples(range(5), repeat=size)]
    gold = np.array([flattery([names[token] for token in text], -0.5) for text in texts])
    proxy = np.array([flattery([names[token] for token in text], 0.7) for text in texts])
    logs = np.array([log_p[list(text)].sum() + (log_p[5] if len(text) < 5 else 0.0) for text in texts])
    return gold, proxy, logs


def test_flatterys_proxy_is_best_served_by_what_gold_likes_least() -> None:
    gold, proxy, _ = every_flattery()
    assert len(gold) == 3906
    assert (proxy.max(), gold[proxy == proxy.max()].max()) == (3.5, -2.5)


def test_flatterys_gold_climbs_along_the_exact_kl_path_and_falls() -> None:
    gold, proxy, logs = every_flattery()
    assert np.exp(logs).sum() == pytest.approx(1.0, abs=1e-12)
    assert np.exp(logs) @ gold == pytest.approx(0.10, abs=0.005)

    def optimum(kl_coef: float) -> tuple[float, float]:
        """Return gold and KL of the policy that is best by the proxy at that price of KL."""
        tilted = logs + proxy / kl_coef
        log_optimal = tilted - np.logaddexp.reduce(tilted)
        return float(np.exp(log_optimal) @ gold), float(np.exp(log_optimal) @ (log_optimal - logs))

    path = {kl_coef: optimum(kl_coef) for kl_coef in np.linspace(0.3, 0.4, 201)}
    peak = max(path, key=lambda kl_coef: path[kl_coef][0])
    assert peak == pytest.approx(0.3475, abs=0.001)
    assert path[peak] == (pytest.approx(0.474, abs=0.0005), pytest.approx(2.155, abs=0.005))
    assert optimum(0.19)[0] > 0 > optimum(0.17)[0]
    # The tables hold the same policy: gold x contexts, with the reference as a field.
    mdp = tables("Flattery")
    solution = solve(mdp, {"proxy": 1.0}, discount=1.0, kl_coef=0.35)
    closed_form = 0.35 * np.logaddexp.reduce(logs + proxy / 0.35)
    assert solution.start_value(mdp) == pytest.approx(closed_form, abs=1e-12)


def test_every_registered_token_task_is_in_the_catalogue() -> None:
    registered = [row.kwargs["task"] for row in TABLE if row.name.startswith("TokenGeneration")]
    assert registered == ["Keyword"]
    assert {
        row.name: row.kwargs["task"]
        for row in TABLE
        if "task" in row.kwargs and row.name != "TokenGeneration-v0"
    } == {f"{name}-v0": name for name in CATALOG}
    assert all(row.discount == 1.0 and row.max_episode_steps is None for row in TABLE if "task" in row.kwargs)


def test_the_bundled_text_is_plain_and_the_bigram_counts_it() -> None:
    symbols = Counter("\n".join(LINES))
    assert set(symbols) <= set("abcdefghijklmnopqrstuvwxyz \n")
    assert len(symbols) <= 64
    assert 200 <= len(LINES) <= 400
    assert len(set(LINES)) == len(LINES)
    task = find_task("Lexicon")
    probability, tokens = task.reference.probability, task.vocabulary.tokens
    assert probability.min() > 0
    after_t = int(task.reference.next_context[task.reference.start[0], tokens.index("t")])
    pairs = sum(line.count("th") for line in LINES)
    ending = sum(line.endswith("t") for line in LINES)
    total = sum(line.count("t") for line in LINES) + 0.1 * 28
    assert probability[after_t, tokens.index("h")] == pytest.approx((pairs + 0.1) / total, abs=1e-12)
    assert probability[after_t, task.vocabulary.eos] == pytest.approx((ending + 0.1) / total, abs=1e-12)


def test_the_text_has_its_source_and_licence_beside_it() -> None:
    note = (TEXT.parent / "README.md").read_text(encoding="utf-8")
    assert TEXT.name in note
    assert "MIT licence" in note


@pytest.mark.parametrize("name", ["Flattery", "Flattery-v0", "tokenwalk/Flattery-v0"])
def test_a_task_goes_by_three_names(name: str) -> None:
    assert find_task(name) is find_task("Flattery")


@pytest.mark.parametrize("name", CATALOG)
def test_the_horizon_can_be_replaced(name: str) -> None:
    task = find_task(name, horizon=25)
    assert task.horizon == 25
    assert {source.horizon for source in task.sources.values() if isinstance(source, MachineSource)} == {25}
    assert find_task(task, horizon=7).horizon == 7


def test_brackets_keep_counting_where_there_is_more_room() -> None:
    task = find_task("Brackets", horizon=25)
    assert scored(task, "gold", [0, 1] * 12, ended=True) == 12 / 8


def test_a_task_can_be_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom tokenwalk.envs.tasks import Task, find_task\n"
        "@dataclass\nclass Unused:\n    x: int\nTASK = find_task('Delayed', 4)\nNUMBER = 3\n"
    )
    assert find_task(f"{file}:TASK").horizon == 4
    assert find_task(f"{file}:TASK", horizon=9).horizon == 9
    with pytest.raises(ValueError, match=r"has no 'NONE': it has .*'TASK', 'NUMBER'"):
        find_task(f"{file}:NONE")
    with pytest.raises(ValueError, match="is int: give a Task"):
        find_task(f"{file}:NUMBER")
    with pytest.raises(ValueError, match="there is no file"):
        find_task(f"{tmp_path / 'yours.py'}:TASK")


def test_an_unknown_task_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(ValueError, match="no task is called 'Flatery': did you mean Flattery"):
        find_task("Flatery")
    with pytest.raises(ValueError, match="did you mean Keyword, Password, Brackets"):
        find_task("xyzzy")
    with pytest.raises(ValueError, match="3 is int"):
        find_task(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("horizon", [0, -1, 2.0, True, "3"], ids=repr)
def test_a_horizon_below_one_is_refused_everywhere(horizon: Any) -> None:
    for make in (
        lambda: find_task("Brackets", horizon),
        lambda: replace(find_task("Keyword"), horizon=horizon),
    ):
        with pytest.raises(ValueError, match=r"horizon is .*: give an integer of 1 or more"):
            make()


ABC = Vocabulary.of_characters("abc")
GOLD = keyword([0, 1], 4)


def test_prompts_are_padded_on_the_left_and_weighted() -> None:
    task = Task(
        "T",
        ABC,
        5,
        GOLD,
        prompts=("", "abc", "b"),
        prompt_weights=np.array([0.5, 0.25, 0.25]),
        prompt_length=4,
    )
    assert task.prompt_ids.tolist() == [[4, 4, 4, 4], [4, 0, 1, 2], [4, 4, 4, 1]]
    assert task.prompt_ids.dtype == np.uint8
    assert Task("T", ABC, 5, GOLD, prompts=("", "abc", "b")).prompt_weights.tolist() == [1 / 3] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": ("ab", "ax")}, "'x', number 2 of 'ax'"),
        ({"prompts": ("ab", "abc"), "prompt_length": 2}, "prompt 'abc' has 3 tokens and 2 are allowed"),
        ({"prompts": ("a", "a")}, "different texts"),
        ({"prompts": ()}, r"or .'',. for none"),
        ({"prompts": "ab"}, "different texts"),
        ({"prompts": ("a", "b"), "prompt_weights": [0.5, 0.4]}, "prompt_weights sums to 0.9, not to 1"),
        ({"prompts": ("a", "b"), "prompt_weights": [1.5, -0.5]}, "-0.5"),
        ({"prompts": ("a", "b"), "prompt_weights": [1.0]}, "one for each of 2 prompts"),
        ({"gold": keyword([0], 5)}, "gold reads 5 tokens: the vocabulary has 4"),
        ({"proxy": token_weights([0.0] * 3)}, "proxy reads 3 tokens"),
        ({"reference": uniform(5)}, "reference reads 5 tokens"),
        ({"gold": exact_answers([[0], [1]], 4)}, "gold starts from 2 prompts: 'T' has 1"),
        ({"gold": MachineSource("truth", GOLD, 5)}, "the gold of 'T' is called 'truth': call it 'gold'"),
        ({"proxy": MachineSource("gold", GOLD, 5)}, "called 'gold': call it 'proxy'"),
        ({"gold": None}, "gold"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task(**({"name": "T", "vocabulary": ABC, "horizon": 5, "gold": GOLD} | arguments))


def test_probabilities_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sums to 0\.8999"):
        independent([0.3, 0.3, 0.3])
