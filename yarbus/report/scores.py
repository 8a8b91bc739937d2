"""The table of scores: tasks by variants, with what guessing reaches and an interval beside every number."""

from collections.abc import Sequence

from yarbus.report.answers import common_benchmark_prefix
from yarbus.report.cells import Cell, Line, sizes
from yarbus.report.estimates import percent
from yarbus.report.figure import Figure, caption
from yarbus.report.look import Look
from yarbus.report.markup import Markup, tag
from yarbus.report.runs import Comparison, Row
from yarbus.report.summary import Summary

TITLE = "Accuracy in percent"
MANY = 5
"""More columns than this stand closer together."""
WIDE = 7
"""More variants than this stand below each other."""


def _number(cell: Cell | None) -> Markup:
    if cell is None:
        return tag("td", tag("span", "\N{EN DASH}", class_="quiet"))
    return tag("td", percent(cell.value), tag("small", f"{percent(cell.low)}\N{EN DASH}{percent(cell.high)}"))


def _score_row(line: Line, variants: Sequence[str]) -> Markup:
    chance = tag("td", "\N{EN DASH}" if line.chance is None else percent(line.chance), class_="chance")
    cells = (_number(line.cells.get(variant)) for variant in variants)
    return tag("tr", tag("th", line.task, scope="row"), chance, *cells)


def _difference_rows(summary: Summary, variants: Sequence[str]) -> list[Markup]:
    """The mean's paired differences to each reference."""
    rows = []
    for reference in summary.references:
        assert summary.total is not None, "a difference is of some task"
        cells = []
        for variant in variants:
            found = summary.contrast(summary.total.task, reference, variant)
            if found is None:
                cells.append(tag("td", tag("span", "\N{EN DASH}", class_="quiet")))
                continue
            d = found.difference
            interval = tag("small", f"{percent(d.low, True)} to {percent(d.high, True)}")
            cells.append(tag("td", percent(d.mean, True), interval, class_="open" if d.includes_zero else None))
        rows.append(
            tag("tr", tag("th", f"minus {reference}", scope="row"), tag("td", class_="chance"), *cells, class_="minus")
        )
    return rows


def _by_task(summary: Summary, variants: Sequence[str], look: Look) -> Markup:
    """A row for each task; a column for each variant."""
    head = tag(
        "tr",
        tag("th", "task", scope="col"),
        tag("th", "chance", scope="col", class_="chance"),
        *(tag("th", look.marker(variant), " ", variant, scope="col") for variant in variants),
    )
    feet = [_score_row(summary.mean, variants)] if summary.mean is not None else []
    feet += _difference_rows(summary, variants)
    return tag(
        "table",
        tag("thead", head),
        tag("tbody", *(_score_row(line, variants) for line in summary.lines)),
        tag("tfoot", *feet) if feet else "",
        class_="scores many" if len(variants) > MANY else "scores",
    )


def _by_variant(summary: Summary, variants: Sequence[str], look: Look) -> Markup:
    """A row for each variant; a column for each task and the mean. Differences have a table of their own."""
    lines = [*summary.lines, *([summary.mean] if summary.mean else [])]
    heads = ["variant", *(line.task for line in lines)]
    levels = [tag("td", "\N{EN DASH}" if one.chance is None else percent(one.chance), class_="chance") for one in lines]
    guess = tag("tr", tag("th", "chance", scope="row", class_="chance"), *levels)
    rows = [
        tag(
            "tr",
            tag("th", look.marker(variant), " ", variant, scope="row"),
            *(_number(line.cells.get(variant)) for line in lines),
        )
        for variant in variants
    ]
    head = tag("thead", tag("tr", *(tag("th", text, scope="col") for text in heads)))
    return tag("table", head, tag("tbody", guess, *rows), class_="scores ranked many")


def _reading(summary: Summary) -> str:
    below = [
        line.task
        for line in summary.lines
        if line.chance is not None and any(cell and cell.low <= line.chance for cell in line.cells.values())
    ]
    if below:
        return f"On {', '.join(below)} at least one score is not above guessing."
    if not summary.lines:
        return "Nothing has been evaluated yet."
    return "Every interval lies above chance." if summary.lines[0].chance is not None else "No chance level is known."


def score_table(summary: Summary, variants: Sequence[str], num_seeds: int, look: Look) -> Figure:
    """Tasks by variants with chance and intervals, the mean, and the mean's paired differences."""
    found = sizes(summary.lines)
    size = "no" if not found else f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"
    seeds = f", mean of {num_seeds} training seeds" if num_seeds > 1 else ""
    grey = " Grey differences include 0." if summary.contrasts and len(variants) <= WIDE else ""
    table = (_by_variant if len(variants) > WIDE else _by_task)(summary, variants, look)
    lines = [*summary.lines, *([summary.mean] if summary.mean else [])]
    return Figure(
        name="scores",
        title=TITLE,
        reading=_reading(summary),
        how=f"Small figures: 95 % interval; {size} questions per task{seeds}.{grey}",
        body=tag("div", table, class_="wide", tabindex=0, role="region", aria_label=TITLE),
        header=["task", "variant", "accuracy", "low", "high", "chance", "questions", "seeds"],
        rows=[
            [line.task, variant, cell.value, cell.low, cell.high, line.chance, cell.num_questions, cell.num_seeds]
            for line in lines
            for variant, cell in line.cells.items()
            if cell is not None
        ],
    )


def _stored(scores: Sequence[Row], several: bool) -> Markup:
    """One metric of one variant: its interval, or the value of each seed where the table has ``several``."""
    values = [score["value"] for score in scores]
    if not values:
        return tag("td", tag("span", "\N{EN DASH}", class_="quiet"))
    low, high = scores[0]["low"], scores[0]["high"]
    below = ", ".join(f"{value:.4g}" for value in values) if several else f"{low:.4g} to {high:.4g}"
    return tag("td", f"{sum(values) / len(values):.4g}", tag("small", below))


def other_metrics(comparison: Comparison, look: Look) -> Markup:
    """Metrics of the benchmarks that are no plain accuracy, as stored (fractions, or the benchmark's own points)."""
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    prefix = common_benchmark_prefix([one.label for run in comparison.runs for one in run.final_evaluations])
    for run in sorted(comparison.runs, key=lambda run: run.seed):
        for evaluation in run.final_evaluations:
            for name, score in evaluation.scores.get("metrics", {}).items():
                if score.get("interval") != "wilson":
                    metric = evaluation.label.removeprefix(prefix), name
                    found.setdefault(metric, {}).setdefault(run.variant, []).append(score)
    if not found:
        return Markup("")
    variants = [name for name in comparison.variants if any(name in scores for scores in found.values())]
    several = max(len(scores) for metric in found.values() for scores in metric.values()) > 1
    heads = ("variant", *(f"{benchmark} {name}" for benchmark, name in found))
    rows = [
        tag(
            "tr",
            tag("th", look.marker(name), " ", name, scope="row"),
            *(_stored(scores.get(name, []), several) for scores in found.values()),
        )
        for name in variants
    ]
    small = "the value of each training seed" if several else "95 % interval, drawn by group"
    head = tag("tr", *(tag("th", text, scope="col") for text in heads))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="scores ranked")
    return tag(
        "figure",
        caption("Other metrics", f"As the benchmark defines them. Small figures: {small}."),
        tag("div", table, class_="wide", tabindex=0, role="region", aria_label="Other metrics"),
    )
