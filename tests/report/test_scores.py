"""The table of scores."""

from tests.report.synthetic import write_evaluation
from tests.report.test_summary import by_hand, rows
from yarbus.core.records import read_json, write_json
from yarbus.report.look import Look
from yarbus.report.runs import read_comparison
from yarbus.report.scores import other_metrics, score_table
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


def with_points(folder, values):
    """Runs whose benchmark has a metric of its own, beside one without it."""
    for name, value in values.items():
        write_evaluation(folder / name, "tinyworld/classify", rows("classify", "10"), None)
        path = folder / name / "evaluation" / "final" / "tinyworld" / "classify@official" / "scores.json"
        points = {"value": value, "low": value - 0.1, "high": value + 0.1, "interval": "bootstrap by group"}
        write_json(path, {**read_json(path), "metrics": {**read_json(path)["metrics"], "label_named": points}})
    return read_comparison([folder / name for name in values])


def test_other_metrics_are_a_column_each_with_every_seed_below_their_mean(tmp_path):
    comparison = with_points(tmp_path, {"carpe-seed1": 0.5, "carpe-seed2": 0.7, "levi-seed1": 0.25, "levi-seed2": 0.75})
    table = other_metrics(comparison, Look(comparison.variants))
    assert table.count("<tr>") == 3 and "classify label_named" in table
    for text in (">0.6<small>0.5, 0.7<", ">0.5<small>0.25, 0.75<", "the value of each training seed"):
        assert text in table


def test_other_metrics_of_one_seed_have_their_interval(tmp_path):
    comparison = with_points(tmp_path, {"carpe-seed1": 0.5, "levi-seed1": 0.25})
    table = other_metrics(comparison, Look(comparison.variants))
    assert ">0.5<small>0.4 to 0.6<" in table and "interval, drawn by group" in table
    assert other_metrics(by_hand(tmp_path / "plain", {"full": {"a": "10"}}), Look(["full"])) == ""
