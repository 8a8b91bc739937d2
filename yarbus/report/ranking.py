"""The variants one below the other: mean, paired differences to the references, tasks won."""

from collections.abc import Sequence

from yarbus.report.contrasts import NUMBERS, Contrast
from yarbus.report.estimates import percent
from yarbus.report.figure import Figure
from yarbus.report.look import Look
from yarbus.report.markup import Markup, tag
from yarbus.report.summary import Summary

SMALLEST = 0.001
"""Smaller p values are written as being below it."""


def p_text(value: float) -> str:
    """``0.012``; ``< 0.001`` for what the draws cannot tell apart from it."""
    return "< 0.001" if value < SMALLEST else f"{value:.3f}"


def ranking(summary: Summary, variants: Sequence[str]) -> list[str]:
    """Variants with a score, the highest first."""
    cells = summary.total.cells if summary.total else {}
    scores = {name: cell.value for name in variants if (cell := cells.get(name)) is not None}
    return sorted(scores, key=lambda name: -scores[name])


def _quiet() -> Markup:
    return tag("td", tag("span", "\N{EN DASH}", class_="quiet"))


def _difference(found: Contrast | None) -> Markup:
    if found is None:
        return _quiet()
    d = found.difference
    interval = tag("small", f"{percent(d.low, True)} to {percent(d.high, True)}")
    return tag("td", percent(d.mean, True), interval, class_="open" if d.includes_zero else None)


def _p(found: Contrast | None) -> Markup:
    if found is None or found.p_holm is None:
        return _quiet()
    return tag("td", p_text(found.p_holm), class_="open" if found.difference.includes_zero else None)


def _beats(summary: Summary, reference: str, variant: str) -> Markup:
    found = summary.beats(reference, variant)
    if found is None:
        return _quiet()
    count, *clear = found.words
    return tag("td", count, tag("small", ", ".join(clear)))


def ranking_figure(summary: Summary, variants: Sequence[str], look: Look) -> Figure | None:
    """A row for each variant, the best first; None without a difference to show."""
    total, references = summary.total, summary.references
    if total is None or not references:
        return None
    has_p = any(one.p_holm is not None for one in summary.contrasts)
    heads = [tag("th", "variant", scope="col"), tag("th", total.task, scope="col")]
    for reference in references:
        heads.append(tag("th", f"minus {reference}", scope="col"))
        heads += [tag("th", "p, corrected", scope="col")] * has_p
    several = summary.mean is not None
    heads += [tag("th", f"tasks above {references[0]}", scope="col")] * several
    rows, numbers = [], list[list[object]]()
    for name in ranking(summary, variants):
        cell = total.cells[name]
        assert cell is not None, "the ranking holds what has a score"
        score = tag("td", percent(cell.value), tag("small", f"{percent(cell.low)}\N{EN DASH}{percent(cell.high)}"))
        cells = [tag("th", look.marker(name), " ", name, scope="row"), score]
        line: list[object] = [name, cell.value, cell.low, cell.high]
        for reference in references:
            found = summary.contrast(total.task, reference, name)
            cells += [_difference(found), *([_p(found)] * has_p)]
            line += found.numbers if found else [None] * len(NUMBERS)
        won = summary.beats(references[0], name)
        cells += [_beats(summary, references[0], name)] * several
        rows.append(tag("tr", *cells))
        numbers.append([*line, *((won.num_tasks, won.above, won.clearly_above) if won else (None, None, None))])
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_="scores ranked")
    columns = [f"{what}_to_{r}" for r in references for what in NUMBERS]
    on_total = [one.difference for one in summary.contrasts if one.task == total.task]
    clear = sum(not one.includes_zero for one in on_total)
    title = "Variants by their mean, in percent" if several else "Variants by their score, in percent"
    how = "Small figures: 95 % interval. Grey differences include 0."
    if has_p:
        how += " p is two-sided, from the same draws, corrected (Holm) for all variants of its column."
    return Figure(
        name="ranking",
        title=title,
        reading=f"{clear or 'None'} of {len(on_total)} differences {'are' if clear > 1 else 'is'} clear of 0.",
        how=how,
        body=tag("div", table, class_="wide", tabindex=0, role="region", aria_label=title),
        header=["variant", "mean", "low", "high", *columns, "tasks", "above", "clearly_above"],
        rows=numbers,
    )
