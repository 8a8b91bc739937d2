"""One process at a time writes to a folder."""

import signal
import subprocess
import sys

import pytest

from yarbus.core.errors import LockedError
from yarbus.core.lock import locked

HOLD = """
import sys, time
from pathlib import Path
from yarbus.core.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_until_it_is_left(tmp_path):
    refused = pytest.raises(LockedError, match=r"locked by another process: .*run")
    with locked(tmp_path / "run"), refused as caught, locked(tmp_path / "run"):
        pass
    assert caught.value.exit_code == 75
    with locked(tmp_path / "run"), locked(tmp_path / "other"):
        pass


def test_a_process_that_is_killed_holds_nothing(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LockedError), locked(tmp_path):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.stdout.close()
    with locked(tmp_path):
        pass
