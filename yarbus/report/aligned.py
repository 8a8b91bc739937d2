"""What the variants of a comparison differ in besides the method, and what of the rest was checked."""

from typing import Any

from yarbus.report.estimates import listed, several
from yarbus.report.runs import Row

FACTS = {"data": "samples", "base": "base", "start": "start"}
MOST_VALUES = 3
"""A setting with more different values than this is named without them."""


def _values(values: dict[str, Any]) -> str:
    holders: dict[str, list[str]] = {}
    for name, value in values.items():
        holders.setdefault(str(value), []).append(name)
    if len(holders) > MOST_VALUES:
        return f"{len(holders)} values"
    return ", ".join(f"{value} in {listed(names)}" for value, names in holders.items())


def besides(alignment: Row) -> str:
    """The sentence for the header; empty where the method alone differs."""
    differs = alignment.get("differs") or {}
    if not differs:
        return ""
    return f"Besides the method, variants differ in {'; '.join(f'{p}: {_values(v)}' for p, v in differs.items())}."


def checked(alignment: Row) -> str:
    """What the runs' own records said they shared; empty where nothing was looked at."""
    found = alignment.get("checked") or []
    if not found:
        return ""
    parts = []
    for fact, word in FACTS.items():
        counts = [len(one.get("runs") or []) for one in found if one.get("fact") == fact]
        if counts:
            apart = f" in {len(counts)} sets" if len(counts) > 1 else ""
            parts.append(f"{word} of {several(sum(counts), 'run')}{apart}")
    unknown = alignment.get("unknown") or []
    rest = f" Nothing is known of {listed(unknown)}, which kept no checkpoint." if unknown else ""
    return f"Checked on the disk, by hash, to be the same: {'; '.join(parts)}.{rest}"
