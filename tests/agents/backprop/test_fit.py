"""The one training loop: schedule, clipping, early stopping, and what it does when the loss goes wrong."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tokenwalk.agents.backprop.configs import (
    LMConfig,
    RewardModelConfig,
    TokenAutoencoderConfig,
    TrainingConfig,
)
from tokenwalk.agents.backprop.descent import NonFiniteLossError
from tokenwalk.agents.backprop.fit import fit
from tokenwalk.agents.backprop.linear import LinearConfig
from tokenwalk.agents.backprop.linear_autoencoder import AutoencoderConfig

X = torch.linspace(-1, 1, 40)[:, None]
Y = 3 * X - 0.5


def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(1, 1)


def run(network: nn.Linear, config: TrainingConfig, **options: Any) -> Any:
    return fit(network, lambda rows: ((network(X[rows]) - Y[rows]) ** 2).mean(), len(X), config, **options)


def test_a_line_is_fitted_and_the_same_seed_gives_the_same_parameters() -> None:
    config = TrainingConfig(updates=400, batch_size=8, learning_rate=0.05)
    first, second, other = model(), model(), model()
    found = run(first, config)
    run(second, config)
    run(other, TrainingConfig(updates=400, batch_size=8, learning_rate=0.05, seed=1))
    assert first.weight.item() == pytest.approx(3.0, abs=1e-3)
    assert first.bias.item() == pytest.approx(-0.5, abs=1e-3)
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, other.weight)
    assert (found.updates, found.held_out, found.interrupted) == (400, None, False)
    assert not first.training


def test_the_learning_rate_rises_and_falls_as_the_schedule_says() -> None:
    config = TrainingConfig(updates=100, learning_rate=1.0, warmup=10)
    assert config.rate_at(0) == pytest.approx(0.1)
    assert config.rate_at(50) == pytest.approx(0.5)
    assert config.rate_at(99) < 1e-3
    constant = TrainingConfig(updates=100, learning_rate=1.0, schedule="constant")
    assert [constant.rate_at(update) for update in (0, 50, 99)] == [1.0, 1.0, 1.0]
    rates = []
    run(
        model(),
        TrainingConfig(updates=50, learning_rate=0.5, warmup=5, evaluate_every=1),
        on_progress=lambda update, figures: rates.append(figures["train/learning_rate"]),
    )
    assert rates[-1] == pytest.approx(TrainingConfig(updates=50, learning_rate=0.5, warmup=5).rate_at(49))


def test_a_long_gradient_is_shortened() -> None:
    plain, clipped = model(), model()
    before = plain.weight.item()
    for network, norm in ((plain, 1e9), (clipped, 1e-9)):
        # AdamW's step does not see the length of one gradient, but it sees that of the ones before.
        run(network, TrainingConfig(updates=2, batch_size=40, learning_rate=0.1, clip_norm=norm))
    assert abs(plain.weight.item() - before) > 0.1
    norms = []
    run(
        model(),
        TrainingConfig(updates=1, batch_size=40, clip_norm=1e-3),
        on_progress=lambda update, figures: norms.append(figures["train/gradient_norm"]),
    )
    assert norms[0] > 1.0  # what is logged is the norm before it is cut


def test_it_stops_early_and_keeps_the_best_parameters() -> None:
    network, losses = model(), iter([3.0, 2.0, 1.0, 5.0, 4.0, 6.0, 7.0])
    kept: list[float] = []

    def held_out() -> float:
        kept.append(network.weight.item())
        return next(losses)

    config = TrainingConfig(updates=1_000, batch_size=8, evaluate_every=10, patience=3, learning_rate=0.05)
    found = run(network, config, held_out=held_out)
    assert (found.updates, found.held_out) == (50, 1.0)
    assert network.weight.item() == kept[2]  # of the third evaluation, not of the last one
    assert kept[-1] != kept[2]


def test_a_loss_that_overflows_stops_with_the_update_and_the_last_good_parameters() -> None:
    network, update = model(), 0

    def loss(rows: torch.Tensor) -> torch.Tensor:
        nonlocal update
        update += 1
        value = ((network(X[rows]) - Y[rows]) ** 2).mean()
        return value if update < 25 else value * float("nan")

    saved: list[float] = []
    config = TrainingConfig(updates=100, batch_size=8, evaluate_every=10)
    with pytest.raises(
        NonFiniteLossError, match=r"at update 25: the parameters of update 20 are kept; lower"
    ) as caught:
        fit(network, loss, len(X), config, checkpoint=lambda: saved.append(network.weight.item()))
    assert caught.value.update == 25
    assert network.weight.item() == saved[-1]
    assert len(saved) == 3  # at 0, 10 and 20


def test_a_gradient_that_overflows_is_not_applied() -> None:
    network = model()
    before = network.weight.item()

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return torch.sqrt((network(X[rows]) * 0).sum())  # 0, with an infinite slope

    with pytest.raises(NonFiniteLossError, match="its gradient's norm nan"):
        fit(network, loss, len(X), TrainingConfig(updates=3))
    assert network.weight.item() == before


def test_ctrl_c_ends_it_with_what_was_learned() -> None:
    network = model()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    found = run(network, TrainingConfig(updates=5_000_000, learning_rate=0.05), on_progress=stop)
    assert found.interrupted
    assert 0 < found.updates < 5_000_000
    assert network.weight.item() == pytest.approx(3.0, abs=0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"updates": 0}, "updates is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: give a finite number above 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0: give a finite number of 0 or more"),
        ({"clip_norm": float("nan")}, "clip_norm is nan"),
        ({"schedule": "linear"}, "schedule is 'linear': give constant or cosine"),
        ({"patience": 0}, "patience is 0"),
    ],
)
def test_a_field_out_of_range_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**fields)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows to train on"):
        fit(model(), lambda rows: torch.zeros(1), 0, TrainingConfig())


@pytest.mark.parametrize(
    "config",
    [
        TrainingConfig(updates=np.int64(5), weight_decay=np.float32(0.5), patience=np.int32(2)),  # type: ignore[arg-type]
        RewardModelConfig(pairs=np.int64(5), temperature=np.float32(0.5)),  # type: ignore[arg-type]
        TokenAutoencoderConfig(texts=np.int64(5), noise=np.float32(0.5)),  # type: ignore[arg-type]
        LMConfig(width=np.int64(8), held_out=np.float32(0.5)),  # type: ignore[arg-type]
        LinearConfig(step_size=np.float32(0.5), batch_size=np.int64(2)),  # type: ignore[arg-type]
        AutoencoderConfig(n_components=np.int64(2), seed=np.int32(1)),  # type: ignore[arg-type]
    ],
)
def test_numbers_of_numpy_are_converted(config: Any) -> None:
    assert not [name for name, value in asdict(config).items() if isinstance(value, np.generic)]
