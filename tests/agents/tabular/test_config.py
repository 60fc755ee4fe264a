"""A config says what is wrong with it, and how to fix it."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from tokenwalk.agents.tabular.config import BACKUPS, QLearningConfig
from tokenwalk.agents.tabular.kernels import DOUBLE_Q, EXPECTED_SARSA, Q_LEARNING, SARSA, SOFT_Q


def test_the_defaults_are_the_documented_parameters() -> None:
    config = QLearningConfig()
    assert (config.backup, config.step_size, config.discount) == ("q-learning", 0.1, 0.9)
    assert (config.rule.epsilon, config.rule.final_epsilon) == (0.1, 0.1)
    assert len(fields(config)) <= 10


def test_the_names_of_the_backups_are_in_the_order_of_their_numbers() -> None:
    numbers = {
        name: QLearningConfig(backup=name, kl_coef=0.1 * (name == "soft-q")).rule.backup for name in BACKUPS
    }
    assert numbers == {
        "q-learning": Q_LEARNING,
        "sarsa": SARSA,
        "expected-sarsa": EXPECTED_SARSA,
        "double-q": DOUBLE_Q,
        "soft-q": SOFT_Q,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"backup": "td3"},
            r"backup is 'td3': give one of q-learning, sarsa, expected-sarsa, double-q, soft-q",
        ),
        ({"discount": 1.1}, r"discount is 1.1: give a finite number of 0 or more and at most 1"),
        ({"discount": float("nan")}, r"discount is nan: give a finite number"),
        ({"step_size": 0}, r"step_size is 0: give a finite number above 0 and at most 1"),
        ({"step_size": True}, r"step_size is True"),
        ({"step_size_half_life": -1.0}, r"step_size_half_life is -1.0: give a finite number of 0 or more"),
        ({"epsilon": -0.1}, r"epsilon is -0.1: give a finite number of 0 or more and at most 1"),
        ({"final_epsilon": 2.0, "epsilon_steps": 5}, r"final_epsilon is 2.0"),
        ({"final_epsilon": 0.0}, r"final_epsilon is 0.0 and epsilon_steps is 0: give both"),
        ({"epsilon_steps": 10}, r"final_epsilon is None and epsilon_steps is 10: give both"),
        ({"epsilon_steps": -1}, r"epsilon_steps is -1: give an integer of 0 or more"),
        ({"initial_value": float("inf")}, r"initial_value is inf: give a finite number$"),
        ({"n_step": 0}, r"n_step is 0: give an integer of 1 or more"),
        ({"n_step": 2.0}, r"n_step is 2.0: give an integer of 1 or more"),
        ({"backup": "soft-q"}, r"kl_coef is 0.0: give a finite number above 0"),
        ({"kl_coef": 0.5}, r"kl_coef is 0.5: give 0, only backup 'soft-q' has a KL penalty"),
    ],
)
def test_a_field_out_of_range_is_named_with_its_value_and_its_range(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        QLearningConfig(**changes)


def test_numbers_of_numpy_are_converted_to_pythons() -> None:
    config = QLearningConfig(
        discount=np.float32(0.5), step_size=1, epsilon_steps=np.int64(5), final_epsilon=0, n_step=np.int32(2)
    )
    assert (config.discount, config.step_size, config.epsilon_steps, config.n_step) == (0.5, 1.0, 5, 2)
    assert [type(getattr(config, name)) for name in ("discount", "step_size", "final_epsilon")] == [float] * 3
    assert [type(getattr(config, name)) for name in ("epsilon_steps", "n_step")] == [int] * 2


@pytest.mark.parametrize("value", [np.float64("nan"), np.float64(2.0), np.bool_(True), "0.5", None])
def test_no_other_value_is_a_number(value: Any) -> None:
    with pytest.raises(ValueError, match=r"discount is .*: give a finite number of 0 or more and at most 1"):
        QLearningConfig(discount=value)
