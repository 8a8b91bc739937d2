"""What the variants of a comparison differ in besides the method, and what of the rest was checked."""

from collections.abc import Mapping, Sequence
from typing import Any

from yarbus.report.estimates import listed, several
from yarbus.report.runs import Row

FACTS = {
    "data": "samples", "base": "base", "start": "start",
    "questions": "questions and answers", "length": "length of replies", "prompt": "way of asking",
}  # fmt: skip
MOST_VALUES = 3
"""A setting with more different values than this is named without them."""
MOST_NAMES = 6
"""Of more variants that agree, where they are more than half, it is said that the others do."""
ABSENT = "absent"
"""The value of a setting that a variant's recipe does not have."""


def values_text(values: Mapping[str, Any], most: int | None = None) -> str:
    """``250 (frozen, lora), 300 (full)``; of more than ``most`` different values only how many there are."""
    holders: dict[str, list[str]] = {}
    for name, value in values.items():
        holders.setdefault(str(value), []).append(name)
    if most is not None and len(holders) > most:
        return f"{len(holders)} values"
    return ", ".join(f"{value} ({_whose(names, len(values))})" for value, names in holders.items())


def _whose(names: Sequence[str], of: int) -> str:
    return "the others" if len(names) > max(MOST_NAMES, of // 2) else ", ".join(names)


def _entries_as_one(differs: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """A whole data entry that some variants lack is one difference, and not one for each of its settings.

    It is missing where its source is: every entry has one.
    """
    lacking = {
        path.removesuffix(".source"): {name for name, value in values.items() if value == ABSENT}
        for path, values in differs.items()
        if path.endswith(".source") and ABSENT in values.values()
    }
    found: dict[str, Mapping[str, Any]] = {}
    for path, values in differs.items():
        entry = path.rpartition(".")[0]
        kinds = {str(value) for value in values.values()}
        if len(kinds) == 2 and {name for name, value in values.items() if value == ABSENT} == lacking.get(entry):
            found[entry] = {name: ABSENT if value == ABSENT else "there" for name, value in values.items()}
        else:
            found[path] = values
    return found


def besides(alignment: Row) -> str:
    """The sentence for the header; empty where the method alone differs."""
    differs = alignment.get("differs") or {}
    if not differs:
        return ""
    settings = "; ".join(
        f"{path}: {values_text(values, MOST_VALUES)}" for path, values in _entries_as_one(differs).items()
    )
    return f"Besides the method, variants differ in {settings}."


def checked(alignment: Row) -> str:
    """What the runs' own records said they shared; empty where nothing was looked at."""
    found = alignment.get("checked") or []
    if not found:
        return ""
    parts = []
    for fact, word in FACTS.items():
        some = [one for one in found if one.get("fact") == fact]
        benchmarks = {name for one in some if (name := one.get("benchmark"))}
        if benchmarks:
            runs = {name for one in some for name in one.get("runs") or []}
            parts.append(f"{word} of {several(len(runs), 'run')} in {several(len(benchmarks), 'benchmark')}")
        elif some:
            apart = f" in {len(some)} sets" if len(some) > 1 else ""
            parts.append(f"{word} of {several(sum(len(one.get('runs') or []) for one in some), 'run')}{apart}")
    unknown = alignment.get("unknown") or []
    rest = f" Nothing is known of {listed(unknown)}, which kept no checkpoint." if unknown else ""
    return f"Checked on the disk, by hash, to be the same: {'; '.join(parts)}.{rest}"
