"""Rows of a JSON array or of JSON lines, one at a time, each with where it stands or why it cannot be read.

The libraries' readers name no file and no line, let the last of two equal keys win and turn one row with
a lone surrogate into two (reliability.md, 0.9); here a row is a value or a ``Fault``, never both.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yarbus.core.errors import DataError

_FOREIGN = (
    (b"version https://git-lfs", "a git-lfs pointer, not the data", "run git lfs pull"),
    (b"\x1f\x8b", "gzip", "unpack it"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"PAR1", "Parquet", "write it as JSON lines"),
    (b"\xff\xfe", "UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16", "save it as UTF-8"),
    (b"\x80", "a pickle, which is never opened", "write it as JSON lines"),
)
_MARK = b"\xef\xbb\xbf"  # UTF-8 with a byte-order mark
_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one row."""

    where: str
    """``file:row``, and ``:column`` where the text itself cannot be read."""
    why: str
    fix: str = "mend or remove the row"


@dataclass(frozen=True, slots=True)
class Row:
    """One readable row."""

    where: str
    value: Any


class _Refused(ValueError):
    """Valid for Python's json, meaningless as data."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Refused(f"key '{next(key for key in keys if keys.count(key) > 1)}' stands twice")
    return found


def _no_constant(name: str) -> None:
    raise _Refused(f"{name} is not a number that JSON knows")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _decode(text: str, start: int) -> tuple[Any, int]:
    """The value at ``start`` and where it ends; raises JSONDecodeError or ``_Refused``."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise _Refused("brackets are nested too deeply") from None
    except (json.JSONDecodeError, _Refused):
        raise
    except ValueError:  # Python's guard against numbers of thousands of digits
        raise _Refused("a number has too many digits") from None
    if "\\u" in text[start:end]:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise _Refused("half a surrogate pair (\\ud800 to \\udfff) is no character") from None
    return value, end


def _open(path: Path) -> bytes:
    if not path.exists():
        raise DataError("no such data file", where=path, fix="check the path")
    if not path.is_file():
        raise DataError("not a data file", where=path, why="a folder, pipe or device", fix="give a JSON or JSONL file")
    with path.open("rb") as file:
        head = file.read(64)
    for magic, kind, fix in _FOREIGN:
        if head.startswith(magic):
            raise DataError("not a JSON file", where=path, why=f"the content is {kind}", fix=fix)
    return head.removeprefix(_MARK)


def _text(raw: bytes, where: str) -> str | Fault:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return Fault(f"{where}:{error.start + 1}", f"byte {raw[error.start]:#04x} is not UTF-8", "save it as UTF-8")


def _read_lines(path: Path) -> Iterator[Row | Fault]:
    with path.open("rb") as file:  # binary: only \n ends a row, never U+2028 inside a string
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(_MARK) if number == 1 else raw
            where = f"{path.name}:{number}"
            text = _text(line, where)
            if isinstance(text, Fault):
                yield text
                continue
            text = text.strip(_SPACE)
            if not text:
                continue
            if number == 1 and text == "{":
                why = "one object spread over lines"
                raise DataError("not rows", where=path, why=why, fix="write an array of rows, or one row per line")
            try:
                value, end = _decode(text, 0)
                if end < len(text):
                    raise json.JSONDecodeError("something follows the row", text, _skip(text, end))
                yield Row(where, value)
            except json.JSONDecodeError as error:
                yield Fault(f"{where}:{error.colno}", error.msg)
            except _Refused as error:
                yield Fault(where, str(error))


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _read_array(path: Path) -> Iterator[Row | Fault]:
    """Rows are counted from 1; after text that cannot be read the rest of an array has no rows to find."""
    content = _text(path.read_bytes().removeprefix(_MARK), path.name)
    if isinstance(content, Fault):
        yield content
        return
    at, number = _skip(content, _skip(content, 0) + 1), 0
    if content[at : at + 1] == "]":
        at = _skip(content, at + 1)
    else:
        while True:
            number += 1
            where = f"{path.name}:{number}"
            try:
                value, at = _decode(content, at)
            except json.JSONDecodeError as error:
                what = "the file ends inside this row" if _skip(content, error.pos) >= len(content) else error.msg
                yield Fault(f"{path.name}:{error.lineno}:{error.colno}", f"row {number}: {what}", "complete the file")
                return
            except _Refused as error:
                yield Fault(where, f"{error}; the rows after it were not read")
                return
            yield Row(where, value)
            at = _skip(content, at)
            mark, at = content[at : at + 1], _skip(content, at + 1)
            if mark == "]":
                break
            if mark != ",":
                what = "the file ends inside the array" if not mark else "',' or ']' expected"
                yield Fault(where, f"after row {number}: {what}", "complete the file")
                return
    if content[at:]:
        yield Fault(f"{path.name}:{number}", "something follows the array", "remove it")


def read_rows(path: Path) -> Iterator[Row | Fault]:
    """Rows of a JSON array or JSON lines (told by the first character), in order.

    A file that is neither raises ``DataError``; a row that cannot be read is a ``Fault``.
    """
    head = _open(path).lstrip()
    if not head and path.stat().st_size < 64:
        raise DataError("empty data file", where=path, fix="write at least one row")
    yield from _read_array(path) if head.startswith(b"[") else _read_lines(path)
