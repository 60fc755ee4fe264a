"""Independent work in parallel processes: results as they come, and none left running after Ctrl-C."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from threading import Thread
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Item], Result], items: Iterable[Item], jobs: int | None = None
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with what ``work`` makes of it, as they are ready; the first error stops all.

    Args:
        work: a function of a module, which a fresh process can import. items: what it can be sent.
        jobs: processes; as many as there are cores if None.
    """
    pool = ProcessPoolExecutor(
        jobs or os.cpu_count(), mp_context=get_context("spawn"), initializer=_leave_ctrl_c_to_the_parent
    )
    try:
        waiting = {pool.submit(work, item): item for item in items}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in active_children():  # else each would take up one more of what is queued
            child.terminate()
        raise
    pool.shutdown()


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with, args=[os.getppid()], daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent has gone without a word, as after SIGKILL."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
