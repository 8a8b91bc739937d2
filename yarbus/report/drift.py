"""Weight changes by depth: short runs on one task each, against two runs of the same task.

The L2 distance of weights is mostly the order of the data: two runs of one task are nearly as far apart as runs of
two tasks. So it is drawn beside that control or not at all; the cosine of the changes is what tells tasks apart.
"""

from typing import Any

from yarbus.report.depth import ACROSS, LOOK, SAME, are_comparable, by_block, separated
from yarbus.report.estimates import estimate, several, words
from yarbus.report.figure import Figure
from yarbus.report.markup import join, tag
from yarbus.report.plot import Panel, Series, block_marks, legend, panels

Row = dict[str, Any]


def _reading(drift: Row) -> str:
    across, same = by_block(drift.get("across") or [], "cosine"), by_block(drift.get("same_task") or [], "cosine")
    if not across:
        return "No runs of different tasks were recorded."
    if not same:
        return "Without a second run of the same task these cosines have no control and cannot be read."
    overall = drift.get("overall") or {}
    found, control = estimate(overall.get("across")), estimate(overall.get("same_task"))
    figures = f": {words(found)} against {words(control)} over all blocks" if found and control else ""
    below = separated(same, across)
    if not are_comparable(same, across):
        text = f"So few runs give no interval by block, so nothing is separated{figures}."
    elif below:
        count = f"{len(below)} of {several(len(across), 'block')}"
        text = f"Runs of different tasks change the weights less alike than two runs of one task in {count}{figures}."
    else:
        text = f"No separation seen: runs of different tasks change the weights as two runs of one task do{figures}."
    pairs = _distances(drift)
    if pairs:
        share = sum(control for _, control in pairs) / sum(distance for distance, _ in pairs)
        text += f" The L2 distance tells little: {100 * share:.0f} % of it appears between two runs of one task."
    return text


def _distances(drift: Row) -> list[tuple[float, float]]:
    """(between tasks, its control) of the blocks that have both L2 distances."""
    across, same = (dict(by_block(drift.get(key) or [], "l2")) for key in ("across", "same_task"))
    return [(value.mean, same[block].mean) for block, value in across.items() if block in same]


def drift_figure(drift: Row | None) -> Figure | None:
    """Cosine of weight changes by block with its control, and the L2 distance only together with its own."""
    if not drift:
        return None
    rows = {ACROSS: drift.get("across") or [], SAME: drift.get("same_task") or []}
    cosine = [Series(name=name, points=by_block(rows[name], "cosine")) for name in (SAME, ACROSS)]
    cosine = [series for series in cosine if series.points]
    if not cosine:
        return None
    blocks = sorted({row["block"] for some in rows.values() for row in some})
    marks = block_marks(blocks)
    drawn = [Panel(title="Cosine of weight changes", series=cosine, x_title="block", x_marks=marks)]
    left_out = ""
    if _distances(drift):
        distance = [Series(name=name, points=by_block(rows[name], "l2")) for name in (SAME, ACROSS)]
        drawn.append(Panel(title="L2 distance of weights", series=distance, x_title="block", x_marks=marks))
    elif by_block(rows[ACROSS], "l2"):
        left_out = "The L2 distance is not drawn: its same-task control was not recorded."
    how = [f"Runs of {drift['steps']:g} steps" if drift.get("steps") else "Short runs"]
    how.append(f" at rate {drift['rate']:g}" if isinstance(drift.get("rate"), int | float) else "")
    how.append(" on one task each, from the same start; bands are 95 % intervals.")
    table = [[block, *(_cell(rows[name], block) for name in (ACROSS, SAME))] for block in blocks]
    return Figure(
        name="weight-changes",
        title="Weight changes by depth",
        reading=_reading(drift),
        how="".join(how),
        body=join(
            [
                legend([(SAME, "two data seeds: the control"), (ACROSS, "one run each")], LOOK),
                panels(drawn, LOOK),
                tag("p", left_out, class_="quiet") if left_out else "",
            ]
        ),
        header=["block"]
        + [f"{name}_{part}" for name in ("across", "same_task") for part in ("cosine", "low", "high", "l2")],
        rows=[[row[0], *row[1], *row[2]] for row in table],
    )


def _cell(rows: list[Row], block: int) -> list[object]:
    """Cosine with its ends and L2 distance of one block."""
    row = next((row for row in rows if row["block"] == block), {})
    value, distance = estimate(row.get("cosine")), estimate(row.get("l2"))
    ends: list[object] = [None, None, None] if value is None else [value.mean, value.low, value.high]
    return [*ends, distance.mean if distance else None]
