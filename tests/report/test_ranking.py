"""Variants one below the other."""

from dataclasses import replace

import pytest

from tests.report.test_summary import by_hand
from yarbus.report.intervals import Difference
from yarbus.report.look import Look
from yarbus.report.ranking import p_text, ranking, ranking_figure
from yarbus.report.summary import summarise


@pytest.fixture
def comparison(tmp_path):
    variants = {"vpt": "1000", "frozen": "1000", "full": "1110"}
    return by_hand(tmp_path, {name: dict.fromkeys("ab", text * 15) for name, text in variants.items()})


def figure(comparison, summary):
    return ranking_figure(summary, comparison.variants, Look(comparison.variants))


def test_the_best_comes_first_with_differences_p_and_tasks_won(comparison):
    summary = summarise(comparison)
    assert ranking(summary, comparison.variants)[0] == "full"
    found = figure(comparison, summary)
    for text in ("minus frozen", "minus full", "p, corrected", "tasks above frozen", "2 of 2", "2 clear", "&lt; 0.001"):
        assert text in found.body, text
    assert found.reading == "3 of 4 differences are clear of 0."
    assert {len(row) for row in found.rows} == {len(found.header)}


def test_records_without_p_leave_its_columns_out(comparison):
    summary = summarise(comparison)
    old = [replace(c, p_holm=None, difference=replace(c.difference, p=None)) for c in summary.contrasts]
    found = figure(comparison, replace(summary, contrasts=old))
    assert "corrected" not in found.body and "p is" not in found.how and "minus frozen" in found.body
    assert isinstance(old[0].difference, Difference)


def test_nothing_to_compare_makes_no_table(tmp_path):
    alone = by_hand(tmp_path, {"full": {"a": "10"}})
    assert figure(alone, summarise(alone)) is None
    assert (p_text(0.0002), p_text(0.0123), p_text(1.0)) == ("< 0.001", "0.012", "1.000")
