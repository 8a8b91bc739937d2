"""Runs worked off several at a time, each in a process of its own with one thread.

A finished run is never repeated, an interrupted one goes on. The first error stops the rest and is
raised; what was reached stays on disk.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context

from yarbus.studies.pace import Display, Pace
from yarbus.studies.work import Work, do

SECONDS_BETWEEN_LOOKS = 1.0


@contextmanager
def _one_thread() -> Iterator[None]:
    """Workers inherit this: two threads each on two cores are slower than one."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    before = {name: os.environ.get(name) for name in names}
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def work_off(works: Sequence[Work], after: Mapping[str, str], jobs: int, progress: bool) -> None:
    """Does every unfinished work, several at a time; ``after`` names the work that must be done before another.

    The first error stops the rest and is raised; what was reached stays on disk.
    """
    paces = [Pace(work, is_done=work.is_finished()) for work in works]
    waiting = [pace for pace in paces if not pace.is_done]
    done = {pace.work.label for pace in paces if pace.is_done}
    if not waiting:
        return
    display = Display(paces, jobs, progress)
    running: dict[Future[None], Pace] = {}
    with _one_thread(), ProcessPoolExecutor(min(jobs, len(waiting)), mp_context=get_context("spawn")) as pool:
        try:
            with display.bar or nullcontext():
                while waiting or running:
                    for pace in [one for one in waiting if after.get(one.work.label, "") in {"", *done}]:
                        if len(running) < jobs:
                            waiting.remove(pace)
                            running[pool.submit(do, pace.work)] = pace
                    finished, _ = wait(running, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
                    for future in finished:
                        pace = running.pop(future)
                        future.result()
                        pace.is_done = True
                        done.add(pace.work.label)
                    display.update(len(done))
        except BaseException:
            _stop(pool)
            raise


def _stop(pool: ProcessPoolExecutor) -> None:
    pool.shutdown(wait=False, cancel_futures=True)
    for process in list((pool._processes or {}).values()):
        process.terminate()
