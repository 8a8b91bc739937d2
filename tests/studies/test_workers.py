"""Workers never outlive their parent or the first error, and one that is killed is told by its run."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.studies.hands import count_threads, pid_of, pretend, tell_process, work
from yarbus.core.errors import CheckpointError, DataError
from yarbus.studies import workers


def ends(pid: int) -> bool:
    """Whether a process is gone within seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    ("label", "error", "message"),
    [("failing", DataError, "no such picture"), ("killed", CheckpointError, "killed.*the same command goes on")],
)
def test_the_first_error_ends_the_other_workers(label, error, message, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "do", pretend)
    began = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        workers.work_off([work(tmp_path, "slow"), work(tmp_path, label)], {}, 2, False)
    assert time.monotonic() - began < 20
    assert ends(pid_of(tmp_path, "slow"))
    assert label == "failing" or caught.value.exit_code == 74


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_workers_end_with_the_parent_however_it_is_ended(number, code, tmp_path):
    parent = subprocess.Popen([sys.executable, "-m", "tests.studies.hands", str(tmp_path)])
    try:
        pid = pid_of(tmp_path, "slow")
        parent.send_signal(number)
        assert parent.wait(timeout=20) == code
    finally:
        parent.kill()
    assert ends(pid)


@pytest.mark.parametrize(("jobs", "threads"), [(1, 8), (2, 4), (3, 2), (8, 1), (20, 1)])
def test_runs_share_out_the_cores(jobs, threads, monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 8)
    assert workers.threads_of(jobs) == threads


def test_runs_that_would_share_an_accelerator_come_one_after_the_other(monkeypatch):
    import torch

    monkeypatch.setattr(workers, "cores", lambda: 8)
    for is_there, jobs in ((False, 3), (True, 1)):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda there=is_there: there)
        assert workers.default_jobs(3) == jobs


def test_a_worker_has_its_share_of_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 6)
    monkeypatch.setattr(workers, "do", count_threads)
    workers.work_off([work(tmp_path, "counting")], {}, 2, False)
    assert (tmp_path / "threads").read_text() == "3 3"
    assert os.environ.get("OMP_NUM_THREADS") != "3"


def test_every_run_has_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "do", tell_process)
    workers.work_off([work(tmp_path, label) for label in "abc"], {"c": "a"}, 2, False)
    pids = {pid_of(tmp_path, label) for label in "abc"}
    assert len(pids) == 3 and all(ends(pid) for pid in pids)
