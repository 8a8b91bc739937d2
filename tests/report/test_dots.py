"""The figure of differences says in words what it shows."""

import re

from tests.report.test_summary import by_hand
from yarbus.report.dots import difference_figure
from yarbus.report.look import Look
from yarbus.report.summary import summarise


def figure(folder, frozen: str, full: str) -> str:
    comparison = by_hand(folder, {"frozen": {"a": frozen}, "full": {"a": full}})
    return difference_figure(summarise(comparison), "frozen", Look(comparison.variants))


def test_whiskers_that_touch_zero_are_called_unseparated(tmp_path):
    assert "too short to separate anything from frozen" in figure(tmp_path, "10" * 20, "01" * 20)


def test_whiskers_that_leave_zero_are_counted(tmp_path):
    found = figure(tmp_path, "1000" * 10, "1110" * 10)
    assert "1 of 1 whiskers leave the zero line" in found
    assert "+50.0" in found


def test_positions_stay_within_the_strip(tmp_path):
    found = figure(tmp_path, "1000" * 10, "1110" * 10)
    assert all(0 <= float(place) <= 100 for place in re.findall(r"(?:left|width):([-0-9.]+)%", found))
