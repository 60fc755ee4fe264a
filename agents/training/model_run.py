"""A run that trains a model and no agent: its folder, its curves and its summary."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch

from tokenwalk.agents.backprop.configs import TrainingConfig
from tokenwalk.agents.backprop.descent import NonFiniteLossError
from tokenwalk.agents.backprop.fit import Training
from tokenwalk.agents.problem.saved_models import MODEL_FILE
from tokenwalk.agents.runs.checkpoint import before
from tokenwalk.agents.runs.folder import RunFolder
from tokenwalk.agents.runs.progress import OnProgress, Progress
from tokenwalk.agents.runs.tracking import Tracker

Writer = Literal["reference", "mixed"]


class Saved(Protocol):
    """A model that can be written to a file."""

    def save(self, path: Path) -> None:
        """Write it."""


Model = TypeVar("Model", bound=Saved)


@dataclass(frozen=True)
class ModelRequest:
    """What is asked for beside the configs.

    Attributes:
        task: a name, or FILE.py:NAME.
        writer: what generates the training texts: the task's reference policy, or "mixed", each token by it or
            by the exact optimum, which is rewarded now and then even where the reference policy never is.
        data: a file of preferences or of texts, instead of generated texts.
        run_dir: a new folder; None: a numbered one under runs/.
        threads: of torch.
    """

    task: str
    writer: Writer = "reference"
    data: Path | None = None
    run_dir: Path | None = None
    threads: int = 1


@dataclass(frozen=True)
class ModelRun:
    """A run of a learned reward: its folder, its curves and its summary."""

    kind: str
    model_request: ModelRequest
    training: TrainingConfig
    request: Mapping[str, Any]
    lines: Mapping[str, Mapping[str, float]]
    on_progress: OnProgress | None

    def carry_out(
        self, learn: Callable[[Callable[..., None], RunFolder, Tracker], tuple[Model, list[Training]]]
    ) -> tuple[Model, list[Training], float, RunFolder]:
        """Train into a new folder and save; return the model, how it went, the seconds and the folder.

        Raises:
            NonFiniteLossError: as ``learn``, with the folder that holds the last good parameters.
        """
        torch.set_num_threads(self.model_request.threads)
        started = time.perf_counter()
        label = self.model_request.task.rsplit("/", 1)[-1].rsplit(":", 1)[-1]
        folder = RunFolder.create(self.model_request.run_dir, f"{self.kind}-{label}")
        asked = {
            "agent": self.kind,
            "env": self.model_request.task,
            "env_args": {},
            "seed": self.training.seed,
        }
        data = None if self.model_request.data is None else str(self.model_request.data.resolve())
        folder.write_config({**asked, "writer": self.model_request.writer, "data": data, **self.request})
        total = int(self.request["steps"])
        with Tracker(folder.path, self.lines) as tracker:
            tracker.log_hparams({**asked, **self.request["config"]})

            def report(update: int, metrics: Mapping[str, float]) -> None:
                finite = {tag: value for tag, value in metrics.items() if math.isfinite(value)}
                tracker.log(update, finite)
                if self.on_progress:
                    self.on_progress(Progress(update, total, finite, None))

            try:
                model, trained = learn(report, folder, tracker)
            except NonFiniteLossError as error:
                raise type(error)(f"{error}; they are in {folder.path}", error.update, error.model) from None
            model.save(folder.path / MODEL_FILE)
            before(folder.path / MODEL_FILE).unlink(
                missing_ok=True
            )  # of this training, and not on gold's scale
        return model, trained, time.perf_counter() - started, folder

    def finish(
        self, folder: RunFolder, figures: Mapping[str, Any], trained: list[Training], seconds: float
    ) -> dict[str, Any]:
        """Write the summary and return it."""
        held_out = [one.held_out for one in trained if one.held_out is not None]
        summary = {
            "agent": self.kind,
            "env": self.model_request.task,
            **figures,
            "updates": sum(one.updates for one in trained),
            "training_loss": float(np.mean([one.loss for one in trained])) if trained[0].updates else None,
            "held_out_loss": float(np.mean(held_out)) if held_out else None,
            "seconds": seconds,
            "interrupted": any(one.interrupted for one in trained),
            "run_dir": str(folder.path),
        }
        folder.write_summary(summary)
        return summary
