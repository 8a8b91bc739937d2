"""Benchmarks that stand in no table: the name itself says where the questions are.

``file:test.json`` is a file of conversations, ``classes:val`` a folder of classes, ``dataset:food101`` a data set on
disk. The last two take options behind the path, each after a ``#``: ``classes:val#closed=20#seed=7``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal

from yarbus.core.errors import ConfigError, DataError
from yarbus.core.plugins import resolve
from yarbus.core.table import closest

KINDS: Mapping[str, tuple[str, ...]] = {
    "file": (),
    "classes": ("closed", "seed", "names"),
    "dataset": ("closed", "seed", "names", "split", "label"),
}
"""Kind -> options that its names may carry."""
_OPTION = re.compile(r"(.*)#(\w+)=([^#]+)", re.DOTALL)


def _number(name: str, key: str, text: str, least: int) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        fix = f"use a whole number from {least} on{', or all' if key == 'closed' else ''}"
        raise ConfigError(f"benchmark '{name}': {key} is '{text}'", fix=fix)
    return int(text)


@dataclass(frozen=True)
class OwnName:
    """A benchmark's name, taken apart."""

    name: str
    kind: str
    path: str
    options: Mapping[str, str] = field(default_factory=dict)
    closed: int | Literal["all"] | None = None
    """How many names a question offers; None: it is open."""
    seed: int = 1234
    """Decides which names are offered, and in which order."""

    @property
    def place(self) -> Path:
        """The path on disk."""
        return Path(resolve(self.path))

    @property
    def folder(self) -> str:
        """``file:a/test.json`` as ``file/test-1a2b3c4d``: it fits into a run and differs by path and options."""
        rest = self.name.partition(":")[2]
        return f"{self.kind}/{Path(self.path).stem or self.kind}-{sha256(rest.encode()).hexdigest()[:8]}"

    def check(self) -> None:
        """Raises where what the name points at is not there."""
        place = self.place
        if self.kind == "file" and not place.is_file():
            raise DataError("no such benchmark file", where=place, fix="give the path of a LLaVA-format file")
        if self.kind == "classes" and not place.is_dir():
            raise DataError("no such folder of classes", where=place, fix="give the folder that holds class folders")
        if self.kind == "dataset" and not place.exists():
            raise DataError("no such data set", where=place, fix="give a data set on this machine")
        if "names" in self.options and not (file := Path(resolve(self.options["names"]))).is_file():
            raise DataError("no such file of class names", where=file, fix="check #names")


def own_name(name: str) -> OwnName | None:
    """The parts of such a name; None for the name of a benchmark that stands in a table."""
    kind, colon, path = name.partition(":")
    if not colon or kind not in KINDS:
        return None
    options: dict[str, str] = {}
    while KINDS[kind] and (found := _OPTION.fullmatch(path)) is not None:
        path, key, value = found.groups()
        if key not in KINDS[kind]:
            raise ConfigError(
                f"benchmark '{name}' has no option '{key}'", fix=f"use one of: {closest(key, list(KINDS[kind]))}"
            )
        if key in options:
            raise ConfigError(f"benchmark '{name}' says '{key}' twice", fix="keep one")
        options[key] = value
    if not path:
        raise ConfigError(f"benchmark '{name}' names no path", fix=f"write {kind}:PATH")
    closed, seed = options.pop("closed", None), options.pop("seed", None)
    return OwnName(
        name,
        kind,
        path,
        options,
        "all" if closed == "all" else None if closed is None else _number(name, "closed", closed, 2),
        OwnName.seed if seed is None else _number(name, "seed", seed, 0),
    )
