"""Records of a run: JSON written whole or not at all, JSON lines that survive a kill, hashes, the environment."""

import errno
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from warnings import warn

from yarbus.core.errors import CheckpointError

RECORDED_PACKAGES = (
    *("yarbus", "torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "tokenizers", "pillow"),
    *("numpy", "scikit-learn", "pydantic"),
)


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """The operating system's refusal, with the file's name and what to do."""
    try:
        yield
    except OSError as error:
        fix = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the folder and its rights"
        raise CheckpointError("cannot write", where=path, why=str(error.strerror or error), fix=fix) from error


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, where they are missing."""
    with _named_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def sync(path: Path) -> None:
    """Puts a file or a folder's entries on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Writes a file so that it holds the old text or the new one, whenever the machine stops."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    with _named_errors(path):
        try:
            with open(beside, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        sync(path.parent)  # the new name itself is on disk


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value as readable JSON, whole or not at all. NaN and infinity are refused: JSON knows neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The value of a JSON file that we wrote."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError("cannot read", where=path, why=str(error.strerror), fix="check the run folder") from None
    except ValueError as error:
        fix = "remove it and run the command again that wrote it"
        raise CheckpointError("damaged record", where=path, why=str(error), fix=fix) from None


def read_record(path: str | Path) -> dict[str, Any]:
    """``read_json`` of a file that holds an object; anything else is damage."""
    value = read_json(path)
    if not isinstance(value, dict):
        why, fix = f"holds {type(value).__name__}, no object", "remove it and run the command again that wrote it"
        raise CheckpointError("damaged record", where=path, why=why, fix=fix)
    return value


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


class JsonlWriter:
    """Appends one JSON object per line and flushes each, so that a kill costs at most the last line.

    What a kill left of a line is cut off before the first new one; nothing whole is ever removed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with _named_errors(self.path):
            self._mend()
            self._file: IO[str] = open(self.path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115 (closed by close)

    def _mend(self) -> None:
        if not self.path.exists():
            return
        with open(self.path, "r+b") as file:
            content = file.read()
            whole, newline, tail = content.rpartition(b"\n")
            if tail and _is_json(tail):
                file.write(b"\n")
            elif tail:
                file.truncate(len(whole) + len(newline))

    def write(self, value: Mapping[str, Any]) -> None:
        """One more line."""
        line = json.dumps(value, ensure_ascii=False, allow_nan=False)
        with _named_errors(self.path):
            self._file.write(line + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "JsonlWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a file of ours; a torn last line is dropped with a warning, any other is damage."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError("cannot read", where=path, why=str(error.strerror), fix="check the run folder") from None
    lines = content.split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                warn(f"{path}:{number} is torn and was left out", stacklevel=2)
                continue
            where = f"{path}:{number}"
            raise CheckpointError("damaged record", where=where, why=str(error), fix="remove the line") from None
    return rows


def sha256_file(path: str | Path) -> str:
    """Hex digest of a regular file's content; a pipe or device is refused, since it might never end."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("cannot hash", where=path, why="not a regular file", fix="restore the file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of a source checkout, ``+changes`` where the tree differs from it; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, timeout=10, check=True)
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def environment() -> dict[str, Any]:
    """Versions, commit and machine, for ``environment.json``; no path, name or secret of the user."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    torch = sys.modules.get("torch")  # core never imports it, but a run has it
    return {
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in RECORDED_PACKAGES},
        "commit": _commit(),
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cpus": os.cpu_count(),
            "memory_bytes": memory,
            "threads": torch.get_num_threads() if torch is not None else None,
            "accelerators": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
            if torch is not None
            else [],
        },
    }
