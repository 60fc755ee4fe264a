"""The one training loop of all torch models here: mini batches, a schedule, clipping, early stopping, checkpoints.

Source: Loshchilov and Hutter 2019, "Decoupled weight decay regularization" (AdamW); Pascanu, Mikolov and Bengio 2013,
"On the difficulty of training recurrent neural networks" (clipping by the norm).
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from tokenwalk.agents.backprop.configs import TrainingConfig
from tokenwalk.agents.backprop.descent import NonFiniteLossError, batch_rows
from tokenwalk.agents.runs.progress import OnMetrics

PROGRESS_SECONDS = 0.2


class Training(NamedTuple):
    """The result of a training; the model holds the parameters of the best held-out loss, or without one the last."""

    updates: int
    loss: float  # of the last batch
    held_out: float | None  # the best one
    interrupted: bool

    def raise_if_interrupted(self) -> "Training":
        """Return it. Raises KeyboardInterrupt again if Ctrl-C ended the training early."""
        if self.interrupted:
            raise KeyboardInterrupt
        return self


def fit(
    model: nn.Module,
    loss: Callable[[torch.Tensor], torch.Tensor],
    n_rows: int,
    config: TrainingConfig,
    *,
    held_out: Callable[[], float] | None = None,
    on_progress: OnMetrics | None = None,
    checkpoint: Callable[[], Any] | None = None,
) -> Training:
    """Train ``model`` by AdamW on mini batches of ``n_rows`` rows; Ctrl-C ends it early and keeps the parameters.

    Args:
        model: its parameters are changed in place.
        loss: from the numbers of a batch's rows, int64 [b], to its mean loss, with gradients.
        n_rows: of the data.
        config: how.
        held_out: the loss on data that is held out, without gradients; None: there is none.
        on_progress: called some times a second with train/loss, train/learning_rate, train/gradient_norm, eval/loss.
        checkpoint: called at each evaluation of the held-out loss, with the model in evaluation mode.

    Raises:
        ValueError: no rows.
        NonFiniteLossError: with the update; the model then holds the parameters of the last good evaluation.
    """
    if n_rows < 1:
        raise ValueError("there are no rows to train on: give at least one")
    rows = batch_rows(n_rows, min(config.batch_size, n_rows), config.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    state = _State(model, held_out, checkpoint)
    state.evaluate(0)
    value, interrupted, update, reported = math.nan, False, 0, time.perf_counter()
    try:
        for update in range(1, config.updates + 1):
            value, norm = _step(model, loss, torch.as_tensor(next(rows)), optimizer, config, update - 1)
            if not (math.isfinite(value) and math.isfinite(norm)):
                state.restore()
                raise NonFiniteLossError(
                    f"the loss is {value} and its gradient's norm {norm} at update {update}: the parameters of update "
                    f"{state.kept_at} are kept; lower learning_rate ({config.learning_rate:g})",
                    update,
                    model,
                )
            last = update == config.updates
            if last or update % config.evaluate_every == 0:
                state.evaluate(update)
            stop = config.patience is not None and state.without_gain >= config.patience
            now = time.perf_counter()
            if on_progress is not None and (last or stop or now - reported >= PROGRESS_SECONDS):
                reported = now
                figures = {"train/loss": value, "train/gradient_norm": norm}
                figures["train/learning_rate"] = optimizer.param_groups[0]["lr"]
                on_progress(update, figures if state.loss is None else {**figures, "eval/loss": state.loss})
            if stop:
                break
    except KeyboardInterrupt:
        interrupted = True
    if held_out is not None:
        state.restore()
    model.eval()
    return Training(update, value, state.best, interrupted)


def _step(
    model: nn.Module,
    loss: Callable[[torch.Tensor], torch.Tensor],
    rows: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    update: int,
) -> tuple[float, float]:
    """Do one update and return the loss before it and the norm of its gradient, which is applied only if finite."""
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = config.rate_at(update)
    optimizer.zero_grad(set_to_none=True)
    value = loss(rows)
    value.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    found = value.item(), norm.item()
    if all(map(math.isfinite, found)):
        optimizer.step()
    return found


class _State:
    """The best parameters so far, by the held-out loss; without one, those of the last evaluation."""

    def __init__(
        self, model: nn.Module, held_out: Callable[[], float] | None, checkpoint: Callable[[], Any] | None
    ) -> None:
        self._model, self._held_out, self._checkpoint = model, held_out, checkpoint
        self.loss: float | None = None  # at the last evaluation
        self.best: float | None = None
        self.without_gain = 0  # evaluations since the best
        self.kept_at = 0
        self._kept: dict[str, torch.Tensor] = {}

    def evaluate(self, update: int) -> None:
        """Compute the held-out loss and keep the parameters if it is the best; call the checkpoint."""
        self._model.eval()
        better = True
        if self._held_out is not None:
            with torch.no_grad():
                self.loss = float(self._held_out())
            better = math.isfinite(self.loss) and (self.best is None or self.loss < self.best)
        self.without_gain = 0 if better else self.without_gain + 1
        if better:
            self.best, self.kept_at = self.loss, update
            self._kept = {name: one.detach().clone() for name, one in self._model.state_dict().items()}
        if self._checkpoint is not None:
            self._checkpoint()

    def restore(self) -> None:
        """Put the kept parameters back."""
        self._model.load_state_dict(self._kept)
