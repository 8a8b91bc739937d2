"""Checkpoint folders as files: written beside and renamed, checked by hash, oldest removed last.

A checkpoint is ``step-000100/`` with whatever its writer puts there and ``manifest.json``, which
holds size and sha256 of every file, the step, the run and its own checksum. The folder appears
under its name only when all of it is on the disk, so a name always means a whole checkpoint; what
a later fault changes is found by the manifest. Nothing here knows tensors, and nothing is ever
unpickled: a pickle lying in the folder is refused before anything is read.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yarbus.core.errors import CheckpointError, MismatchError
from yarbus.core.records import sha256_file, sync

SCHEMA = 1
MANIFEST = "manifest.json"
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".mdl", ".pickle", ".pkl", ".pt", ".pth"})
RESTART = "train into another folder, or remove this one to start again"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint says about itself."""

    step: int
    """Optimizer steps done."""
    run: str
    """Identity of the run that wrote it."""
    files: dict[str, dict[str, Any]]
    """File name -> ``{"sha256": ..., "bytes": ...}``."""
    facts: dict[str, Any]
    """What the writer adds: stage, hashes of data and start."""
    schema: int = SCHEMA

    def serialised(self) -> bytes:
        """The file's bytes: one form only, so that any changed byte is found."""
        record = asdict(self)
        record["checksum"] = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        return (json.dumps(record, sort_keys=True, indent=1) + "\n").encode()


def step_folder(root: Path, step: int) -> Path:
    """``root/step-000100``."""
    return root / f"step-{step:06d}"


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name; -1 where it has none."""
    found = re.fullmatch(r"step-(\d+)", folder.name)
    return int(found[1]) if found else -1


def folders(root: Path) -> list[Path]:
    """Checkpoint folders by step, oldest first, whole or damaged."""
    if not root.is_dir():
        return []
    return sorted((entry for entry in root.iterdir() if step_of(entry) >= 0), key=step_of)


def beside(root: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` is written before it has a name."""
    return root / f".tmp-step-{step:06d}"


def prepare(root: Path, step: int) -> Path:
    """An empty folder beside the checkpoints to write into; ``publish`` gives it its name."""
    folder = beside(root, step)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise _disk_error(folder, error) from error
    return folder


def publish(root: Path, step: int, *, run: str, facts: dict[str, Any]) -> Path:
    """Names the folder that ``prepare`` made and a writer filled; returns the checkpoint."""
    folder, final = beside(root, step), step_folder(root, step)
    try:
        files = sorted(entry for entry in folder.iterdir() if entry.is_file())
        for file in files:
            # safetensors makes its files 0600; the folder has the mode the user's umask asks for.
            file.chmod(folder.stat().st_mode & 0o666)
            sync(file)
        manifest = Manifest(
            step=step,
            run=run,
            facts=facts,
            files={file.name: {"sha256": sha256_file(file), "bytes": file.stat().st_size} for file in files},
        )
        (folder / MANIFEST).write_bytes(manifest.serialised())
        sync(folder / MANIFEST)
        sync(folder)
        if final.exists():
            # The same step again, after a resume from an older checkpoint: the old one leaves last.
            aside = root / f".tmp-old-{final.name}"
            shutil.rmtree(aside, ignore_errors=True)
            final.rename(aside)
            folder.rename(final)
            sync(root)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            folder.rename(final)
            sync(root)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _disk_error(folder, error) from error
    return final


def refuse_pickles(folder: Path) -> None:
    """Raises where a file of the folder is a pickle by name or by content; opens none of them."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and (file.suffix in PICKLE_SUFFIXES or _looks_pickled(file)):
            raise CheckpointError(
                "pickle refused",
                where=file,
                why="reading a pickle can run any program",
                fix="remove it; Yarbus reads safetensors and JSON only",
            )


def verify(folder: Path, run: str | None = None) -> Manifest:
    """The manifest, once every file is what it says; a damaged, foreign or newer checkpoint raises.

    ``run``: the run that must have written it, None for any.
    """
    if not folder.is_dir():
        raise CheckpointError("no checkpoint", where=folder, fix="name a step-... folder of this run")
    refuse_pickles(folder)
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        _verify_file(folder / name, expected)
    if run is not None and manifest.run != run:
        raise MismatchError(
            "checkpoint of another run", where=folder, why=f"run {manifest.run}, this is {run}", fix="move it away"
        )
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """What a checkpoint says about itself, without a look at its other files; a damaged manifest raises."""
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError("incomplete checkpoint", where=folder, why=f"no {MANIFEST}", fix=RESTART)
    content = path.read_bytes()
    try:
        record = json.loads(content)
        schema = record["schema"]
        record.pop("checksum")
        manifest = Manifest(**record) if schema == SCHEMA else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("damaged checkpoint", where=path, why="not a manifest", fix=RESTART) from error
    if manifest is None:
        raise CheckpointError(
            "checkpoint of another version", where=path, why=f"schema {schema}, this is {SCHEMA}", fix="update Yarbus"
        )
    if manifest.serialised() != content:
        raise CheckpointError("damaged checkpoint", where=path, why="its own checksum does not fit", fix=RESTART)
    return manifest


def newest(root: Path, run: str | None = None, warn: Callable[[str], None] = lambda line: None) -> Path | None:
    """The whole checkpoint with the highest step; None where there is no checkpoint at all.

    Damaged ones above it are renamed to ``.bad-...`` and reported to ``warn``, a line each. If every
    one is damaged nothing is renamed and the error lists them; a foreign run's checkpoint raises.
    """
    damaged: list[tuple[Path, CheckpointError]] = []
    for folder in reversed(folders(root)):
        try:
            verify(folder, run)
        except CheckpointError as error:
            damaged.append((folder, error))
            continue
        for bad, reason in damaged:
            warn(f"warning: {reason.what}: {reason.where} - {reason.why}; going on from {folder.name}")
            bad.rename(_free_name(bad.with_name(f".bad-{bad.name}")))
        return folder
    if len(damaged) == 1:
        raise damaged[0][1]
    if damaged:
        listing = ", ".join(f"{bad.name} ({reason.where}: {reason.why})" for bad, reason in damaged)
        raise CheckpointError("no checkpoint is whole", where=root, why=listing, fix=RESTART)
    return None


def rotate(root: Path, keep: int) -> None:
    """Removes all but the newest ``keep`` checkpoints. Called after a save, never before."""
    for folder in folders(root)[: -max(keep, 1)]:
        # Renamed first, so that a half-removed folder is never taken for a checkpoint.
        leaving = folder.rename(_free_name(folder.with_name(f".tmp-gone-{folder.name}")))
        shutil.rmtree(leaving, ignore_errors=True)


def sweep(root: Path) -> None:
    """Removes what an interrupted save or removal left: our own ``.tmp-*`` folders and nothing else."""
    for leftover in root.glob(".tmp-*step-*") if root.is_dir() else ():
        old = leftover.name.removeprefix(".tmp-old-")
        if old != leftover.name and not (root / old).exists() and (leftover / MANIFEST).is_file():
            leftover.rename(root / old)  # the kill came between the two renames of ``publish``
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _verify_file(file: Path, expected: dict[str, Any]) -> None:
    if not file.is_file():
        raise CheckpointError("damaged checkpoint", where=file, why="missing", fix=RESTART)
    size = file.stat().st_size
    if size != expected["bytes"]:
        raise CheckpointError(
            "damaged checkpoint", where=file, why=f"{size} bytes instead of {expected['bytes']}", fix=RESTART
        )
    if sha256_file(file) != expected["sha256"]:
        raise CheckpointError("damaged checkpoint", where=file, why="its sha256 does not fit", fix=RESTART)


def _looks_pickled(file: Path) -> bool:
    """By its first bytes: a pickle of protocol 2 to 5, or the zip archive of ``torch.save``."""
    if file.suffix in (".safetensors", ".json"):  # a header of 640 bytes starts like a pickle, too
        return False
    with file.open("rb") as handle:
        start = handle.read(4)
    return start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def _free_name(path: Path) -> Path:
    name, number = path.name, 1
    while path.exists():
        path, number = path.with_name(f"{name}.{number}"), number + 1
    return path


def _disk_error(path: Path, error: OSError) -> CheckpointError:
    where = error.filename or path
    return CheckpointError("cannot save", where=where, why=error.strerror or str(error), fix="free the disk and resume")
