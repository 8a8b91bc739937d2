"""What classes are called: a folder or label as the data names it -> the name that a model should say.

Without a file the data's own name counts, its underscores read as blanks. A file is one JSON object: ``{"n02123045":
"tabby cat"}``, or ``{"missile": ["n03773504", "n04008634"]}`` where several folders are one class.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yarbus.core.errors import DataError
from yarbus.core.table import closest
from yarbus.data.sample import IMAGE_TAG

SHOWN = 3


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"key '{next(key for key in keys if keys.count(key) > 1)}' stands twice")
    return dict(pairs)


def _read(file: Path) -> dict[str, Any]:
    fix = 'write a JSON object, {"FOLDER": "name", ...}'
    try:
        found = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_pairs)
    except FileNotFoundError:
        raise DataError("no such file of class names", where=file, fix="check 'names'") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("cannot read class names", where=file, why=str(error), fix=fix) from None
    if not isinstance(found, dict):
        raise DataError("cannot read class names", where=file, why="it holds no object", fix=fix)
    return found


def _by_key(entries: Mapping[str, Any], file: Path) -> tuple[dict[str, str], set[str]]:
    """Class -> name, and the classes that are listed under the name that they share."""
    names: dict[str, str] = {}
    listed = set()
    for key, value in entries.items():
        several = isinstance(value, list)
        for one, name in ((one, key) for one in value) if several else ((key, value),):
            if not isinstance(one, str) or not isinstance(name, str):
                why = f"'{key}' is {str(value)[:40]!r}"
                raise DataError("cannot read class names", where=file, why=why, fix="a name is text, or a list of text")
            if names.setdefault(one, name) != name:
                why = f"'{one}' is '{names[one]}' and '{name}'"
                raise DataError("a class has two names", where=file, why=why, fix="keep one")
            if several:
                listed.add(one)
    return names, listed


def _checked(name: str, key: str, where: object) -> str:
    """A name that can stand in a sentence and in a list."""
    stripped = " ".join(name.split())
    if not stripped or IMAGE_TAG in stripped or not stripped.isprintable():
        why = f"class '{key}' is called {name!r}"
        raise DataError("no class name", where=where, why=why, fix=f"use words, without {IMAGE_TAG}")
    return stripped


def class_names(classes: Sequence[str], where: object, file: Path | None = None) -> dict[str, str]:
    """The name of every class; raises where one has none, or where two classes have one name by accident.

    The accident is a difference in case alone as well: neither scoring nor a reader could tell the two apart.
    """
    if file is None:
        named, listed = {key: key.replace("_", " ") for key in classes}, set[str]()
    else:
        named, listed = _by_key(_read(file), file)
        where = file
    missing = [key for key in classes if key not in named]
    if missing:
        more = f", and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        why = f"it has {', '.join(missing[:SHOWN])}{more}, which the file does not name"
        close = closest(missing[0], list(named)) if len(named) <= 50 else ""
        fix = f"add them{f' (it names {close})' if close else ''}"
        raise DataError("classes without a name", where=where, why=why, fix=fix)
    names = {key: _checked(named[key], key, where) for key in classes}
    first: dict[str, str] = {}
    for key, name in names.items():
        other = first.setdefault(name.casefold(), key)
        if other != key and not ({key, other} <= listed and names[other] == name):
            fix = f'name them apart in a names file, or write {{"{name}": ["{other}", "{key}"]}} if they are one class'
            raise DataError(f"two classes are called '{name}'", where=where, why=f"{other} and {key}", fix=fix)
    return names
