"""Accuracies by task."""

from tests.report.test_summary import rows
from yarbus.report.cells import Cell, Line, cell_of, mean_cell, sizes
from yarbus.report.intervals import wilson


def answers(*seeds: str) -> dict:
    return {("a", seed, row["sample_id"]): row for seed, verdicts in enumerate(seeds) for row in rows("a", verdicts)}


def test_seeds_are_averaged_and_every_question_counts_once():
    once, twice = cell_of(answers("1100"), "a"), cell_of(answers("1100", "1010"), "a")
    assert (once.value, twice.value) == (0.5, 0.5)
    assert (twice.num_questions, twice.num_seeds) == (4, 2)
    assert (once.low, once.high) == (wilson(2, 4).low, wilson(2, 4).high)


def test_scenes_and_seeds_are_drawn_as_for_the_mean():
    apart = "".join("1" if number % 3 else "0" for number in range(60))
    one_by_one = cell_of(answers(apart), "a")
    by_scene = {key: {**row, "group": str(int(row["group"]) % 6)} for key, row in answers(apart).items()}
    found, mean = cell_of(by_scene, "a"), mean_cell(by_scene, ["a"])
    assert (found.low, found.high) == (mean.low, mean.high)
    assert found.high - found.low > 1.5 * (one_by_one.high - one_by_one.low)  # a scene is all right or all wrong
    seeds = answers("1" * 50 + "0" * 10, "0" * 50 + "1" * 10)
    found, mean = cell_of(seeds, "a"), mean_cell(seeds, ["a"])
    assert (found.low, found.high) == (mean.low, mean.high)
    assert found.low < wilson(30, 60).low  # luck of a seed is larger than that of a question


def test_what_is_all_right_or_all_wrong_counts_each_scene_once():
    some = {key: {**row, "group": str(int(row["group"]) // 2)} for key, row in answers("1" * 8, "1" * 8).items()}
    assert cell_of(some, "a").low == wilson(4, 4).low and cell_of(answers("00", "00"), "a").high == wilson(0, 2).high


def test_a_task_that_was_not_asked_has_no_cell():
    assert cell_of(answers("1"), "b") is None


def test_tasks_weigh_the_same_in_the_mean():
    both = answers("1111") | {("b", 0, row["sample_id"]): row for row in rows("b", "0")}
    assert mean_cell(both, ["a", "b"]).value == 0.5


def test_sizes_are_told_once_from_the_smallest():
    cells = {"x": Cell(0.5, 0.0, 1.0, 9, 1), "y": Cell(0.5, 0.0, 1.0, 4, 1), "z": None}
    assert sizes([Line("a", None, cells), Line("b", None, cells)]) == [4, 9]
