"""The numbers of a page against numbers made by hand."""

import shutil

import pytest

from tests.report.synthetic import write_comparison, write_evaluation
from yarbus.report.cells import MEAN
from yarbus.report.intervals import wilson
from yarbus.report.runs import read_comparison
from yarbus.report.summary import summarise


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


def test_a_run_without_scores_is_named_as_unfinished_and_the_rest_is_shown(tmp_path):
    folder = write_comparison(tmp_path, num_scenes=5)
    shutil.rmtree(folder / "full-seed0" / "evaluation")
    shutil.rmtree(folder / "covft-dense-seed0" / "evaluation" / "final" / "tinyworld" / "caption@official")
    summary = summarise(read_comparison(folder))
    assert summary.unfinished == ["covft-dense, seed 0", "full, seed 0"]
    assert summary.lines[0].cells["full"] is None
    assert "4 tasks" in summary.headline
