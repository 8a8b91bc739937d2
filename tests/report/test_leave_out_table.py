"""The table of means without one task."""

from tests.report.test_summary import by_hand
from yarbus.report.leave_out_table import leave_out_figure
from yarbus.report.look import Look
from yarbus.report.summary import summarise


def figure(folder, tasks: str):
    variants = {"frozen": "1000", "full": "1110"}
    comparison = by_hand(folder, {name: dict.fromkeys(tasks, text * 10) for name, text in variants.items()})
    return leave_out_figure(summarise(comparison), comparison.variants, Look(comparison.variants))


def test_a_row_for_each_variant_has_the_best_of_each_column_in_bold(tmp_path):
    found = figure(tmp_path, "abc")
    assert found.body.count("<tr") == 3 and found.body.count("<b>75.0</b>") == 4
    assert found.body.index("full") < found.body.index("frozen")
    assert "No single task decides" in found.reading and "Changes side" not in found.how
    assert ["a", "full", 0.75, True, False] in [list(row) for row in found.rows]


def test_two_tasks_make_no_table(tmp_path):
    assert figure(tmp_path, "ab") is None
