"""The matrix of differences."""

import pytest

from tests.report.test_summary import by_hand
from yarbus.report.differences import difference_matrix
from yarbus.report.look import Look
from yarbus.report.summary import summarise


def matrix(folder, variants: dict[str, str], tasks: str = "abc"):
    comparison = by_hand(folder, {name: dict.fromkeys(tasks, text) for name, text in variants.items()})
    return difference_matrix(summarise(comparison), "frozen", comparison.variants, Look(comparison.variants))


def test_cells_that_are_clear_of_0_are_bold_and_those_that_stay_so_have_a_star(tmp_path):
    found = matrix(tmp_path, {"frozen": "1000" * 20, "full": "1110" * 20, "vpt": "1000" * 20})
    assert found.body.count("<b>+50.0*</b>") == 4  # three tasks and their mean
    assert found.body.count('class="heat above open"') == 4
    assert found.reading == (
        "3 of 6 differences on single tasks are clear of 0: 3 above frozen, 0 below. 3 of them stay so once all count."
    )
    assert [row[:2] for row in found.rows][:2] == [["a", "full"], ["b", "full"]]


def test_nothing_separated_is_said(tmp_path):
    assert matrix(tmp_path, {"frozen": "10" * 8, "full": "01" * 8}).reading == (
        "Nowhere is a variant separated from frozen."
    )


@pytest.mark.parametrize(("tasks", "first"), [("abc", ">a<"), ("ab", "v0")])
def test_the_longer_side_goes_down(tmp_path, tasks, first):
    variants = {"frozen": "10"} | {f"v{number}": "10" for number in range(4 if tasks == "ab" else 2)}
    rows = matrix(tmp_path, variants, tasks).body.split("<tbody>")[1]
    assert first in rows.partition("</th>")[0] + "</th>"


def test_many_columns_leave_intervals_to_the_file(tmp_path):
    variants = {"frozen": "10"} | {f"v{number}": "10" for number in range(9)}
    found = matrix(tmp_path, variants, "abcdefghi")
    assert "many" in found.body and "<small>" not in found.body and "stand in the file below" in found.how
    assert matrix(tmp_path / "one", {"frozen": "10", "full": "11"}, "a") is None


def test_one_variant_that_fails_leaves_the_others_their_colours(tmp_path):
    failed = {"frozen": "1" * 40, "bad": "0" * 40}
    close = {f"v{number}": "1" * 38 + "00" for number in range(12)}
    found = matrix(tmp_path, failed | close)
    assert "+6.0 and more above" in found.body and found.body.count("--share:100%") >= 4
    assert "and more" not in matrix(tmp_path / "close", {"frozen": "1" * 40} | close).body
