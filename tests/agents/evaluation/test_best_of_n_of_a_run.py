"""The best of n of a policy: the exact law against what is drawn."""

import pytest
from random_tasks import random_task

from tokenwalk.agents.backprop.configs import LMConfig
from tokenwalk.agents.backprop.lm import fresh_lm, reference_lm
from tokenwalk.agents.evaluation import best_of_n as module
from tokenwalk.agents.evaluation.best_of_n import best_of
from tokenwalk.envs.tasks import find_task
from tokenwalk.envs.token_model import TokenModel, compose

SMALL = LMConfig(n_layers=1, n_heads=2, width=16)


@pytest.mark.parametrize("seed", [0, 1])  # of prompts, and masks
@pytest.mark.parametrize("n", [1, 4])
def test_what_is_drawn_agrees_with_the_exact_law(seed: int, n: int) -> None:
    task = random_task(seed)
    found = best_of(TokenModel(task, compose(task, "gold")), fresh_lm(task, SMALL, seed=1), n, seed=3)
    low, high = found["sampled"]["interval"]
    assert (
        abs(found["sampled"]["return"] - found["exact"]["return"]) <= (high - low) + 1e-9
    )  # four standard errors
    assert found["exact"]["kl"] <= found["exact"]["bound"] + 1e-12


def test_of_too_many_texts_only_drawings_are_given_and_of_too_many_at_once_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = find_task("Keyword")
    model, lm = TokenModel(task, compose(task, "gold")), reference_lm(task, SMALL, seed=0)
    monkeypatch.setattr(module, "CHOICES", 50)
    found = best_of(model, lm, 8)
    assert found["exact"] is None
    assert found["sampled"]["choices"] == 50
    assert best_of(model, lm, 10**6)["sampled"] is None
    with pytest.raises(ValueError, match="n is 0"):
        best_of(model, lm, 0)
