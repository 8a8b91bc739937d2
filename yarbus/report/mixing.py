"""The weights of heads that mix, by task: does the question decide how much an answer relies on the image's branch?"""

from collections.abc import Mapping, Sequence
from typing import Any

from yarbus.report.estimates import Estimate, decimal, estimate, first_of, listed, number, over_seeds
from yarbus.report.figure import Figure
from yarbus.report.look import Look, ticks
from yarbus.report.markup import join, tag
from yarbus.report.strips import Group, Strip, axis_labels, strips

Row = dict[str, Any]
Records = Mapping[str, Sequence[Row]]
"""Variant -> the record mixing.json of each of its seeds."""

HALF = 0.5
"""Where weights begin."""


def _tasks(records: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(task for record in records for task in record.get("tasks") or {}))


def _of(records: Sequence[Row], task: str, key: str) -> list[object]:
    return [((record.get("tasks") or {}).get(task) or {}).get(key) for record in records]


def _weight(records: Sequence[Row], task: str) -> Estimate | None:
    return over_seeds([estimate(value) for value in _of(records, task, "vision_weight")])


def _spread(records: Sequence[Row], task: str) -> float | None:
    """Over the questions of the task, the mean over seeds."""
    found = [value for one in _of(records, task, "sd") if (value := number(one)) is not None]
    return sum(found) / len(found) if found else None


def _counts(records: Sequence[Row], task: str) -> list[float]:
    """The first seed's distribution: sums over seeds would show two seeds' means as two kinds of questions."""
    first = next(iter(_of(records, task, "histogram")), None)
    return [float(value) for value in first] if isinstance(first, list) else []


def _reading(records: Records) -> str:
    """Between which tasks a variant's weight differs most; the same everywhere is said as such."""
    parts = []
    for variant, some in records.items():
        found = {task: value for task in _tasks(some) if (value := _weight(some, task)) is not None}
        if not found:
            continue
        low, high = (pick(found, key=lambda task: found[task].mean) for pick in (min, max))
        if found[high].mean - found[low].mean < 0.005:
            parts.append(f"{variant} gives every task {decimal(found[high].mean)}")
        else:
            ends = f"{decimal(found[low].mean)} ({low}) to {decimal(found[high].mean)} ({high})"
            parts.append(f"{variant} from {ends}")
    return f"Weight of the image's branch: {'; '.join(parts)}."


def _pictures(records: Records) -> str:
    """Who weighs by words alone; a difference is told as it is."""
    deaf, moved = [], []
    for variant, some in records.items():
        changes = [number((record.get("other_picture") or {}).get("largest_change")) for record in some]
        known = [change for change in changes if change is not None]
        if known and not any(known):
            deaf.append(variant)
        elif known:
            moved.append(f"{variant} by up to {max(known):.2g}")
    said = f" Another picture changes no bit of the weights of {listed(deaf)}." if deaf else ""
    return said + (f" Another picture moves {listed(moved)}." if moved else "")


def mixing_figure(records: Records, look: Look) -> Figure | None:
    """Mean weight with interval, and its distribution over questions, by variant and task; None without a record."""
    groups, rows, seeds = [], [], []
    marks = ticks(0.0, 1.0)
    for variant, some in records.items():
        drawn = []
        for task in _tasks(some):
            value, spread = _weight(some, task), _spread(some, task)
            if value is None:
                continue
            note = "" if spread is None else f"spread {decimal(spread, 3)}"
            text = join([tag("b", decimal(value.mean)), " ", tag("small", note)])
            drawn.append(Strip(name=task, dots=[(variant, value)], text=text, counts=_counts(some, task)))
            rows.append([variant, task, value.mean, value.low, value.high, spread])
        if drawn:
            groups.append(Group(title=variant, strips=drawn))
            seeds += [some]
    if not groups:
        return None
    most = max(seeds, key=len)
    over = (
        f"Means over {len(most)} seeds; whiskers cover the choice of questions, not the luck of a seed. "
        if len(most) > 1
        else ""
    )
    return Figure(
        name="mixing",
        title="Weight of the image's branch, by task",
        reading=_reading(records),
        how=f"Where the answer begins; training starts from {HALF:g}. Behind each dot the distribution over questions, "
        f"its spread in figures. {over}{first_of(most) if over else ''}{_pictures(records).strip()}".strip(),
        body=strips(groups, look, marks, axis_labels(marks), "weight"),
        header=["variant", "task", "vision_weight", "low", "high", "spread"],
        rows=rows,
    )
