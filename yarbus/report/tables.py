"""Tables for the terminal: what guessing reaches and the interval stand beside every number."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from yarbus.report.aligned import besides
from yarbus.report.cells import Cell, Line
from yarbus.report.contrasts import Contrast
from yarbus.report.cost_table import MEMORY, count_text, ratio_text, shared_machine
from yarbus.report.costs import Cost, costs_of, ratio, reference_of, step_ratio
from yarbus.report.estimates import percent
from yarbus.report.leave_out import leave_out
from yarbus.report.ranking import p_text, ranking
from yarbus.report.runs import Comparison
from yarbus.report.summary import Summary

MANY = 5
"""More variants than this do not fit beside each other."""


def _value(value: float, low: float, high: float, sign: bool = False) -> Text:
    """A number with its interval on the line below, so that four variants fit into 80 columns."""
    interval = f"{percent(low, sign)} to {percent(high, sign)}"
    return Text.assemble(percent(value, sign), "\n", (interval, "dim"))


def _cell(cell: Cell | None) -> Text:
    return Text("") if cell is None else _value(cell.value, cell.low, cell.high)


def score_table(comparison: Comparison, summary: Summary) -> Table:
    """Tasks by variants in percent with 95 % intervals, then the mean's paired differences."""
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
    for reference in summary.references:
        assert summary.total is not None, "a difference is of some task"
        found = (summary.contrast(summary.total.task, reference, variant) for variant in comparison.variants)
        table.add_row(f"minus {reference}", "", *(_difference(one, with_p=False) for one in found))
    return table


def _difference(found: Contrast | None, with_p: bool = True) -> Text:
    if found is None:
        return Text("")
    d = found.difference
    text = _value(d.mean, d.low, d.high, sign=True)
    if with_p and found.p_holm is not None:
        text.append(f"\np {p_text(found.p_holm)}", style="dim")
    return text


def ranking_table(summary: Summary, variants: Sequence[str], costs: Sequence[Cost]) -> Table:
    """The variants, the best first: mean, differences with corrected p, tasks won, parameters, time and memory."""
    total, references, base = summary.total, summary.references, reference_of(costs)
    of = {one.variant: one for one in costs}
    name = total.task if total is not None else "score"
    table = Table(
        title=f"Variants by {name}, in percent (95 % interval; p after Holm's correction)",
        title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("variant", overflow="fold")
    heads = ["mean" if summary.mean is not None else "score", *(f"minus\n{reference}" for reference in references)]
    heads += [f"above\n{references[0]}"] if references and summary.mean is not None else []
    heads += ["trained"] if any(one.all_trained is not None for one in costs) else []
    heads += ["step"] if any(one.step_seconds is not None for one in costs) else []
    heads += ["memory"] if any(one.peak_bytes is not None for one in costs) else []
    for head in heads:
        table.add_column(Text(head), justify="right", no_wrap=True)
    if total is None:
        return table
    for variant in ranking(summary, variants):
        cell = total.cells[variant]
        assert cell is not None, "the ranking holds what has a score"
        ends = f"{percent(cell.low)}\N{EN DASH}{percent(cell.high)}"
        cells = [Text.assemble(percent(cell.value), "\n", (ends, "dim"))]
        cells += [_difference(summary.contrast(total.task, reference, variant)) for reference in references]
        if references and summary.mean is not None:
            won = summary.beats(references[0], variant)
            cells.append(Text("\n".join(won.words) if won else ""))
        cost = of.get(variant)
        if "trained" in heads:
            trained = cost.all_trained if cost else None
            cells.append(Text("" if trained is None else count_text(trained)))
        if "step" in heads:
            cells.append(Text(ratio_text(step_ratio(cost, base))))
        if "memory" in heads:
            cells.append(Text(ratio_text(ratio(cost.peak_bytes, base.peak_bytes) if cost and base else None)))
        table.add_row(Text(variant), *cells)
    return table


def _sentences(comparison: Comparison, summary: Summary, costs: Sequence[Cost] = ()) -> list[Text]:
    text = [Text(summary.headline, style="bold"), *map(Text, summary.details)]
    if sentence := besides(comparison.alignment):
        text.append(Text(sentence))
    base = reference_of(costs)
    if base is not None and base.step_seconds is not None:
        memory = f" {MEMORY}" if any(one.peak_bytes is not None for one in costs) else ""
        text.append(Text(f"Step time and memory are times {base.variant}'s. {shared_machine(costs)}{memory}"))
    if summary.unfinished:
        text.append(Text(f"Not finished: {'; '.join(summary.unfinished)}."))
    if summary.num_errors:
        text.append(Text(f"{summary.num_errors} questions failed and count as wrong."))
    return text


def terminal_table(comparison: Comparison, summary: Summary) -> Group:
    """Tasks by variants, or of many variants one line each, then the headline; for rich."""
    if len(comparison.variants) > MANY:
        return comparison_table(comparison, summary)
    return Group(score_table(comparison, summary), Text(""), *_sentences(comparison, summary))


def comparison_table(comparison: Comparison, summary: Summary) -> Group:
    """A line for each variant with what it gains and costs, then the headline and what qualifies it; for rich."""
    costs = costs_of(comparison)
    return Group(ranking_table(summary, comparison.variants, costs), Text(""), *_sentences(comparison, summary, costs))


def to_json(comparison: Comparison, summary: Summary) -> dict[str, Any]:
    """The same as plain values, fractions, for ``--json``."""

    def line_of(line: Line) -> dict[str, Any]:
        cells = {variant: vars(cell) for variant, cell in line.cells.items() if cell is not None}
        return {"task": line.task, "chance": line.chance, "variants": cells}

    first = next(iter(summary.references), None)
    return {
        "name": comparison.name,
        "variants": comparison.variants,
        "seeds": comparison.seeds,
        "command": comparison.command,
        "tasks": [line_of(line) for line in summary.lines],
        "mean": line_of(summary.mean) if summary.mean is not None else None,
        "differences": [
            {"task": c.task, "reference": c.reference, "variant": c.variant, **vars(c.difference),
             "p_holm": c.p_holm, "includes_zero": c.difference.includes_zero}
            for c in summary.contrasts
        ],
        "beats": [
            {"reference": reference, "variant": variant, **vars(found)}
            for reference in summary.references
            for variant in comparison.variants
            if (found := summary.beats(reference, variant)) is not None
        ],
        "without_one_task": [vars(one) for one in leave_out(summary.lines, summary.contrasts, first)],
        "costs": [vars(one) for one in costs_of(comparison)],
        "alignment": comparison.alignment,
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
