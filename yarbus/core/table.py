"""Name -> object, imported on demand, with "did you mean".

A table is the whole register of a kind of thing: listing its names imports nothing, loading one
entry imports that entry's module alone.
"""

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from yarbus.core.errors import ConfigError, UserError


def closest(name: str, names: list[str]) -> str:
    """The names most like ``name``, else all of them: the "use one of" of an error message."""
    known = list(dict.fromkeys(names))
    return ", ".join(get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known))


class Table(Mapping[str, Any]):
    """Entries of one kind, each written ``"module:attribute"`` until somebody asks for it.

    User code may ``add`` entries that are objects already (a family or tower of its own).
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, str],
        error: type[UserError] = ConfigError,
        more: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        """``more`` brings further entries, such as those of plug-ins; it is called at the first look into the table."""
        self.kind = kind
        self.error = error
        self._own: dict[str, Any] = dict(entries)
        self._more = more

    @property
    def _entries(self) -> dict[str, Any]:
        if self._more is not None:
            more, self._more = self._more, None
            for name, entry in more().items():
                self.add(name, entry)
        return self._own

    def __getitem__(self, name: str) -> Any:
        """The entry itself; an unknown name raises the table's error with the closest names."""
        if name not in self._entries:
            raise self.error(f"unknown {self.kind} '{name}'", fix=f"use one of: {closest(name, list(self._entries))}")
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = getattr(import_module(module), attribute)
        return entry

    def module_of(self, name: str) -> str:
        """Name of the module that an entry is written in; empty for an object that user code added."""
        entry = self._entries[name]
        return entry.partition(":")[0] if isinstance(entry, str) else ""

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def name_of(self, attribute: str) -> str | None:
        """The name whose entry is called so where it lives (``"module:attribute"``), without importing any."""
        for name, entry in self._entries.items():
            known = entry.partition(":")[2] if isinstance(entry, str) else getattr(entry, "__name__", "")
            if known == attribute:
                return name
        return None

    def add(self, name: str, entry: Any) -> None:
        """Adds an entry; a name that is taken raises, since two meanings for one word are one too many."""
        if name in self._entries and self._entries[name] != entry:
            raise self.error(f"{self.kind} '{name}' is declared already", fix="choose another name")
        self._entries[name] = entry
