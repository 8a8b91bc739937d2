"""The figure of differences says in words what it shows."""

import re

from tests.report.test_summary import by_hand
from yarbus.report.dots import difference_figure, difference_parts
from yarbus.report.figure import Origin, show
from yarbus.report.look import Look
from yarbus.report.summary import summarise


def figure(folder, frozen: str, full: str) -> str:
    comparison = by_hand(folder, {"frozen": {"a": frozen}, "full": {"a": full}})
    return show(
        difference_figure(summarise(comparison), "frozen", Look(comparison.variants)), Origin(name="c", command="")
    )


def test_whiskers_that_touch_zero_are_called_unseparated(tmp_path):
    assert "too short to separate anything from frozen" in figure(tmp_path, "10" * 20, "01" * 20)


def test_the_short_form_shows_the_mean_and_folds_the_tasks(tmp_path):
    comparison = by_hand(tmp_path, {"frozen": {"a": "10", "b": "10"}, "full": {"a": "11", "b": "11"}})
    summary, look, origin = summarise(comparison), Look(comparison.variants), Origin(name="c", command="")
    short, long = (difference_parts(summary, look, origin, is_short=is_short) for is_short in (True, False))
    assert short.count("<details>") == 2 and "<details>" not in long
    assert short.index("mean of tasks") < short.index("<details>") < short.index('scope="rowgroup">a<')


def test_whiskers_that_leave_zero_are_counted(tmp_path):
    found = figure(tmp_path, "1000" * 10, "1110" * 10)
    assert "1 of 1 whiskers leave the zero line" in found
    assert "+50.0" in found


def test_positions_stay_within_the_strip(tmp_path):
    found = figure(tmp_path, "1000" * 10, "1110" * 10)
    assert all(0 <= float(place) <= 100 for place in re.findall(r"(?:left|width):([-0-9.]+)%", found))
