"""The table of means without each task in turn: a row for each variant, the best of each column in bold."""

from collections.abc import Sequence

from yarbus.report.estimates import listed, percent
from yarbus.report.figure import Figure
from yarbus.report.leave_out import hanging, leaders_of, leave_out
from yarbus.report.look import Look
from yarbus.report.markup import Markup, tag
from yarbus.report.ranking import ranking
from yarbus.report.summary import Summary

MANY = 5
"""More tasks than this stand closer together."""
TITLE = "The mean without one task, in percent"


def _number(value: float | None, is_best: bool, note: str = "") -> Markup:
    if value is None:
        return tag("td", tag("span", "\N{EN DASH}", class_="quiet"))
    text = percent(value)
    return tag("td", tag("b", text) if is_best else text, tag("small", note) if note else "")


def leave_out_figure(summary: Summary, variants: Sequence[str], look: Look) -> Figure | None:
    """The table; None where leaving out makes no sense."""
    reference = next(iter(summary.references), None)
    found = leave_out(summary.lines, summary.contrasts, reference)
    if not found or summary.mean is None:
        return None
    whole = {name: cell.value for name, cell in summary.mean.cells.items() if cell is not None}
    best = leaders_of(whole)
    head = tag(
        "tr",
        tag("th", "variant", scope="col"),
        tag("th", "all tasks", scope="col"),
        *(tag("th", "without ", tag("br"), one.task, scope="col") for one in found),
    )
    rows = [
        tag(
            "tr",
            tag("th", look.marker(name), " ", name, scope="row"),
            _number(whole[name], name in best),
            *(
                _number(one.means.get(name), name in one.leaders, "changes side" if name in one.turned else "")
                for one in found
            ),
        )
        for name in ranking(summary, variants)
    ]
    classes = "scores ranked many" if len(found) > MANY else "scores ranked"
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_=classes)
    side = ""
    if any(one.turned for one in found):
        side = f" 'Changes side': above {reference} with all tasks and below without this one, or the reverse."
    return Figure(
        name="without-one-task",
        title=TITLE,
        reading=hanging(found, summary.contrasts, reference),
        how=f"Bold leads its column; with all tasks that is {listed(best)}.{side}",
        body=tag("div", table, class_="wide", tabindex=0, role="region", aria_label=TITLE),
        header=["without", "variant", "mean", "leads", "changes_side"],
        rows=[
            [one.task, name, value, name in one.leaders, name in one.turned]
            for one in found
            for name, value in one.means.items()
        ],
    )
