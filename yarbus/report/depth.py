"""Conflict by depth: how alike the gradients of tasks are, block by block, and how alike they can be at most.

Two halves of one task's batches agree as well as noise allows: that is the ceiling. Halves of different tasks are
read against it, never against 1.
"""

from typing import Any

from yarbus.report.estimates import Estimate, estimate, ranges, scaled, several, words
from yarbus.report.figure import Figure
from yarbus.report.look import Look
from yarbus.report.markup import join
from yarbus.report.plot import Panel, Series, block_marks, legend, panels

Row = dict[str, Any]

SAME, ACROSS = "same task", "different tasks"
LOOK = Look([SAME, ACROSS], neutral=(SAME,))


def by_block(rows: list[Row], key: str, scale: int = 1) -> list[tuple[float, Estimate]]:
    """The estimates of one key, by block; blocks without one are left out."""
    found = [(float(row["block"]), estimate(row.get(key))) for row in rows]
    return [(block, scaled(value, scale)) for block, value in found if value is not None]


def separated(same: list[tuple[float, Estimate]], across: list[tuple[float, Estimate]]) -> list[int]:
    """Blocks in which the whole interval between tasks lies below the whole interval of the ceiling."""
    ceiling = dict(same)
    return [
        int(block)
        for block, value in across
        if block in ceiling and ceiling[block].low is not None and value.is_below(ceiling[block].ends[0])
    ]


def are_comparable(same: list[tuple[float, Estimate]], across: list[tuple[float, Estimate]]) -> bool:
    """In some block both have an interval."""
    ceiling = dict(same)
    return any(
        value.high is not None and block in ceiling and ceiling[block].low is not None for block, value in across
    )


def _where(blocks: list[int], num_blocks: int) -> str:
    if len(blocks) == num_blocks:
        return "in the only block" if num_blocks == 1 else f"in all {num_blocks} blocks"
    return f"in {several(len(blocks), 'block')} of {num_blocks} ({ranges(blocks)})"


def _reading(rows: list[Row], overall: Row) -> str:
    same, across = by_block(rows, "same_task"), by_block(rows, "across")
    if not across:
        return "No cosine between tasks was recorded."
    if not same:
        return "No ceiling was recorded, so the cosines between tasks cannot be read."
    if not are_comparable(same, across):
        return "Without intervals nothing can be separated: take more samples per task."
    if all(not value.is_above(0.0) for _, value in same):
        return "Even batches of one task do not agree beyond noise, so this says nothing about conflict."
    negative = [int(block) for block, value in across if value.is_below(0.0)]
    below = separated(same, across)
    total, ceiling = estimate(overall.get("across")), estimate(overall.get("same_task"))
    figures = f": {words(total)} against {words(ceiling)} over all blocks" if total and ceiling else ""
    if negative:
        return f"Batches of different tasks pull against each other {_where(negative, len(across))}{figures}."
    if below:
        return (
            f"Batches of different tasks agree less than batches of one task {_where(below, len(across))}{figures}; "
            "nowhere do they clearly oppose each other."
        )
    return f"No separation seen: batches of different tasks agree as well as batches of one task{figures}."


def depth_figure(gradients: Row | None) -> Figure | None:
    """Cosine of gradients by block with its ceiling, their ratio, and the share of opposing pairs."""
    rows = (gradients or {}).get("by_block") or []
    series = {
        "cosine": [
            Series(name=SAME, points=by_block(rows, "same_task")),
            Series(name=ACROSS, points=by_block(rows, "across")),
        ],
        "ratio": [Series(name=ACROSS, points=by_block(rows, "corrected"))],
        "opposing": [
            Series(name=SAME, points=by_block(rows, "opposing_same_task", 100)),
            Series(name=ACROSS, points=by_block(rows, "opposing", 100)),
        ],
    }
    series = {key: [one for one in some if one.points] for key, some in series.items()}
    if not any(series.values()):
        return None
    assert gradients is not None
    overall = gradients.get("overall") or {}
    marks = block_marks(sorted({row["block"] for row in rows}))
    titles: dict[str, tuple[str, dict[float, str]]] = {
        "cosine": ("Cosine of gradients", {0.0: ""}),
        "ratio": ("Divided by the ceiling", {0.0: "", 1.0: "the ceiling"}),
        "opposing": ("Opposing pairs of batches, percent", {0.0: "", 50.0: "unrelated"}),
    }
    drawn = [
        Panel(title=titles[key][0], levels=titles[key][1], series=some, x_title="block", x_marks=marks)
        for key, some in series.items()
        if some
    ]
    notes = {SAME: "two halves of its batches: the ceiling", ACROSS: "what the tasks share"}
    num_batches, batch = gradients.get("num_batches"), gradients.get("batch")
    size = f" Made from {num_batches} batches of {batch}." if num_batches and batch else ""
    corrected = estimate(overall.get("corrected"))
    ratio = f" Over all blocks the ratio is {words(corrected)}." if corrected else ""
    header = ["block"]
    for key in ("same_task", "across", "corrected"):
        header += [key, f"{key}_low", f"{key}_high"]
    table: list[list[object]] = []
    for row in [*rows, {"block": "all", **overall}] if overall else rows:
        line: list[object] = [row["block"]]
        for key in ("same_task", "across", "corrected"):
            value = estimate(row.get(key))
            line += [None, None, None] if value is None else [value.mean, value.low, value.high]
        line += [getattr(estimate(row.get(key)), "mean", None) for key in ("opposing", "opposing_same_task")]
        table.append(line)
    return Figure(
        name="depth",
        title="Gradients by depth",
        reading=_reading(rows, overall),
        how=f"1 is the same direction, 0 none in common, below 0 opposed; bands are 95 % intervals.{ratio}{size}",
        body=join([legend([(name, notes[name]) for name in (SAME, ACROSS)], LOOK), panels(drawn, LOOK)]),
        header=[*header, "opposing", "opposing_same_task"],
        rows=table,
    )
