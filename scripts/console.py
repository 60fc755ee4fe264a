"""Input and output of the subcommands: parsing by tyro, tables for people, one JSON object for programs.

rich is imported inside functions, so that --help starts fast.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import tyro

Arguments = TypeVar("Arguments")
_PIPE_WIDTH = 200
_MEASURED = 10_000  # wide enough for every table
_TEXT_WIDTH = 16  # minimum width of a column of sentences
EnvName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
# The help text states the default, because tyro would add "(default: None)".
Number = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="")]
Count = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Rewards = Annotated[tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(metavar="NAME[=WEIGHT]")]
EnvArgs = Annotated[tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(metavar="KEY=VALUE")]


class ProgressReport(Protocol):
    """The progress of a training, as ``runs.progress.Progress`` reports it; a bar need not import that."""

    @property
    def step(self) -> int:
        """Return the steps taken in this call."""

    @property
    def steps(self) -> int:
        """Return the requested steps."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Return the newest metrics by tag."""

    @property
    def optimal_return(self) -> float | None:
        """Return the exact optimum of the training reward, or None."""


def parse(arguments: type[Arguments], command: str, argv: Sequence[str]) -> Arguments:
    """Return ``argv`` as the dataclass ``arguments``; on --help or an error print it and exit."""
    if os.environ.get("NO_COLOR"):  # rich respects it without help
        tyro._experimental_options["ansi_codes"] = False
    return tyro.cli(
        arguments,
        prog=f"tokenwalk {command}",
        args=list(argv),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )


def print_json(value: Any) -> None:
    """Print ``value`` as one JSON object on stdout."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table; columns of numbers are right-aligned. On a terminal that is too narrow, print row after row with a line
    per column, so that nothing is cut off."""
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(
        *columns, title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0)
    )
    values = [list(row) for row in rows]
    shown = [[Text(format_value(value), overflow="fold") for value in row] for row in values]
    for index, column in enumerate(table.columns):
        if shown and all(isinstance(row[index], (int, float, type(None))) for row in values):
            column.justify = "right"
        cells = [row[index] for row in shown]
        column.overflow = "fold"
        column.no_wrap = not any(" " in cell.plain for cell in cells)
        column.min_width = min(_TEXT_WIDTH, max(map(len, cells), default=0))
    for row in shown:
        table.add_row(*row)
    # A pipe has no width: rows stay whole there, so that grep and awk find them.
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    needed = Measurement.get(console, console.options.update(width=_MEASURED), table).minimum
    with console.capture() as captured:  # rich would handle a closed pipe itself, see ``main.run_command``
        if needed <= console.width or len(columns) < 3:
            console.print(table)
        else:
            console.print(Text(title or "", style="italic"))
            for row in shown:
                record = Table.grid(padding=(0, 3))
                for name, cell in zip(columns, row, strict=True):
                    record.add_row(Text(name), cell)
                console.print(record, "")
    print(captured.get(), end="")


def format_value(value: object) -> str:
    """Return a value for people: six significant digits, "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return " to ".join(format_value(part) for part in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {format_value(part)}" for key, part in value.items())
    return str(value)


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print the summary of a run, one figure per line."""
    print_table(("figure", "value"), [(key, format_value(value)) for key, value in summary.items()])


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[ProgressReport], None]]:
    """Show a bar on stderr with the return so far and the optimum, and yield the callback that updates it. If stderr is no
    terminal, print ``label`` once."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    is_terminal, is_printed = sys.stderr.isatty(), False
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=is_quiet() or not is_terminal
    ) as bar:
        task = bar.add_task(label, total=None, figures="")

        def on_progress(progress: ProgressReport) -> None:
            nonlocal is_printed
            if not (is_terminal or is_printed):
                note(f"{label} ...")
            is_printed = True
            shown = progress.metrics.get("eval/return", progress.metrics.get("rollout/ep_rew_mean"))
            figures = "" if shown is None else f"return {shown:.4g}"
            if (loss := progress.metrics.get("train/pretraining_loss")) is not None:
                figures = f"pre-training, loss {loss:.3g}"
            if progress.optimal_return is not None:
                figures += f" (optimum {progress.optimal_return:.4g})"
            bar.update(
                task, completed=min(progress.step, progress.steps), total=progress.steps, figures=figures
            )

        yield on_progress


def tensorboard_command(path: Path) -> str:
    """Return the command that starts TensorBoard on ``path`` with this installation."""
    return f"{Path(sys.executable).parent / 'tensorboard'} --logdir {path}"


def note(message: str) -> None:
    """Print a remark on stderr, unless ``is_quiet``."""
    if not is_quiet():
        print(message, file=sys.stderr)


def is_quiet() -> bool:
    """Return whether only errors are printed on stderr: ``--quiet``, or TOKENWALK_QUIET=1."""
    return os.environ.get("TOKENWALK_QUIET", "") not in ("", "0")
