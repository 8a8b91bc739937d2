"""Stands in for training in a worker process: waits, fails or is killed, as its run's name says."""

import os
import signal
import sys
import time
from pathlib import Path

from yarbus.core.errors import DataError
from yarbus.studies import workers
from yarbus.studies.work import Work

PATIENCE = 30.0


def work(folder: Path, label: str) -> Work:
    recipe = {"stages": {"instruct": {"steps": 1, "epochs": None}}}
    return Work(label=label, recipe=recipe, run=folder / label, start=None, stages=("instruct",), benchmarks=())


def pid_of(folder: Path, label: str) -> int:
    """The process that does a work, as soon as it has begun."""
    path = folder / f"{label}.pid"
    for _ in range(int(PATIENCE / 0.05)):
        if path.is_file() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    raise TimeoutError(f"{label} never began")


def pretend(work: Work) -> None:
    folder = work.run.parent
    (folder / f"{work.label}.pid").write_text(str(os.getpid()))
    if work.label == "slow":
        time.sleep(PATIENCE)
    pid_of(folder, "slow")
    if work.label == "failing":
        raise DataError("no such picture", fix="mend it")
    if work.label == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


def tell_process(work: Work) -> None:
    """Writes down which process does a work."""
    (work.run.parent / f"{work.label}.pid").write_text(str(os.getpid()))


def count_threads(work: Work) -> None:
    """Writes down how many threads a worker was given, and how many its libraries will take."""
    (work.run.parent / "threads").write_text(f"{work.threads} {os.environ['OMP_NUM_THREADS']}")


def tell_back(argument: str) -> tuple[str, int, str]:
    """What it was given, its process, and how many threads its libraries will take."""
    return argument, os.getpid(), os.environ["OMP_NUM_THREADS"]


def kill_itself(argument: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    workers.do = pretend
    workers.work_off([work(Path(sys.argv[1]), "slow")], {}, 1, False)
