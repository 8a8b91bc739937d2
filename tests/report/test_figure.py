"""What every figure brings along."""

import re
from base64 import b64decode

from yarbus.report.downloads import csv_text
from yarbus.report.figure import Figure, Origin, show, show_all
from yarbus.report.markup import tag

FIGURE = Figure(name="depth", title="Depth", reading="Nothing, at 95 %.", body=tag("p", "x"), header=["a", "b"],
                rows=[[1, None], ["t", 0.5]])  # fmt: skip


def test_a_figure_shows_title_reading_command_and_its_numbers():
    shown = show(FIGURE, Origin(name="run", command="yarbus conflict a\nsecond line"))
    assert "<strong>Depth. </strong>Nothing, at 95\N{NO-BREAK SPACE}%." in shown
    assert "<code>yarbus conflict a</code>" in shown
    data, name = re.search(r'base64,([^"]+)" download="([^"]+)"', shown).groups()
    assert name == "run-depth.csv"
    assert b64decode(data).decode() == "a,b\n1,\nt,0.5\n"


def test_without_a_command_none_is_named_and_a_missing_figure_leaves_no_trace():
    shown = show_all([None, FIGURE], Origin(name="run", command=""))
    assert shown.count("<figure") == 1 and "<code>" not in shown
    assert show_all([None], Origin(name="run", command="")) == ""


def test_a_text_that_a_spreadsheet_would_run_is_marked_as_text():
    assert csv_text(["a"], [["=1+1"], ["@x"], ["plain"], [-0.5]]) == "a\n'=1+1\n'@x\nplain\n-0.5\n"
