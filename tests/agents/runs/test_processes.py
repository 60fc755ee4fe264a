"""Work in parallel processes: every result, the first error, and nothing that goes on after a stop."""

import math
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

from tokenwalk.agents.runs.processes import in_processes


def test_every_item_comes_with_its_result() -> None:
    assert dict(in_processes(math.factorial, range(6), jobs=2)) == {n: math.factorial(n) for n in range(6)}


def test_an_error_is_raised_in_the_caller() -> None:
    with pytest.raises(ValueError, match=r"factorial|not defined"):
        dict(in_processes(math.factorial, [-1], jobs=1))


def test_after_a_stop_nothing_runs_on() -> None:
    found = in_processes(time.sleep, [0.01, 60, 60, 60], jobs=1)
    assert next(found) == (0.01, None)
    with pytest.raises(KeyboardInterrupt):
        found.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    began = time.monotonic()
    while active_children() and time.monotonic() - began < 10:
        time.sleep(0.05)
    assert not active_children()


def test_the_workers_of_one_that_was_killed_end_by_themselves() -> None:
    code = (
        "import time; from multiprocessing import active_children\n"
        "from tokenwalk.agents.runs.processes import in_processes\n"
        "if __name__ == '__main__':\n"
        "    found = in_processes(time.sleep, [0.01, 60, 60], jobs=1)\n"
        "    next(found)\n"
        "    print(active_children()[0].pid, flush=True)\n"
        "    next(found)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = Path("/proc") / parent.stdout.readline().strip()
        assert is_running(worker)
        parent.kill()
        parent.wait()
        began = time.monotonic()
        while is_running(worker) and time.monotonic() - began < 20:
            time.sleep(0.1)
    assert not is_running(worker)


def is_running(process: Path) -> bool:
    """Return whether a process of /proc goes on; one that only waits to be buried does not."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
