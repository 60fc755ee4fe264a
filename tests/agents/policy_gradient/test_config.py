"""Configs of the language model's algorithms."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from tokenwalk.agents.policy_gradient.config import (
    AGENTS,
    PLACEMENTS,
    FineTuningConfig,
    PolicyGradientConfig,
    check_groups,
    default_config,
    default_steps,
)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"groups": 0}, "groups is 0: give an integer of 1 or more"),
        ({"epochs": 1.5}, "epochs is 1.5: give an integer"),
        ({"kl_coef": -0.1}, "kl_coef is -0.1: give a finite number of 0 or more"),
        ({"kl_coef": float("nan")}, "kl_coef is nan: give a finite number"),
        ({"learning_rate": 0}, "learning_rate is 0: give a finite number above 0"),
        ({"clip": True}, "clip is True: give a finite number above 0"),
        ({"kl": "k4"}, "kl is 'k4': give one of k1-in-reward, k2-loss"),
        ({"kl_to": "start"}, "kl_to is 'start': give reference or model"),
        ({"normalization": "std"}, "normalization is 'std': give length or constant"),
        ({"kl_anneal": 0}, "kl_anneal is 0: give a finite number above 0"),
        ({"width": 30}, "width is 30: give a multiple of n_heads = 4"),
    ],
)
def test_a_field_out_of_its_range_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        PolicyGradientConfig(**fields)


def test_fine_tuning_refuses_the_same_and_no_texts() -> None:
    with pytest.raises(ValueError, match="texts is 0"):
        FineTuningConfig(texts=0)
    with pytest.raises(ValueError, match="kl_coef is -1"):
        FineTuningConfig(kl_coef=-1)


@pytest.mark.parametrize("agent", ["rloo", "grpo"])
def test_a_group_of_one_is_refused_where_completions_are_compared(agent: str) -> None:
    with pytest.raises(ValueError, match=f"group_size is 1: {agent} compares"):
        check_groups(agent, PolicyGradientConfig(group_size=1))
    check_groups("reinforce", PolicyGradientConfig(group_size=1))


def test_every_agent_has_defaults_on_every_environment() -> None:
    for agent in AGENTS:
        for env_id in ("tokenwalk/LengthBias-v0", "tokenwalk/TokenGeneration-v0", "custom/Else-v3"):
            assert default_config(agent, env_id).kl_coef == 0.1
            assert default_steps(agent, env_id) > 0
    assert PLACEMENTS[0] == PolicyGradientConfig().kl


def test_kl_coef_is_annealed_until_half_of_the_training_and_then_constant() -> None:
    falling = PolicyGradientConfig(kl_coef=0.1, kl_anneal=4.0)
    assert [falling.kl_coef_at(share) for share in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(
        [0.4, 0.2, 0.1, 0.1]
    )
    assert PolicyGradientConfig(kl_coef=0.1, kl_anneal=1.0).kl_coef_at(0.0) == 0.1
    assert PolicyGradientConfig(kl_coef=0.0).kl_coef_at(0.0) == 0.0


def test_numbers_of_numpy_are_converted() -> None:
    given = PolicyGradientConfig(groups=np.int64(4), kl_coef=np.float32(0.5), clip=1, width=np.int32(32))  # type: ignore[arg-type]
    assert [type(one) for one in (given.groups, given.kl_coef, given.clip, given.width)] == [
        int,
        float,
        float,
        int,
    ]
    assert json.loads(json.dumps(asdict(given))) == asdict(given)
    tuning = FineTuningConfig(texts=np.int64(5), learning_rate=np.float64(0.1))  # type: ignore[arg-type]
    assert (type(tuning.texts), type(tuning.learning_rate)) == (int, float)
