"""An episode of a person: typed tokens are played, and the best return still possible is exact at every step."""

import itertools

import pytest

from tokenwalk.agents.problem.problem import open_problem
from tokenwalk.agents.study.commands.play import Table, play_episode


def play(env: str, lines: list[str], seed: int = 0) -> tuple[Table, list[str], bool]:
    shown: list[str] = []
    table, typed = Table(open_problem(env), seed), iter(lines)
    over = play_episode(table, lambda: next(typed, None), shown.append)
    return table, shown, over


def test_the_best_return_still_possible_equals_that_of_enumeration() -> None:
    words = ("because", "evidence", "therefore", "great", "wonderful")

    def gold(completion: tuple[str, ...]) -> float:
        praise = -0.5 * sum(word in ("great", "wonderful") for word in completion)
        pairs = list(itertools.pairwise(completion))
        return (
            praise
            + sum(p == ("because", "evidence") for p in pairs)
            + 0.5 * sum(p == ("evidence", "therefore") for p in pairs)
        )

    table = Table(open_problem("Flattery"), 0)
    begun: tuple[str, ...] = ()
    for word in ("because", "great", "because", "evidence"):
        table.append(word)
        begun = (*begun, word)
        endings = (end for size in range(6 - len(begun)) for end in itertools.product(words, repeat=size))
        assert table.best_possible() == pytest.approx(max(gold((*begun, *end)) for end in endings))


def test_an_episode_ends_with_the_return_the_optimum_and_a_text_that_attains_it() -> None:
    table, shown, over = play("Keyword", ["cab", "cabcab", ""])
    assert over
    assert table.return_ == 3.0
    assert "the optimum is +5" in shown[-1]
    assert "cabcabcabcabcab" in shown[-1]


def test_a_wrong_token_is_named_and_the_episode_does_not_change() -> None:
    table, shown, over = play("Arithmetic", ["x", "quit"], seed=3)
    assert not over
    assert table.length == 0
    assert any("'x' is not allowed here" in text for text in shown)
    assert "after" in table.optimum()


def test_only_token_tasks_can_be_played() -> None:
    with pytest.raises(ValueError, match="is no token task"):
        Table(open_problem("CounterWalk"), 0)
