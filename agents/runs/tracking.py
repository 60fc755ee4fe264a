"""Metrics of a run: one CSV file and the same values as TensorBoard events, under one set of tags."""

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import summary_v2 as hparams_summary
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

COLUMNS = ("step", "seconds", "tag", "value")


class Tracker:
    """Writes ``metrics.csv`` (columns step, seconds, tag, value) and TensorBoard events into a run's folder.

    ``lines`` are plotted as horizontal lines in the charts of the curves: each is an extra TensorBoard run in a sub-folder
    (``optimum/``, ``reference/``) that logs the same tags at the first and at the last step. A tracker opened on a
    folder that has metrics appends to them.

    Args:
        path: the run's folder.
        lines: name of the line -> tag -> value.
    """

    def __init__(self, path: Path, lines: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self._started = time.perf_counter()
        self._name = path.name
        fresh = not (path / "metrics.csv").exists()
        self._file = (path / "metrics.csv").open("a", newline="", encoding="utf-8")
        self._csv = csv.writer(self._file)
        if fresh:
            self._csv.writerow(COLUMNS)
        self._events = EventFileWriter(str(path))
        self._lines = {
            name: (EventFileWriter(str(path / name)), dict(tags)) for name, tags in (lines or {}).items()
        }
        self._first_step: int | None = None
        self._last_step = 0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record ``metrics`` (tag -> value) at ``step``."""
        seconds = f"{time.perf_counter() - self._started:.3f}"
        for tag, value in metrics.items():
            self._csv.writerow((step, seconds, tag, repr(float(value))))
            _add(self._events, scalar_pb(tag, float(value)), step)
        if self._first_step is None:
            self._first_step = step
            self._plot_lines(step)
        self._last_step = max(self._last_step, step)

    def log_text(self, step: int, tag: str, text: str) -> None:
        """Put ``text`` (Markdown) on TensorBoard's text tab at ``step``."""
        _add(self._events, text_pb(tag, text), step)

    def log_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Put the run on TensorBoard's HPARAMS tab: numbers, strings and booleans unchanged, all else as strings."""
        plain = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in hparams.items()
        }
        _add(self._events, hparams_summary.hparams_pb(plain, trial_id=self._name), 0)

    def flush(self) -> None:
        """Flush all logged metrics to disk."""
        self._file.flush()
        self._events.flush()

    def close(self) -> None:
        """Extend the lines to the last step and close the files."""
        if self._first_step is not None and self._last_step > self._first_step:
            self._plot_lines(self._last_step)
        self._file.close()
        for events in (self._events, *(writer for writer, _ in self._lines.values())):
            events.close()

    def __enter__(self) -> "Tracker":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files, also after an error or Ctrl-C."""
        self.close()

    def _plot_lines(self, step: int) -> None:
        for writer, tags in self._lines.values():
            for tag, value in tags.items():
                _add(writer, scalar_pb(tag, value), step)


def read_metrics(path: Path) -> list[tuple[int, float, str, float]]:
    """Return the rows of a run's ``metrics.csv`` as (step, seconds, tag, value); an incomplete last line is left out."""
    rows = []
    with (path / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                rows.append((int(row["step"]), float(row["seconds"]), row["tag"], float(row["value"])))
            except (TypeError, ValueError):
                continue
    return rows


def _add(writer: EventFileWriter, summary: Summary, step: int) -> None:
    writer.add_event(Event(summary=summary, step=step, wall_time=time.time()))
