"""Folders that appear under their name when all of them is on the disk, and never in the place of something else."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from yarbus.core.errors import ConfigError
from yarbus.core.records import make_folder, sync


def check_free(out: Path) -> None:
    """Raises ``ConfigError`` where something would be overwritten."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError("there is something already", where=out, fix="name another folder, or remove this one")


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder to write into, which is ``out`` once the block is left; after an error there is nothing.

    Raises ``ConfigError`` where something is in ``out`` already.
    """
    check_free(out)
    make_folder(out.parent)
    beside = out.with_name(f".{out.name}.{uuid4().hex}")
    beside.mkdir()
    try:
        yield beside
        for path in [*beside.rglob("*"), beside]:
            sync(path)
        os.replace(beside, out)
        sync(out.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
