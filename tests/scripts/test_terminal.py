"""The output on a terminal: tables that fit, NO_COLOR, pipes that close, Ctrl-C at any time."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tokenwalk.scripts.main import main

COMMAND = [sys.executable, "-m", "tokenwalk.scripts.main"]
COLOR = re.compile(r"\x1b\[[\d;]*\b(3[0-7]|4[0-7]|9[0-7]|10[0-7])(;\d+)*m")
ESCAPES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


def in_terminal(columns: int, *words: str, **settings: str) -> str:
    """Return the output of ``tokenwalk`` on a terminal of ``columns`` columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment = {**kept, "TERM": "xterm-256color", **settings}
    with subprocess.Popen(
        [*COMMAND, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


@pytest.mark.parametrize("columns", [200, 60, 24])
def test_no_table_is_cut_off_however_narrow_the_terminal(columns: int) -> None:
    shown = ESCAPES.sub("", in_terminal(columns, "audit", "reward", "proxy", "--task", "LengthBias"))
    assert "…" not in shown
    folded = "".join(shown.split())
    for cell in ("keywordstuffing", "'cabcabcabcabcabc'", "reference_reward", "2.65545e-07"):
        assert cell in folded
    tables = [line.rstrip() for line in shown.splitlines()[1:-2]]  # without the sentences before and after
    assert max(map(len, tables)) <= columns


def test_a_table_that_does_not_fit_becomes_a_list() -> None:
    wide, narrow = (ESCAPES.sub("", in_terminal(columns, "envs")) for columns in (80, 60))
    assert re.search(r"^ *Flattery-v0 +5 x 7 +6 +5 +1 +2.5 +0.101266", wide, re.MULTILINE)
    assert re.search(r"^env +Flattery-v0 *\r?\nobserves +5 x 7", narrow, re.MULTILINE)


@pytest.mark.parametrize("words", [("envs",), ("train", "ppo", "--help"), ("solve", "--help")])
def test_no_color_is_respected(words: tuple[str, ...]) -> None:
    assert COLOR.search(in_terminal(80, *words, NO_COLOR="1")) is None


def test_colors_are_the_default() -> None:
    assert COLOR.search(in_terminal(80, "solve", "--help")) is not None


def test_a_pipe_gets_whole_rows_without_escapes() -> None:
    out = subprocess.run(
        [*COMMAND, "envs"], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "40"}
    ).stdout
    assert "\x1b" not in out
    assert re.search(r"^ *Flattery-v0 +5 x 7 +6 +5 +1 +2.5 +0.101266", out, re.MULTILINE)


def test_a_pipe_that_closes_early_is_no_error() -> None:
    with subprocess.Popen([*COMMAND, "envs"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        code = process.wait()
    assert (code, errors) == (0, b"")


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "train q-learning CounterWalk --steps 2000000000 --run-dir run",
        "train ppo Flattery --steps 2000000000 --run-dir run",
        "train rloo Flattery --steps 2000000000 --run-dir run",
        "train lm Lexicon --updates 1000000 --run-dir run",
        "train reward-model Flattery --updates 1000000 --run-dir run",
        "train autoencoder Flattery --updates 1000000 --run-dir run",
        "compare Flattery --budget 100 --run-dir run",
        "audit reward slow.py:score --task Arithmetic",
        "audit kl --updates 1000000",
        "goodhart Arithmetic --reward slow.py:score",
        "report run --out page",
        "benchmark lm --rounds 1000",
        "benchmark walk --rounds 1000",
        "play Flattery",
        "examples",
    ],
)
def test_ctrl_c_ends_every_command_without_a_traceback(line: str, tmp_path: Path) -> None:
    if line.startswith("report"):
        main(["train", "q-learning", "CounterWalk", "--steps", "1000", "--run-dir", str(tmp_path / "run")])
    (tmp_path / "slow.py").write_text(
        "import time\n\n\ndef score(text):\n    time.sleep(0.001)\n    return float(len(text))\n"
    )
    with subprocess.Popen(
        [*COMMAND, *line.split()],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A background job of a shell ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        if line.startswith("report"):  # while it plots, which takes a second
            wait_for(tmp_path / "page")
        else:
            time.sleep(8 if "train" in line or "compare" in line else 4)
        os.killpg(process.pid, signal.SIGINT)
        try:
            out, errors = process.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in out + errors
    assert process.returncode == 130
    assert not (tmp_path / "page").exists()  # no partial report
    if line.startswith("train"):  # the trained agent is saved with a summary
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["interrupted"] is True


def wait_for(path: Path) -> None:
    """Wait until ``path`` exists, for at most a minute."""
    began = time.monotonic()
    while not path.exists() and time.monotonic() - began < 60:
        time.sleep(0.01)
    assert path.exists()
