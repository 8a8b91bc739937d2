"""The table of scores."""

from tests.report.test_summary import by_hand
from yarbus.report.look import Look
from yarbus.report.scores import score_table
from yarbus.report.summary import summarise


def table(folder, num_seeds: int = 1, **variants: dict[str, str]):
    comparison = by_hand(folder, variants)
    return score_table(summarise(comparison), comparison.variants, num_seeds, Look(comparison.variants))


def test_scores_that_guessing_reaches_are_named(tmp_path):
    reading = table(tmp_path, frozen={"a": "1000" * 10, "b": "1111" * 10}).reading
    assert reading == "On a at least one score is not above guessing."


def test_scores_above_chance_are_said_to_be(tmp_path):
    found = table(tmp_path, num_seeds=3, full={"a": "1" * 40})
    assert found.reading == "Every interval lies above chance."
    assert "40 questions per task, mean of 3 training seeds." in found.how


def test_differences_of_the_mean_stand_below_and_go_with_the_numbers(tmp_path):
    found = table(tmp_path, frozen={"a": "10" * 20}, full={"a": "11" * 20})
    assert "minus frozen" in found.body and "+50.0" in found.body
    assert [row[:2] for row in found.rows] == [["a", "frozen"], ["a", "full"]]
