"""A folder that one process at a time may write to; the operating system lets go of it when that process ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yarbus.core.errors import LockedError
from yarbus.core.records import make_folder

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder, which is made where it is missing.

    Raises:
        LockedError: another process holds it.
    """
    if fcntl is None:
        yield
        return
    make_folder(folder)
    with open(folder / FILE, "a", encoding="utf-8") as file:  # the empty file stays: who removes it frees two locks
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(
                "locked by another process",
                where=folder,
                why="it trains or evaluates this run",
                fix="wait until it is done, then call again, or name another folder",
            ) from None
        yield
