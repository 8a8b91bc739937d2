"""How far each variant lies above or below one reference on each task: coloured, and bold where it is clear of 0."""

from collections.abc import Sequence

from yarbus.report.cells import MEAN
from yarbus.report.contrasts import NUMBERS, Contrast
from yarbus.report.estimates import percent
from yarbus.report.figure import Figure
from yarbus.report.heat import heat, scale
from yarbus.report.look import Look, ticks
from yarbus.report.markup import Markup, join, tag
from yarbus.report.summary import Summary

LEAST_REACH = 0.02
"""Difference of the full colour at least: where nothing differs by two points, all stays pale."""
FULL_COLOUR = 0.9
"""Share of the differences up to which colours grow."""
MANY = 8
"""More columns than this leave no room for intervals in the cells."""


def _cell(one: Contrast | None, reach: float, is_small: bool) -> Markup:
    if one is None:
        return tag("td", "\N{EN DASH}", class_="heat none")
    found = one.difference
    text = percent(found.mean, True) + ("*" if one.p_holm is not None and one.is_sure else "")
    ends = "" if is_small else f"{percent(found.low, True)} to {percent(found.high, True)}"
    shown = text if found.includes_zero else tag("b", text)
    return heat(shown, found.mean, reach, note=ends, classes="open" if found.includes_zero else "")


def _reading(cells: Sequence[Contrast], reference: str) -> str:
    clear = [one for one in cells if not one.difference.includes_zero]
    if not clear:
        return f"Nowhere is a variant separated from {reference}."
    above = sum(one.difference.mean > 0 for one in clear)
    text = f"{len(clear)} of {len(cells)} differences on single tasks are clear of 0: {above} above {reference}, "
    text += f"{len(clear) - above} below"
    if all(one.p_holm is None for one in cells):
        return f"{text}."
    sure = sum(one.is_sure for one in clear)
    return f"{text}. {sure or 'None'} of them {'stays' if sure < 2 else 'stay'} so once all count."


def difference_matrix(summary: Summary, reference: str, variants: Sequence[str], look: Look) -> Figure | None:
    """A table of differences in points, its longer side down; None with a single task, which the dots show alone."""
    own = {(one.task, one.variant): one for one in summary.contrasts if one.reference == reference}
    shown = [name for name in variants if any(variant == name for _, variant in own)]
    tasks = [line.task for line in summary.lines if any(task == line.task for task, _ in own)]
    if len(tasks) < 2:
        return None
    single = [one for one in own.values() if one.task != MEAN]
    sizes = sorted(abs(one.difference.mean) for one in own.values())
    # One variant that fails would leave all others pale.
    reach = max(LEAST_REACH, ticks(0.0, sizes[int(FULL_COLOUR * (len(sizes) - 1))], most=4)[-1])
    beyond = " and more" if sizes[-1] > reach else ""
    places = [*tasks, *([MEAN] if any(task == MEAN for task, _ in own) else [])]
    heads = {task: Markup(tag("span", task)) for task in places}
    heads |= {name: tag("span", look.marker(name), " ", name) for name in shown}
    is_tall = len(shown) > len(places)
    rows, columns = (shown, places) if is_tall else (places, shown)
    is_small = len(columns) > MANY

    def row(first: str) -> Markup:
        keys = ((second, first) if is_tall else (first, second) for second in columns)
        return tag("tr", tag("th", heads[first], scope="row"), *(_cell(own.get(key), reach, is_small) for key in keys))

    how = ["Blue is above, orange below.", "Bold numbers are clear of 0, grey ones are not."]
    if any(one.p_holm is not None for one in single):
        how.append("* below 0.05 after Holm's correction for all cells of the table; the mean's, for all variants.")
    if is_small:
        how.append("Intervals of 95 % stand in the file below and in the figure by task.")
    head = tag("tr", tag("td"), *(tag("th", heads[name], scope="col") for name in columns))
    classes = "matrix differences many" if is_small else "matrix differences"
    table = tag("table", tag("thead", head), tag("tbody", *map(row, rows)), class_=classes)
    title = f"Difference to {reference} by task, in points"
    return Figure(
        name=f"matrix-of-differences-to-{reference}",
        title=title,
        reading=_reading(single, reference),
        how=" ".join(how),
        body=join(
            [
                tag("div", table, class_="wide", tabindex=0, role="region", aria_label=title),
                scale(f"{percent(-reach, True)}{beyond} below", "0", f"{percent(reach, True)}{beyond} above"),
            ]
        ),
        header=["task", "variant", *NUMBERS],
        rows=[[one.task, one.variant, *one.numbers] for one in own.values()],
    )
