"""Rows of dots over one axis."""

import re

from yarbus.report.estimates import Estimate
from yarbus.report.look import Look
from yarbus.report.markup import tag
from yarbus.report.strips import Group, Strip, axis_labels, in_figures, strips

LOOK = Look(["a", "b"], neutral=())


def drawn(*some: Strip) -> str:
    marks = [0.0, 50.0, 100.0]
    return strips([Group(title="", strips=list(some))], LOOK, marks, axis_labels(marks), "percent")


def test_dots_and_whiskers_stand_at_their_values():
    found = drawn(Strip(name="a", dots=[("a", Estimate(25.0, 20.0, 40.0))], text=tag("b", "x"), note="n = 3"))
    assert 'class="whisker v1" style="left:20.00%;width:20.00%"' in found
    assert 'style="left:25.00%"' in found
    assert "a<small>n = 3</small>" in found


def test_several_dots_share_a_row_and_none_stands_for_its_name():
    found = drawn(Strip(name="task", dots=[("a", Estimate(10.0)), ("b", Estimate(90.0))], text=tag("b", "x")))
    assert found.count("<svg") == 2 and "whisker" not in found


def test_a_histogram_lies_behind_its_own_part_of_the_axis():
    found = drawn(Strip(name="a", dots=[("a", Estimate(50.0))], text=tag("b"), counts=[1.0, 4.0], span=(25.0, 75.0)))
    style, path = re.search(r'class="histogram v1".*?style="([^"]+)"><path d="([^"]+)"', found).groups()
    assert style == "left:25.00%;width:50.00%"
    assert path == "M0 100L0 77.0L1 77.0L1 8.0L2 8.0L2 100Z"


def test_figures_and_marks_are_written_alike():
    assert in_figures(Estimate(0.5, 0.25, 0.75)) == "<b>0.50</b> <small>0.25 to 0.75</small>"
    assert axis_labels([-0.5, 0.0, 0.25], sign=True) == ["\N{MINUS SIGN}0.50", "0", "+0.25"]
