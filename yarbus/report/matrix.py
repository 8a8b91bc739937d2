"""Task by task: how alike what two tasks ask of the tower is, with each task's ceiling on the diagonal."""

from itertools import combinations
from typing import Any

from yarbus.report.estimates import Estimate, decimal, interval, number, words
from yarbus.report.figure import Figure
from yarbus.report.heat import heat, scale
from yarbus.report.look import ticks
from yarbus.report.markup import Markup, join, tag

Row = dict[str, Any]
LEAST_REACH = 0.2
"""Cosine of the full colour at least: cells that are all near 0 stay pale."""
MANY = 8
"""More tasks than this leave no room for intervals in the cells."""
Cells = dict[tuple[int, int], Estimate]


def _at(values: object, row: int, column: int) -> float | None:
    try:
        return number(values[row][column])  # type: ignore[index]
    except (TypeError, IndexError):
        return None


def _cells(matrix: Row, size: int) -> Cells:
    """The known cells by row and column."""
    found = {}
    for row in range(size):
        for column in range(size):
            mean, low, high = (_at(matrix.get(key), row, column) for key in ("cosine", "low", "high"))
            if mean is not None:
                found[row, column] = Estimate(mean, low, high)
    return found


def _reading(names: list[str], cells: Cells) -> str:
    pairs = {pair: cells[pair] for pair in combinations(range(len(names)), 2) if pair in cells}
    if not pairs:
        return "With one task there is no pair to compare."
    (one, other), lowest = min(pairs.items(), key=lambda item: item[1].mean)
    least = f"{names[one]} and {names[other]}, {words(lowest)}"
    if all(value.high is None for value in pairs.values()):
        below = sum(value.mean < 0 for value in pairs.values())
        return f"{below} of {len(pairs)} pairs lie below 0, without an interval; the least alike are {least}."
    opposed = sum(value.is_below(0.0) for value in pairs.values())
    if not opposed:
        return f"No pair of tasks opposes each other beyond noise; the least alike are {least}."
    return f"{opposed} of {len(pairs)} pairs oppose each other beyond noise, most of all {least}."


def _cell(value: Estimate | None, reach: float, is_ceiling: bool, is_small: bool) -> Markup:
    if value is None:
        return tag("td", "\N{EN DASH}", class_="heat none")
    if is_ceiling:
        return tag("td", decimal(value.mean), "" if is_small else tag("small", "ceiling"), class_="heat ceiling")
    has_interval = value.low is not None and value.high is not None
    ends = interval(value) if not is_small else ""
    is_open = has_interval and not value.is_clear_of(0.0)
    return heat(decimal(value.mean), value.mean, reach, note=ends, classes="open" if is_open else "")


def matrix_figure(
    matrix: Row | None,
    *,
    name: str = "tasks",
    title: str = "Cosine between tasks",
    measure: str = "gradients, corrected for noise",
    ceiling: str = "two halves of one task's batches",
) -> Figure | None:
    """A table of cosines coloured around 0; its diagonal is the ceiling and takes no part in the colours."""
    names = [str(task) for task in (matrix or {}).get("tasks") or []]
    cells = _cells(matrix or {}, len(names))
    if not cells:
        return None
    pairs = [value for (row, column), value in cells.items() if row != column]
    reach = max(LEAST_REACH, ticks(0.0, max((abs(value.mean) for value in pairs), default=1.0), most=3)[-1])
    is_small = len(names) > MANY
    head = tag("tr", tag("td"), *(tag("th", tag("span", task), scope="col") for task in names))
    body = [
        tag(
            "tr",
            tag("th", task, scope="row"),
            *(_cell(cells.get((row, column)), reach, row == column, is_small) for column in range(len(names))),
        )
        for row, task in enumerate(names)
    ]
    table = tag("table", tag("thead", head), tag("tbody", *body), class_="matrix many" if is_small else "matrix")
    how = [f"Of {measure}; blue is alike, orange opposed."]
    if any(value.low is not None for value in pairs):
        place = f"Intervals of 95 % stand in {name}.csv" if is_small else "Small figures: 95 % interval"
        how.append(f"{place}; grey numbers include 0.")
    if any((index, index) in cells for index in range(len(names))):
        how.append(f"On the diagonal, framed, the ceiling: {ceiling}.")
    return Figure(
        name=name,
        title=title,
        reading=_reading(names, cells),
        how=" ".join(how),
        body=join(
            [
                tag("div", table, class_="wide", tabindex=0, role="region", aria_label=title),
                scale(f"{decimal(-reach)} opposed", "0", f"{decimal(reach, sign=True)} alike") if pairs else "",
            ]
        ),
        header=["task", "other", "cosine", "low", "high"],
        rows=[[names[r], names[c], value.mean, value.low, value.high] for (r, c), value in cells.items()],
    )
