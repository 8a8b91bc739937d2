"""Paired differences between variants as dots with whiskers, by task."""

from collections.abc import Sequence

from yarbus.report.cells import MEAN
from yarbus.report.contrasts import NUMBERS, Contrast
from yarbus.report.estimates import Estimate, percent
from yarbus.report.figure import Figure, Origin, show, show_all
from yarbus.report.look import Look, ticks
from yarbus.report.markup import Markup, join, tag
from yarbus.report.strips import Group, Strip, axis_labels, strips
from yarbus.report.summary import Summary

HOW = "Right of zero is better; dots are paired differences, whiskers 95 % intervals."


def _strip(contrast: Contrast) -> Strip:
    found = contrast.difference
    interval = f"{percent(found.low, True)} to {percent(found.high, True)}"
    return Strip(
        name=contrast.variant,
        dots=[(contrast.variant, Estimate(100 * found.mean, 100 * found.low, 100 * found.high))],
        text=join([tag("b", percent(found.mean, True)), " ", tag("small", interval)]),
        is_open=found.includes_zero,
    )


def difference_figure(summary: Summary, reference: str, look: Look, tasks: Sequence[str] | None = None) -> Figure:
    """Every variant minus the reference, by task (all, or those named): a dot, a whisker of 95 %, and in figures."""
    contrasts = [c for c in summary.contrasts if c.reference == reference and (tasks is None or c.task in tasks)]
    ends = [end for c in contrasts for end in (c.difference.low, c.difference.high)]
    marks = ticks(100 * min(0.0, *ends), 100 * max(0.0, *ends))
    labels = axis_labels(marks, sign=True)
    shown = list(dict.fromkeys(contrast.task for contrast in contrasts))
    groups = [
        Group(
            title=task,
            strips=[_strip(c) for c in contrasts if c.task == task],
            is_total=task == MEAN and len(shown) > 1,
        )
        for task in shown
    ]
    separated = [c for c in contrasts if not c.difference.includes_zero]
    if separated:
        count = f"{len(separated)} of {len(contrasts)} whiskers leave"
        reading = f"{count} the zero line: only there a variant is separated from {reference}."
    else:
        reading = f"Every whisker touches the zero line: too short to separate anything from {reference}."
    return Figure(
        name=f"{'mean-' if tasks else ''}differences-to-{reference}",
        title=f"Difference to {reference}, in points",
        reading=reading,
        how=HOW,
        body=strips(groups, look, marks, labels, "points"),
        header=["task", "reference", "variant", *NUMBERS],
        rows=[[c.task, c.reference, c.variant, *c.numbers] for c in contrasts],
    )


def difference_figures(summary: Summary, look: Look, tasks: Sequence[str] | None = None) -> list[Figure]:
    """One figure for each reference that takes part."""
    known = [
        name
        for name in summary.references
        if any(c.reference == name and (tasks is None or c.task in tasks) for c in summary.contrasts)
    ]
    return [difference_figure(summary, reference, look, tasks) for reference in known]


def difference_parts(summary: Summary, look: Look, origin: Origin, *, is_short: bool) -> Markup:
    """A figure for each reference; the short form shows the mean of tasks, with the tasks one click away."""
    if not is_short or summary.mean is None:
        return show_all(difference_figures(summary, look), origin)
    folded = (
        tag("details", tag("summary", f"{figure.title}, task by task"), show(figure, origin))
        for figure in difference_figures(summary, look)
    )
    return join([show_all(difference_figures(summary, look, [MEAN]), origin), *folded])
