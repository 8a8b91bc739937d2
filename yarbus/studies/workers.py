"""Runs worked off several at a time, each in a process of its own with its share of the threads.

No process does a second run: memory that one took would count in the peak of the next. That costs a few seconds of
imports per run.

A finished run is never repeated, an interrupted one goes on. The first error stops the rest and is
raised; what was reached stays on disk. No worker outlives its parent.
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from multiprocessing import connection, get_context, parent_process
from threading import Thread, current_thread, main_thread
from typing import NoReturn, TypeVar

from yarbus.core.errors import CheckpointError
from yarbus.studies.pace import Display, Pace
from yarbus.studies.work import Work, do

Argument = TypeVar("Argument")
Found = TypeVar("Found")
SECONDS_BETWEEN_LOOKS = 1.0
TERMINATED = 128 + signal.SIGTERM


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_jobs(num_runs: int) -> int:
    """One run per core, each with one thread; one at a time where they would share an accelerator's memory."""
    import torch

    return 1 if torch.accelerator.is_available() else max(1, min(cores(), num_runs))


def threads_of(jobs: int) -> int:
    """Threads of each of so many runs: two runs with two threads each on two cores are slower than with one."""
    return max(1, cores() // jobs)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Workers inherit this."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    before = {name: os.environ.get(name) for name in names}
    os.environ |= {"OMP_NUM_THREADS": str(number), "MKL_NUM_THREADS": str(number), "TOKENIZERS_PARALLELISM": "false"}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _terminated(number: int, frame: object) -> NoReturn:
    raise SystemExit(TERMINATED)


@contextmanager
def _termination_raises() -> Iterator[None]:
    """SIGTERM is an exception, so that it stops the workers and leaves the terminal as it was."""
    if current_thread() is not main_thread():  # only there may a program say what a signal does
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave_with_parent() -> None:
    """Ends this worker when its parent is gone, however that ended: nobody would collect the work."""
    parent = parent_process()
    assert parent is not None, "a worker has a parent"

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(TERMINATED)

    Thread(target=watch, daemon=True).start()


def _collect(future: Future[None], work: Work) -> None:
    try:
        future.result()
    except BrokenProcessPool:
        raise CheckpointError(
            f"run '{work.label}' was killed",
            where=work.run,
            why="its process ended without a word, most often for want of memory",
            fix="free memory or do fewer runs at a time; the same command goes on from the last checkpoint",
        ) from None


def _stop(pool: ProcessPoolExecutor) -> None:
    processes = list((pool._processes or {}).values())  # shutdown forgets them
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()


def in_own_process(function: Callable[[Argument], Found], argument: Argument, threads: int) -> Found:
    """``function(argument)`` in a new process that ends with it: all memory that it took is free again.

    Raises ``BrokenProcessPool`` where the process was killed.
    """
    with _threads(threads), _termination_raises():
        pool = ProcessPoolExecutor(1, get_context("spawn"), _leave_with_parent)
        try:
            found = pool.submit(function, argument).result()
        except BaseException:
            _stop(pool)
            raise
        pool.shutdown()
        return found


def work_off(works: Sequence[Work], after: Mapping[str, str], jobs: int, progress: bool) -> None:
    """Does every unfinished work, several at a time; ``after`` names the work that must be done before another.

    The first error stops the rest and is raised; what was reached stays on disk.
    """
    paces = [Pace(work, is_done=work.is_finished()) for work in works]
    waiting = [pace for pace in paces if not pace.is_done]
    done = {pace.work.label for pace in paces if pace.is_done}
    if not waiting:
        return
    display, threads = Display(paces, jobs, progress), threads_of(jobs)
    together = min(jobs, len(waiting))
    running: dict[Future[None], tuple[Pace, ProcessPoolExecutor]] = {}
    with _threads(threads), _termination_raises():
        try:
            with display.bar or nullcontext():
                while waiting or running:
                    for pace in [one for one in waiting if after.get(one.work.label, "") in {"", *done}]:
                        if len(running) < jobs:
                            waiting.remove(pace)
                            # A pool for each run, so that a process that is killed tells which one it was doing.
                            pool = ProcessPoolExecutor(1, get_context("spawn"), _leave_with_parent)
                            running[pool.submit(do, replace(pace.work, threads=threads, jobs=together))] = pace, pool
                    finished, _ = wait(running, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
                    for future in finished:
                        pace, pool = running[future]
                        _collect(future, pace.work)
                        pool.shutdown()
                        del running[future]
                        pace.is_done = True
                        done.add(pace.work.label)
                    display.update(len(done))
        except BaseException:
            for _, pool in running.values():
                _stop(pool)
            raise
