"""The numbers behind a page as CSV, each file one data URI."""

import csv
from base64 import b64encode
from collections.abc import Sequence
from io import StringIO


def _cell(value: object) -> object:
    """Floats with six digits; a text that a spreadsheet would run as a formula is marked as text."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@" and value else value


def csv_text(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The text of a CSV file; None is an empty cell."""
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return buffer.getvalue()


def data_uri(text: str) -> str:
    """The text as the address of a download."""
    return f"data:text/csv;base64,{b64encode(text.encode()).decode()}"
