"""Tasks on which the order hangs are named."""

import pytest

from yarbus.report.cells import MEAN, Cell, Line
from yarbus.report.contrasts import Contrast
from yarbus.report.intervals import Difference
from yarbus.report.leave_out import hanging, leave_out

Scores = dict[str, dict[str, float]]


def lines_of(scores: Scores) -> list[Line]:
    return [
        Line(task, None, {name: Cell(value, 0.0, 1.0, 10, 1) for name, value in some.items()})
        for task, some in scores.items()
    ]


def contrasts_of(scores: Scores, clear: bool = True) -> list[Contrast]:
    """Differences to frozen as the scores have them; the mean's are clear of 0, or not."""
    found = []
    for name in next(iter(scores.values())):
        if name == "frozen":
            continue
        differences = {task: some[name] - some["frozen"] for task, some in scores.items()}
        mean = sum(differences.values()) / len(differences)
        found += [Contrast(task, "frozen", name, Difference(value, -1.0, 1.0)) for task, value in differences.items()]
        ends = (0.9 * mean, 1.1 * mean) if clear else (-1.0, 1.0)
        found.append(Contrast(MEAN, "frozen", name, Difference(mean, min(ends), max(ends))))
    return found


# The order of two variants hangs on "pairs" alone, as CoVFT's does on MMVP (methods.md 10.2).
ONE_DECIDES = {
    "pairs": {"frozen": 0.3, "cve": 0.5, "text": 0.3},
    "where": {"frozen": 0.5, "cve": 0.6, "text": 0.62},
    "count": {"frozen": 0.5, "cve": 0.6, "text": 0.62},
}


def test_the_mean_is_that_of_the_other_tasks_and_a_new_leader_is_named():
    lines, contrasts = lines_of(ONE_DECIDES), contrasts_of(ONE_DECIDES)
    found = {one.task: one for one in leave_out(lines, contrasts, "frozen")}
    assert found["pairs"].means == pytest.approx({"frozen": 0.5, "cve": 0.6, "text": 0.62})
    assert found["pairs"].leaders == ["text"] and found["pairs"].is_led_by_others
    assert found["where"].leaders == ["cve"] and not found["where"].is_led_by_others
    assert hanging(list(found.values()), contrasts, "frozen") == (
        "The order hangs on single tasks: without pairs text leads."
    )


def test_a_variant_whose_gain_is_one_task_changes_its_side_and_is_told_where_the_gain_is_clear():
    scores = {
        "a": {"frozen": 0.5, "vpt": 0.9, "full": 0.95},
        "b": {"frozen": 0.5, "vpt": 0.45, "full": 0.95},
        "c": {"frozen": 0.5, "vpt": 0.45, "full": 0.95},
    }
    lines = lines_of(scores)
    found = leave_out(lines, contrasts_of(scores), "frozen")
    assert [one.turned for one in found] == [["vpt"], [], []]
    assert hanging(found, contrasts_of(scores), "frozen") == (
        "The order hangs on single tasks: without a vpt changes its side of frozen."
    )
    chance = contrasts_of(scores, clear=False)
    assert hanging(leave_out(lines, chance, "frozen"), chance, "frozen") == (
        "No single task decides: the leader stays the same whichever is left out."
    )


def test_an_order_that_no_task_decides_is_said_to_be_one():
    scores = {task: {"frozen": 0.5, "full": 0.6} for task in "abc"}
    contrasts = contrasts_of(scores)
    assert hanging(leave_out(lines_of(scores), contrasts, "frozen"), contrasts, "frozen") == (
        "No single task decides: the leader stays the same whichever is left out, "
        "and none that is clear of frozen changes its side."
    )


def test_equal_variants_lead_together_and_neither_hangs_on_a_task():
    scores = {"a": {"x": 0.3, "y": 0.1}, "b": {"x": 0.1, "y": 0.3}, "c": {"x": 0.2, "y": 0.2}}
    found = leave_out(lines_of(scores), [], None)
    assert [one.leaders for one in found] == [["y"], ["x"], ["x", "y"]]
    assert not any(one.is_led_by_others for one in found)


def test_two_tasks_one_variant_or_no_score_make_no_table():
    two = {task: {"frozen": 0.5, "full": 0.6} for task in "ab"}
    alone = {task: {"full": 0.6} for task in "abc"}
    assert leave_out(lines_of(two), [], None) == leave_out(lines_of(alone), [], None) == leave_out([], [], None) == []
    assert hanging([], [], None) == ""


def test_a_task_that_some_variant_did_not_answer_takes_no_part():
    lines = [
        *lines_of(ONE_DECIDES),
        Line("late", None, {"frozen": None, "cve": Cell(1.0, 1.0, 1.0, 1, 1), "text": None}),
    ]
    assert [one.task for one in leave_out(lines, [], None)] == ["pairs", "where", "count"]
