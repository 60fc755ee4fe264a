"""Work in parallel processes: every result, the first error, and nothing that goes on after a stop."""

import math
import time
from multiprocessing import active_children

import pytest

from tokenwalk.agents.study.processes import in_processes


def test_every_item_comes_with_its_result() -> None:
    assert dict(in_processes(math.factorial, range(6), jobs=2)) == {n: math.factorial(n) for n in range(6)}


def test_an_error_is_the_callers() -> None:
    with pytest.raises(ValueError, match=r"factorial|not defined"):
        dict(in_processes(math.factorial, [-1], jobs=1))


def test_after_a_stop_nothing_runs_on() -> None:
    found = in_processes(time.sleep, [0.01, 60, 60, 60], jobs=1)
    assert next(found) == (0.01, None)
    with pytest.raises(KeyboardInterrupt):
        found.throw(KeyboardInterrupt)
    began = time.monotonic()
    while active_children() and time.monotonic() - began < 10:
        time.sleep(0.05)
    assert not active_children()
