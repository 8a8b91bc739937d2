"""The numbers behind a page as CSV, each file one data URI."""

import csv
from base64 import b64encode
from io import StringIO

from yarbus.report.curves import Curve
from yarbus.report.summary import Summary


def _csv(header: list[str], rows: list[list[object]]) -> str:
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows])
    return buffer.getvalue()


def scores_csv(summary: Summary) -> str:
    """One line per task and variant; fractions."""
    lines = [*summary.lines, *([summary.mean] if summary.mean else [])]
    rows: list[list[object]] = [
        [line.task, variant, cell.value, cell.low, cell.high, line.chance, cell.num_questions, cell.num_seeds]
        for line in lines
        for variant, cell in line.cells.items()
        if cell is not None
    ]
    return _csv(["task", "variant", "accuracy", "low", "high", "chance", "questions", "seeds"], rows)


def differences_csv(summary: Summary) -> str:
    """One line per task, reference and variant; fractions."""
    rows: list[list[object]] = [
        [c.task, c.reference, c.variant, c.difference.mean, c.difference.low, c.difference.high]
        for c in summary.contrasts
    ]
    return _csv(["task", "reference", "variant", "difference", "low", "high"], rows)


def curves_csv(curves: dict[str, list[Curve]]) -> str:
    """One line per stage, variant and logged step; losses as drawn."""
    rows: list[list[object]] = [
        [stage, curve.variant, step, loss]
        for stage, some in curves.items()
        for curve in some
        for step, loss in zip(curve.steps, curve.losses, strict=True)
    ]
    return _csv(["stage", "variant", "step", "loss"], rows)


def data_uri(text: str) -> str:
    """The text as the address of a download."""
    return f"data:text/csv;base64,{b64encode(text.encode()).decode()}"
