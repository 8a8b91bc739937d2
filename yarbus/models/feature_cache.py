"""What frozen encoders say, on disk: one safetensors file per image or text, named by all that its numbers depend on.

Files are written beside and renamed, and hold a hash of their content: several processes may share a folder, anything
in it may be deleted at any time, and a damaged file is as good as none. The oldest in use go first when it is full.
"""

import hashlib
import os
import time
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from yarbus.core.errors import CheckpointError

SHARE = 64
"""A process looks at the whole folder again after writing this part of the limit: others write there too, so several
processes may pass the limit by that much each."""
KEPT = 0.9
"""Share of the limit that stays when it is full."""
STALE_SECONDS = 3600.0
"""A file that was begun so long ago and never named belongs to a process that was killed."""


class FeatureCache:
    """Tensors by key in a folder that takes at most ``limit_bytes``."""

    def __init__(self, folder: str | Path, limit_bytes: int, called: str = "feature_cache") -> None:
        """``called``: the option that names the folder, for messages."""
        self.folder, self.limit_bytes, self.called = Path(folder).expanduser(), limit_bytes, called
        self._total: int | None = None
        """Bytes in the folder when it was last looked at, and those written since; None: never looked."""
        self._written = 0
        """Bytes written since then."""

    @property
    def room(self) -> int:
        """Bytes of files in use that it certainly keeps."""
        return int(KEPT * self.limit_bytes)

    @property
    def is_read_only(self) -> bool:
        """Whether the folder is there and may not be written."""
        return self.folder.is_dir() and not os.access(self.folder, os.W_OK)

    def get(self, key: str) -> Tensor | None:
        """What was put under this key, on the CPU; None if there is nothing whole."""
        path = self._path(key)
        try:
            parts = load(path.read_bytes())
            features, digest = parts["features"], parts["sha256"]
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        if not torch.equal(digest, digest_of(key, features)):
            return None
        try:
            os.utime(path)
        except OSError:  # read from a folder that is not ours to change, or deleted since
            return features
        return features

    def put(self, key: str, features: Tensor) -> None:
        """Keeps a tensor; a disk that is full or may not be written raises ``CheckpointError``."""
        features = features.detach().cpu().contiguous()
        content = save({"features": features, "sha256": digest_of(key, features)})
        if len(content) > self.limit_bytes:
            return
        try:
            self._make_room(len(content))
            self._write(self._path(key), content)
        except OSError as error:
            what = f"cannot write the {self.called.replace('_', ' ')}"
            fix = f"free some space, name another {self.called}, or leave it out"
            why = error.strerror or str(error)
            raise CheckpointError(what, where=self.folder, why=why, fix=fix) from None

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _write(self, path: Path, content: bytes) -> None:
        beside = path.with_name(f".{path.stem}.{uuid4().hex}.new")
        for attempt in range(3):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                beside.write_bytes(content)
                os.replace(beside, path)
                break
            except FileNotFoundError:  # somebody deleted the folder in between
                if attempt == 2:
                    raise
            except BaseException:
                beside.unlink(missing_ok=True)
                raise
        self._written += len(content)
        self._total = (self._total or 0) + len(content)

    def _make_room(self, size: int) -> None:
        """Deletes what was used longest ago, where ``size`` more bytes would pass the limit."""
        is_known = self._total is not None and self._written < self.limit_bytes / SHARE
        if is_known and self._total + size <= self.limit_bytes:  # type: ignore[operator]
            return
        files = sorted(self._files())
        self._total, self._written = sum(one for _, one, _ in files), 0
        if self._total + size <= self.limit_bytes:
            return
        for _, one, path in files:
            if self._total + size <= KEPT * self.limit_bytes:
                break
            path.unlink(missing_ok=True)
            self._total -= one

    def _files(self) -> list[tuple[float, int, Path]]:
        """When each file was last used, its size, and where it is. What killed processes began is removed."""
        found = []
        for path in self.folder.glob("??/*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if path.suffix == ".new" and time.time() - status.st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)
            elif path.suffix in (".safetensors", ".new"):
                found.append((status.st_mtime, status.st_size, path))
        return found


def digest_of(key: str, features: Tensor) -> Tensor:
    """[32] sha256 of a tensor on the CPU under its key: equal only for equal bits."""
    digest = hashlib.sha256(f"{key} {features.dtype} {tuple(features.shape)}".encode())
    digest.update(features.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
