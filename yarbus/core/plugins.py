"""The door for packages that bring their own data, base models, recipes, benchmarks and methods.

A plug-in is a value that a package names under the entry-point group ``yarbus.plugins``::

    [project.entry-points."yarbus.plugins"]
    tinyworld = "yarbus.tinyworld:PLUGIN"

A recipe reaches its files as ``name:path`` (``tinyworld:train/train.json``); what has to be made
first is made on the first use and kept in the cache folder.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from uuid import uuid4

from yarbus.core.errors import CheckpointError, ConfigError
from yarbus.core.table import Table, closest


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """What a package brings. Everything is optional but the name."""

    name: str
    """The word in front of the colon."""
    version: str = "1"
    """Part of the cache folder's name: made files are never shared between versions."""
    files: Path | None = None
    """Folder of files that ship with the package; ``name:path`` looks here first."""
    make: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    """First component of a path -> writes that folder (into the empty folder it is handed)."""
    recipes: Path | None = None
    """Folder of shipped recipes (``*.yaml``)."""
    benchmarks: Mapping[str, str] = field(default_factory=dict)
    """Benchmark name -> ``"module:attribute"``."""
    methods: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Place -> method name -> ``"module:attribute"``."""


def cache_folder() -> Path:
    """``$YARBUS_CACHE``, else ``yarbus`` in the user's cache folder."""
    if "YARBUS_CACHE" in os.environ:
        return Path(os.environ["YARBUS_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "yarbus"


@cache
def plugins() -> dict[str, Plugin]:
    """Installed plug-ins by name."""
    found = (point.load() for point in entry_points(group="yarbus.plugins"))
    return {plugin.name: plugin for plugin in found}


def _make(write: Callable[[Path], None], folder: Path) -> None:
    """Lets a plug-in write a folder beside its place and names it when it is whole; a failed one is removed."""
    beside = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        beside.mkdir(parents=True)
    except OSError as error:
        fix = "let YARBUS_CACHE name a folder that can be written"
        raise CheckpointError("cannot write the cache", where=folder.parent, why=str(error.strerror), fix=fix) from None
    try:
        write(beside)
        beside.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was first; its folder is the same, byte for byte
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def resolve(path: str) -> Path | str:
    """``name:path`` as a path on disk, made first if need be; anything else comes back as it is."""
    name, colon, rest = path.partition(":")
    if not colon or "/" in name or "\\" in name or len(name) == 1:
        return path
    if name not in plugins():
        raise ConfigError(
            f"no plug-in '{name}'", where=path, fix=f"install it, or use one of: {closest(name, list(plugins()))}"
        )
    plugin = plugins()[name]
    if plugin.files is not None and (plugin.files / rest).exists():
        return plugin.files / rest
    first = rest.split("/")[0]
    if first not in plugin.make:
        raise ConfigError(
            f"plug-in '{name}' has no '{rest}'", where=path, fix=f"use one of: {closest(first, list(plugin.make))}"
        )
    folder = cache_folder() / f"{name}-{plugin.version}" / first
    if not folder.exists():
        _make(plugin.make[first], folder)
    return folder.parent / rest


def brought_methods(place: str) -> dict[str, str]:
    """Methods of a place that installed plug-ins bring: name -> ``"module:attribute"``."""
    return {name: where for plugin in plugins().values() for name, where in plugin.methods.get(place, {}).items()}


def benchmark_table() -> Table:
    """Every benchmark that an installed plug-in brings."""
    return Table(
        "benchmark", {name: where for plugin in plugins().values() for name, where in plugin.benchmarks.items()}
    )
