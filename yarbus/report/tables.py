"""The table for the terminal: what guessing reaches and the interval stand beside every number."""

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from yarbus.report.runs import Comparison
from yarbus.report.summary import MEAN, REFERENCES, Cell, Line, Summary, percent


def _value(value: float, low: float, high: float, sign: bool = False) -> Text:
    """A number with its interval on the line below, so that four variants fit into 80 columns."""
    interval = f"{percent(low, sign)} to {percent(high, sign)}"
    return Text.assemble(percent(value, sign), "\n", (interval, "dim"))


def _cell(cell: Cell | None) -> Text:
    return Text("") if cell is None else _value(cell.value, cell.low, cell.high)


def terminal_table(comparison: Comparison, summary: Summary) -> Group:
    """Tasks by variants in percent with 95 % intervals, then paired differences, then the headline; for rich."""
    table = Table(title="Accuracy in percent (95 % interval)", title_justify="left", box=None, pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("chance", justify="right")
    for variant in comparison.variants:
        table.add_column(Text(variant), justify="right")

    def add(line: Line, style: str | None = None) -> None:
        chance = "" if line.chance is None else percent(line.chance)
        table.add_row(Text(line.task), chance, *(_cell(line.cells[v]) for v in comparison.variants), style=style)

    for line in summary.lines:
        add(line)
    if summary.mean is not None:
        table.add_section()
        add(summary.mean, style="bold")
    total = MEAN if summary.mean is not None else summary.lines[0].task if summary.lines else MEAN
    for reference in REFERENCES:
        cells = []
        for variant in comparison.variants:
            found = summary.contrast(total, reference, variant)
            d = found.difference if found else None
            cells.append(Text("") if d is None else _value(d.mean, d.low, d.high, sign=True))
        if any(cell.plain for cell in cells):
            table.add_row(f"minus {reference}", "", *cells)
    text = [Text(summary.headline, style="bold"), *map(Text, summary.details)]
    if summary.unfinished:
        text.append(Text(f"Not finished: {'; '.join(summary.unfinished)}."))
    if summary.num_errors:
        text.append(Text(f"{summary.num_errors} questions failed and count as wrong."))
    return Group(table, Text(""), *text)


def to_json(comparison: Comparison, summary: Summary) -> dict[str, Any]:
    """The same as plain values, fractions, for ``--json``."""

    def line_of(line: Line) -> dict[str, Any]:
        cells = {variant: vars(cell) for variant, cell in line.cells.items() if cell is not None}
        return {"task": line.task, "chance": line.chance, "variants": cells}

    return {
        "name": comparison.name,
        "variants": comparison.variants,
        "seeds": comparison.seeds,
        "command": comparison.command,
        "tasks": [line_of(line) for line in summary.lines],
        "mean": line_of(summary.mean) if summary.mean is not None else None,
        "differences": [
            {"task": c.task, "reference": c.reference, "variant": c.variant, **vars(c.difference),
             "includes_zero": c.difference.includes_zero}
            for c in summary.contrasts
        ],
        "headline": summary.headline,
        "details": summary.details,
        "unfinished": summary.unfinished,
        "num_errors": summary.num_errors,
    }  # fmt: skip


def _estimate(estimate: dict[str, Any] | None, digits: int = 2) -> Text:
    if estimate is None or estimate["mean"] is None:
        return Text("\N{EN DASH}")
    value = f"{estimate['mean']:+.{digits}f}"
    if estimate["low"] is None:
        return Text(value)
    interval = f"{estimate['low']:+.{digits}f} to {estimate['high']:+.{digits}f}"
    return Text.assemble(value, "\n", (interval, "dim"))


def conflict_table(record: dict[str, Any]) -> Group:
    """A conflict study for the terminal: advice, cosines by block with their control, cost of sharing by task."""
    advice, gradients = record["advice"], record["gradients"]
    title = "Cosine of gradients by block (95 % interval); the ceiling is what two halves of one task reach"
    blocks = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("block", "between tasks", "ceiling", "noise corrected", "opposing"):
        blocks.add_column(name, justify="right")
    for line in [*gradients["by_block"], {**gradients["overall"], "block": "all"}]:
        share = "" if line["opposing"] is None else f"{percent(line['opposing'])} %"
        cells = (_estimate(line[key]) for key in ("across", "same_task", "corrected"))
        blocks.add_row(str(line["block"]), *cells, share)
    parts: list[Any] = [Text(advice["headline"], style="bold"), *map(Text, advice["sentences"])]
    parts += [Text(advice["sureness"], style="dim"), Text(""), blocks]
    if record["gap"] is not None:
        title = f"Short runs of {record['gap']['steps']} steps: {record['gap']['unit']} (95 % interval)"
        tasks = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for name in ("task", "alone", "mixture", "frozen", "cost of sharing", "gain of tuning"):
            tasks.add_column(name, justify="left" if name == "task" else "right")
        for task, line in record["gap"]["tasks"].items():
            losses = (f"{line[key]:.3f}" for key in ("alone", "mix", "frozen"))
            tasks.add_row(Text(task), *losses, _estimate(line["gap"], 3), _estimate(line["gain"], 3))
        parts += [Text(""), tasks]
    if record["missing"]:
        parts += [Text(""), Text("Not measured: " + "; ".join(record["missing"]) + ".", style="dim")]
    return Group(*parts)
