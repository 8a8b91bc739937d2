"""YAML as people mean it: plain values, each with the line it stands on, or one message with every fault.

The safe scalars only (text, numbers, true/false, null) in lists and mappings with text keys. What PyYAML
lets pass in silence is refused here: a key that stands twice (the last would win), ``1e-4`` (text in YAML
1.1), ``.nan``, tags, merge keys, and aliases that unfold into a bomb.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from yarbus.core.errors import ConfigError

MAX_BYTES = 2**20
MAX_VALUES = 20_000
MAX_DEPTH = 50

KeyPath = tuple[str | int, ...]

# Floats of YAML 1.1 need a point and a signed exponent; without them the scalar is text.
_ALMOST_FLOAT = re.compile(r"([-+]?)(\d+)(?:\.(\d*))?[eE]([-+]?)(\d+)")
_FOLDED = frozenset("\x85\u2028\u2029\ufeff")
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}


@dataclass(frozen=True)
class Document:
    """What a piece of YAML says, and where."""

    value: Any
    places: Mapping[KeyPath, str]
    """Key path -> ``file:line``."""


@dataclass(frozen=True)
class Fault:
    """One thing that cannot be meant."""

    where: str
    what: str
    fix: str
    why: str = ""


def dotted(path: KeyPath) -> str:
    """``stages.align.batch``."""
    return ".".join(map(str, path)) or "the value"


def raise_first(faults: list[Fault]) -> None:
    """Raises the first fault and counts the others, so that a message stays three lines long."""
    if not faults:
        return
    first, *others = faults
    what = first.what
    if others:
        shown = "; ".join(f"{fault.what} at {fault.where}" for fault in others[:2])
        what += f" (and {len(others)} more: {shown}{'; ...' if len(others) > 2 else ''})"
    raise ConfigError(what, where=first.where, why=first.why, fix=first.fix)


class _Reader:
    """One pass over the nodes of a document; collects values, places and faults."""

    def __init__(self, name: str, one_line: bool) -> None:
        self.name, self.one_line = name, one_line
        self.loader = yaml.SafeLoader("")
        self.places: dict[KeyPath, str] = {}
        self.faults: list[Fault] = []
        self.num_values = 0

    def place(self, node: yaml.Node) -> str:
        return self.name if self.one_line else f"{self.name}:{node.start_mark.line + 1}"

    def fault(self, node: yaml.Node, what: str, fix: str) -> None:
        self.faults.append(Fault(self.place(node), what, fix))

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        self.num_values += 1
        if self.num_values > MAX_VALUES or len(path) > MAX_DEPTH:
            limit = f"{MAX_VALUES:,} values" if self.num_values > MAX_VALUES else f"{MAX_DEPTH} levels"
            raise ConfigError(f"more than {limit}", where=self.place(node), fix="write the aliases out, or less of it")
        self.places.setdefault(path, self.place(node))
        if node.tag not in _TAGS:
            self.fault(node, f"{dotted(path)} has the tag {node.tag}", "write plain values; quote what is text")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(child, (*path, index)) for index, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode), "YAML has three kinds of node"
        return self.scalar(node, path)

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.key(key_node)
            if key is None:
                continue
            if key in found:
                first = self.places[(*path, key)].rpartition(":")[2]
                self.fault(key_node, f"key '{dotted((*path, key))}' stands twice (first in line {first})", "remove one")
                continue
            self.places[(*path, key)] = self.place(key_node)
            found[key] = self.read(value_node, (*path, key))
        return found

    def key(self, node: yaml.Node) -> str | None:
        if node.tag == "tag:yaml.org,2002:merge":
            self.fault(node, "merge key '<<'", "write the keys out, or use extends")
        elif not isinstance(node, yaml.ScalarNode):
            self.fault(node, "a list or mapping as a key", "use text as a key")
        elif node.tag != "tag:yaml.org,2002:str":
            self.fault(node, f"key {node.value} is not text in YAML", f"write '{node.value}' in quotes")
        else:
            return node.value
        return None

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if node.style is None and (almost := _ALMOST_FLOAT.fullmatch(node.value)) and node.tag.endswith(":str"):
            sign, whole, rest, exponent_sign, exponent = almost.groups()
            number = f"{sign}{whole}.{rest or 0}e{exponent_sign or '+'}{exponent}"
            self.fault(node, f"{dotted(path)}: {node.value} is text in YAML, not a number", f"write {number}")
            return None
        try:
            value = self.loader.construct_object(node)
        except (ValueError, yaml.YAMLError):
            self.fault(node, f"{dotted(path)}: {node.value!r} cannot be read", "quote it if it is text")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self.fault(node, f"{dotted(path)} is {node.value}", "write a finite number")
        return value


def parse_yaml(text: str, name: str, one_line: bool = False) -> Document:
    """The values of ``text``; ``name`` stands in messages (``one_line``: without line numbers)."""
    reader = _Reader(name, one_line)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = None if node is None else reader.read(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = name if one_line or mark is None else f"{name}:{mark.line + 1}:{mark.column + 1}"
        fix = "indent with spaces, not tabs" if "\\t" in str(error.problem) else "check indentation, colons and quotes"
        raise ConfigError("not valid YAML", where=where, why=str(error.problem), fix=fix) from None
    except yaml.YAMLError as error:
        why = str(error).splitlines()[0]
        raise ConfigError("not valid YAML", where=name, why=why, fix="save it as UTF-8 text") from None
    except RecursionError:
        raise ConfigError("nested too deeply", where=name, fix=f"stay below {MAX_DEPTH} levels") from None
    raise_first(reader.faults)
    return Document(value, reader.places)


def read_yaml(path: Path) -> Document:
    """The values of a file of at most ``MAX_BYTES``."""
    if not path.exists():
        raise ConfigError("no such file", where=path, fix="check the path")
    if not path.is_file():
        raise ConfigError("not a file", where=path, fix="give the path of a YAML file")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(
            "file too large", where=path, why=f"over {MAX_BYTES:,} bytes", fix="a recipe is a page of text"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8", where=path, why=f"byte {error.start}", fix="save it as UTF-8 text") from None
    except OSError as error:
        raise ConfigError("cannot read", where=path, why=str(error.strerror), fix="make it readable") from None
    return parse_yaml(text, str(path))


class _Writer(yaml.SafeDumper):
    """Writes nothing that ``parse_yaml`` would refuse or read otherwise."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _write_text(writer: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML folds the rarer line breaks and the byte-order mark into white space unless they are escaped.
    must_quote = _ALMOST_FLOAT.fullmatch(text) or not _FOLDED.isdisjoint(text)
    style = '"' if must_quote else None
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Writer.add_representer(str, _write_text)


def dump_yaml(value: Any) -> str:
    """YAML that ``parse_yaml`` reads back as the same values, keys in their own order."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=120)
