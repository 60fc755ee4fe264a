"""The work of ``tokenwalk benchmark lm``, on a language model of 8 columns: each returns the tokens that it counts."""

import pytest
import torch

from tokenwalk.agents.backprop.configs import LMConfig
from tokenwalk.agents.study.benchmark import environments, language

TINY = LMConfig(n_layers=1, n_heads=1, width=8)
HORIZON = 24  # of Lexicon


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Use one thread of torch, as the benchmark does."""
    torch.set_num_threads(1)


def test_no_completion_of_the_model_ends_early() -> None:
    assert language.generation(TINY, 3)() == (256 // 3) * 3 * HORIZON
    assert language.generation(TINY, 256)() == 256 * HORIZON
    assert language.generation_without_cache(TINY, 5)() == 5 * HORIZON


def test_pre_training_and_updates_return_their_tokens() -> None:
    assert language.pretraining(TINY, batch=2)() == 6 * 2 * HORIZON
    assert language.updates(TINY, count=1)() == 16 * 16 * HORIZON


def test_a_matrix_product_is_counted_in_tokens_of_training() -> None:
    lm, _ = language.endless_lm(TINY)
    named = lm.network.named_parameters()
    weights = sum(one.numel() for name, one in named if "tokens" not in name and "places" not in name)
    assert language.products(TINY, size=64, times=3)() == round(3 * 2 * 64**3 / (6 * weights))


def test_threads_are_changed_for_the_work_alone() -> None:
    seen: list[int] = []

    def work() -> int:
        seen.append(torch.get_num_threads())
        return 7

    assert language.threaded(work, 2)() == 7
    assert (seen, torch.get_num_threads()) == ([2], 1)


def test_the_contests_of_the_language_model_have_one_unit_and_different_names() -> None:
    contests = language.language_contests()
    assert {contest.unit for contest in contests} == {"tokens/s"}
    assert len({contest.name for contest in contests}) == len(contests) == 2 + 4 + 4


def test_scores_at_once_and_one_by_one_return_their_completions() -> None:
    at_once, one_by_one = environments.scoring_both_ways("linear")
    assert (at_once(), one_by_one()) == (1_024, 64)


def test_training_of_a_reward_model_and_products_return_tokens() -> None:
    learn, multiply = environments.training_against_products(width=16)
    assert learn() == 10 * 128 * 17  # updates, batch, and Keyword's 16 tokens after the start
    assert multiply() > 0


def test_ppo_returns_its_frames() -> None:
    from tokenwalk.agents.baselines.sb3 import make_vec_env

    walk = "tokenwalk/CounterWalk-v0"
    assert (
        environments.ppo_frames(walk, make_vec_env(walk, 8), steps=256, num_envs=8, rollout_steps=32)() == 256
    )


@pytest.mark.parametrize(
    ("part", "count", "units"),
    [
        ("tokens", 1 + 4 + 4, {"steps/s", "updates/s"}),
        ("learning", 3, {"updates/s"}),
        ("sb3", 2, {"frames/s"}),
        ("rewards", 4, {"texts/s", "tokens/s", "fits/s"}),
    ],
)
def test_each_part_has_its_contests_with_different_names(part: str, count: int, units: set[str]) -> None:
    contests = environments.PARTS[part]()
    assert len({contest.name for contest in contests}) == len(contests) == count
    assert {contest.unit for contest in contests} == units
