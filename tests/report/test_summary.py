"""The numbers of a page against numbers made by hand."""

import shutil

import pytest

from tests.report.synthetic import write_comparison, write_evaluation
from yarbus.report.intervals import wilson
from yarbus.report.runs import read_comparison, read_run
from yarbus.report.summary import MEAN, percent, summarise


def rows(task: str, verdicts: str, group: str | None = None) -> list[dict]:
    """One line per character: 1 is right, 0 wrong, e failed."""
    return [
        {"sample_id": f"{task}{number}", "task": task, "group": group or str(number), "question": "q", "images": [],
         "reply": "r", "answer": "a", "is_correct": verdict == "1", "error": "broken" if verdict == "e" else None}
        for number, verdict in enumerate(verdicts)
    ]  # fmt: skip


def by_hand(folder, variants: dict[str, dict[str, str]]):
    """A comparison (side by side) of variants given as task -> verdicts."""
    for variant, tasks in variants.items():
        for task, verdicts in tasks.items():
            write_evaluation(folder / f"{variant}-seed0", task, rows(task, verdicts), 0.25)
    return read_comparison([folder / f"{variant}-seed0" for variant in variants])


def test_accuracy_and_mean_are_plain_fractions_and_a_failed_question_is_wrong(tmp_path):
    summary = summarise(
        by_hand(tmp_path, {"full": {"a": "1110", "b": "1e0000"}, "frozen": {"a": "1000", "b": "000000"}})
    )
    a, b = summary.lines
    assert (a.cells["full"].value, b.cells["full"].value) == (0.75, pytest.approx(1 / 6))
    assert (a.cells["full"].low, a.cells["full"].high) == (wilson(3, 4).low, wilson(3, 4).high)
    assert summary.mean.cells["full"].value == pytest.approx((0.75 + 1 / 6) / 2)
    assert summary.mean.chance == 0.25
    assert summary.num_errors == 1
    contrast = summary.contrast(MEAN, "frozen", "full")
    assert contrast.difference.mean == pytest.approx((0.5 + 1 / 6) / 2)


def test_difference_pairs_only_questions_that_both_answered(tmp_path):
    summary = summarise(by_hand(tmp_path, {"frozen": {"a": "00"}, "full": {"a": "0111"}}))
    assert summary.contrast("a", "frozen", "full").difference.mean == 0.5


def test_runs_without_a_common_seed_are_paired_by_question(tmp_path):
    write_evaluation(tmp_path / "frozen-seed0", "a", rows("a", "0000"), 0.25)
    write_evaluation(tmp_path / "full-seed1", "a", rows("a", "1110"), 0.25)
    write_evaluation(tmp_path / "full-seed2", "a", rows("a", "0110"), 0.25)
    summary = summarise(read_comparison([tmp_path / name for name in ("frozen-seed0", "full-seed1", "full-seed2")]))
    assert summary.contrast("a", "frozen", "full").difference.mean == pytest.approx(5 / 8)


def test_runs_without_a_common_question_are_not_compared(tmp_path):
    write_evaluation(tmp_path / "frozen-seed0", "a", rows("a", "0000"), 0.25)
    write_evaluation(tmp_path / "full-seed0", "a", rows("b", "1110"), 0.25)
    summary = summarise(read_comparison([tmp_path / name for name in ("frozen-seed0", "full-seed0")]))
    assert "frozen answered other questions" in summary.headline
    assert summary.contrasts == []


def test_headline_says_too_short_when_the_interval_includes_zero(tmp_path):
    summary = summarise(by_hand(tmp_path, {"frozen": {"a": "1100" * 10}, "full": {"a": "1101" + "1100" * 9}}))
    assert "full leads" in summary.headline
    assert "too short to separate full and frozen" in summary.headline
    assert summary.details[0] == "Against frozen: full is not separated, its difference includes 0."


def test_headline_does_not_say_too_short_when_the_interval_leaves_zero_out(tmp_path):
    summary = summarise(by_hand(tmp_path, {"frozen": {"a": "1000" * 10}, "full": {"a": "1110" * 10}}))
    assert "full is ahead with 75.0 %" in summary.headline
    assert "too short" not in summary.headline
    assert summary.details[0] == "Against frozen: full is better."


def test_equal_models_are_not_separated(tmp_path):
    summary = summarise(by_hand(tmp_path, {"frozen": {"a": "10"}, "full": {"a": "10"}}))
    assert "too short to separate frozen and full" in summary.headline


def test_questions_of_one_scene_are_drawn_together(tmp_path):
    for variant, verdicts in (("frozen", "0" * 40), ("full", "1" * 20 + "0" * 20)):
        for scene in range(2):
            part = verdicts[20 * scene : 20 * scene + 20]
            write_evaluation(
                tmp_path / f"{variant}-seed0", f"b{scene}", rows(f"b{scene}", part, group=str(scene)), None
            )
    summary = summarise(read_comparison([tmp_path / "frozen-seed0", tmp_path / "full-seed0"]))
    mean = summary.contrast(MEAN, "frozen", "full").difference
    assert mean.mean == 0.5
    assert (mean.low, mean.high) == (0.0, 1.0)


def test_a_file_with_several_tasks_has_one_line_for_each(tmp_path):
    mixed = rows("where", "110") + rows("what", "0000")
    write_evaluation(tmp_path, "file:test.json", mixed, None)
    summary = summarise(read_comparison(tmp_path))
    assert [line.task for line in summary.lines] == ["file:test.json · where", "file:test.json · what"]


def test_the_prefix_that_all_benchmarks_share_is_left_out(comparison_folder):
    assert [line.task for line in summarise(read_comparison(comparison_folder)).lines] == [
        "read", "locate", "exist", "colour", "caption",
    ]  # fmt: skip


def test_a_run_without_scores_is_named_as_unfinished_and_the_rest_is_shown(tmp_path):
    folder = write_comparison(tmp_path, num_scenes=5)
    shutil.rmtree(folder / "full-seed0" / "evaluation")
    shutil.rmtree(folder / "covft-dense-seed0" / "evaluation" / "final" / "tinyworld" / "caption@official")
    summary = summarise(read_comparison(folder))
    assert summary.unfinished == ["covft-dense, seed 0", "full, seed 0"]
    assert summary.lines[0].cells["full"] is None
    assert "4 tasks" in summary.headline


def test_a_single_training_seed_is_told(tmp_path, comparison_folder):
    once = summarise(by_hand(tmp_path, {"frozen": {"a": "10"}, "full": {"a": "10"}}))
    assert any("trained once" in sentence for sentence in once.details)
    assert not any("trained once" in sentence for sentence in summarise(read_comparison(comparison_folder)).details)


def test_nothing_evaluated_is_said_in_words(tmp_path):
    (tmp_path / "stages").mkdir()
    assert read_run(tmp_path).evaluations == []
    assert "No scores yet" in summarise(read_comparison(tmp_path)).headline


@pytest.mark.parametrize(
    ("fraction", "sign", "text"),
    [
        (0.7125, False, "71.2"),
        (0.021, True, "+2.1"),
        (-0.0213, True, "−2.1"),
        (-0.0001, True, "0.0"),
        (1, False, "100.0"),
    ],
)
def test_percent_has_one_decimal_and_no_signed_zero(fraction, sign, text):
    assert percent(fraction, sign) == text
