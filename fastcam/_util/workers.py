"""Worker processes: how many there may be, what each does first, and a pool of them."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from fastcam._util.cgroup import cpu_quota
from fastcam._util.stop import end_quietly, undisturbed

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def cpus() -> int:
    """Processors that this process may run on, a container's or a job's share of them."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def in_processes(
    work: Callable[[_Task], _Result],
    tasks: Iterable[_Task],
    workers: int,
    start: Callable[..., None],
    arguments: tuple[object, ...] = (),
    fork: bool = True,
) -> Iterator[_Result]:
    """``work`` of each task in processes of its own; results as they come, in any order.

    Few tasks are in flight, so that a stop is prompt. Where one fails, those that are being worked
    on are finished and yielded before its error is raised.

    Args:
        work: what to do, at the top of a module.
        tasks: what to do it with.
        workers: how many processes.
        start: what each does first, after :func:`follow_parent`; ``arguments``: its own.
        fork: on Linux, which spares each the import of torch; not where torch computes in them.

    Raises:
        ChildProcessError: a process was killed.
    """
    context = multiprocessing.get_context("fork" if fork and sys.platform == "linux" else "spawn")
    todo, running = deque(tasks), set[Future[_Result]]()
    failure: BaseException | None = None
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*multi-threaded, use of fork.*", category=DeprecationWarning
        )
        pool = ProcessPoolExecutor(workers, context, _begin, (start, arguments))
        try:
            while todo or running:
                while todo and len(running) < 2 * workers:
                    with undisturbed():  # it may fork
                        running.add(pool.submit(_worked, work, todo.popleft()))
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    if (error := future.exception()) is None:
                        yield future.result()
                    else:
                        failure = failure or error
                        todo.clear()
            if not isinstance(failure, BrokenProcessPool):
                # Asked to end, they queue for a lock; one killed then leaves the rest there.
                for process in list((pool._processes or {}).values()):
                    process.kill()
            if failure is not None:
                raise failure
        except (KeyboardInterrupt, GeneratorExit):
            for process in list((pool._processes or {}).values()):
                process.terminate()  # what computes for long saves what it has
            raise
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process was killed (out of memory?); what was done is kept: run the same"
                " again to go on, with fewer processes if it repeats"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _worked(work: Callable[[_Task], _Result], task: _Task) -> _Result:
    try:
        return work(task)
    except KeyboardInterrupt:  # it would take another task
        end_quietly(signal.SIGTERM)
        raise


def _begin(start: Callable[..., None], arguments: tuple[object, ...]) -> None:
    follow_parent()
    start(*arguments)


def follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it ends, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the parent's, in a fork of it
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # returns when the parent is gone, even if it was killed
        os._exit(1)
