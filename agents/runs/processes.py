"""Independent work in parallel processes: results as they complete, and no process left after Ctrl-C."""

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
    """Yield each item with its result of ``work``, in the order of completion; the first error stops all.

    Args:
        work: a function of a module, which a new process can import. items: its arguments, picklable.
        jobs: processes; as many as there are cores if None.
    """
    pool = ProcessPoolExecutor(
        jobs or os.cpu_count(), mp_context=get_context("spawn"), initializer=_leave_ctrl_c_to_the_parent
    )
    try:
        pending = {pool.submit(work, item): item for item in items}
        for future in as_completed(pending):
            yield pending[future], future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in active_children():  # else each would start one more queued item
            child.terminate()
        raise
    pool.shutdown()


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with, args=[os.getppid()], daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, as after SIGKILL."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
