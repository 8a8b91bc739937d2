"""Accuracies by task."""

from tests.report.test_summary import rows
from yarbus.report.cells import Cell, Line, cell_of, mean_cell, sizes


def answers(*seeds: str) -> dict:
    return {("a", seed, row["sample_id"]): row for seed, verdicts in enumerate(seeds) for row in rows("a", verdicts)}


def test_seeds_are_averaged_and_every_question_counts_once():
    once, twice = cell_of(answers("1100"), "a"), cell_of(answers("1100", "1010"), "a")
    assert (once.value, twice.value) == (0.5, 0.5)
    assert (twice.num_questions, twice.num_seeds) == (4, 2)
    assert (once.low, once.high) == (twice.low, twice.high)


def test_a_task_that_was_not_asked_has_no_cell():
    assert cell_of(answers("1"), "b") is None


def test_tasks_weigh_the_same_in_the_mean():
    both = answers("1111") | {("b", 0, row["sample_id"]): row for row in rows("b", "0")}
    assert mean_cell(both, ["a", "b"]).value == 0.5


def test_sizes_are_told_once_from_the_smallest():
    cells = {"x": Cell(0.5, 0.0, 1.0, 9, 1), "y": Cell(0.5, 0.0, 1.0, 4, 1), "z": None}
    assert sizes([Line("a", None, cells), Line("b", None, cells)]) == [4, 9]
